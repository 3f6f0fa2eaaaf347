"""What a simulation will do: which systems, by which criterion, until when. All that can be refused is refused here."""

from typing import Any, NamedTuple

import torch

from core.checkpoint import Model, load_model, summary_of, train_ic
from core.config import Config
from core.errors import ConfigError
from core.initial_conditions import Systems, as_orbits, read_systems
from core.orbits import Orbits
from core.timestep import Criterion, Dynamical, Fixed
from run.flags import flag
from run.keys import MODEL_KEYS, NETWORK_KEYS, RunnerKeys
from run.outputs import check_name, check_output
from run.settings import Level, Settings, Situation

#: Keys of the systems that are drawn: they default to those of the model, and may differ from them.
SYSTEM_KEYS = frozenset(
    "num_orbits mass pos_scale vel_scale external_field_mass external_field_position e_min e_max a_min a_max "
    "energy_threshold".split()
)
#: What can end a simulation.
ENDS = ("Nperiod", "duration", "steps")


class Plan(NamedTuple):
    """A simulation that can be run: everything that could be refused has been checked."""

    config: Config
    own: RunnerKeys
    #: Those of ENDS that hold.
    ends: frozenset[str]
    model: Model | None
    #: Systems of a file; else they are the model's own (use_train_ic), else they are drawn.
    systems: Orbits | None
    situation: Situation

    @property
    def criterion(self) -> Criterion:
        """What proposes the steps."""
        if self.model is not None:
            return self.model.criterion
        return Fixed(self.config.dt) if self.config.dt > 0 else Dynamical(self.config.eps)

    @property
    def criterion_summary(self) -> str:
        """The same in words."""
        rule = ", reversible steps" if self.config.step_rule == "reversible" else ""
        if self.model is not None:
            return f"{summary_of(self.config)}{rule}"  # not the checkpoint's: other values may act here
        if self.config.dt > 0:
            return f"fixed dt {self.config.dt:g}"
        return f"dynamical criterion, eps {self.config.eps:g}{rule}"


def plan_simulation(settings: Settings, trained: Config | None = None) -> Plan:
    """Resolve and check a simulation; ``trained`` is the config of a training whose model it will get.

    Raises UserError for whatever cannot be honoured.
    """
    own = settings.runner_keys()
    model = None
    name = "that is trained here"
    if trained is not None:
        _refuse_model_path(settings)
        # The top of the file described the training, which has its own section too.
        settings = settings.without(MODEL_KEYS, Level.FILE)
    elif settings.value("model_path") is not None:
        model = load_model(settings.value("model_path"), _device(settings))
        trained, name = model.config, str(settings.value("model_path"))
    ends = choose_ends(settings)
    systems = _read(settings, trained)
    fixed: dict[str, Any] = {"seed": settings.value("seed") or 0, "bounds_relative": True}
    if systems is not None:
        fixed |= {"num_particles": systems.bodies, "dim": systems.dim, "num_orbits": systems.count, "mass": 1.0}
    config = _analytic(settings, fixed) if trained is None else _learned(settings, fixed, trained, name)
    situation = Situation(
        "simulate", config, own, systems is not None or own.use_train_ic, scored=False, by_model=trained is not None
    )
    if own.use_train_ic:
        _check_train_ic(settings, trained)
        if model is not None:
            train_ic(name, model)
    if systems is not None and systems.count > 1 and not own.multi_orbit_sim:
        raise ConfigError(
            f"{own.ic_path}: it holds {systems.count} systems; add --multi-orbit-sim, or give a file of one system."
        )
    if own.plot is not None:
        check_output(own.plot, ".png")
    if own.save_trajectory is not None:
        check_output(own.save_trajectory, ".npz")
    check_name(config.save_name)
    _ = config.torch_device  # refused here if there is none
    orbits = as_orbits(systems, config) if systems is not None else None
    if orbits is not None and "Nperiod" in ends and not torch.isfinite(orbits.period).all():
        raise ConfigError(f"{own.ic_path}: its systems have no unit of time (no energy); give --duration or --steps.")
    return Plan(config, own, ends, model, orbits, situation)


def _refuse_model_path(settings: Settings) -> None:
    if "model_path" in settings:
        raise settings.refusal("model_path", "has no place in the mode both, which simulates its own; remove it.")


def _device(settings: Settings) -> str:
    with settings.naming_source():
        return Config.from_mapping({"device": settings.value("device")}).torch_device.type


def choose_ends(settings: Settings) -> frozenset[str]:
    """Return which of ENDS hold: those given at the highest level, or else the default Nperiod.

    Several end a run together, whichever comes first.
    """
    given = {key: settings[key] for key in ENDS if key in settings}
    if "steps" in given and isinstance(given["steps"].value, int) and given["steps"].value <= 0:
        del given["steps"]
    if not given:
        return frozenset({"Nperiod"})
    highest = max(one.level for one in given.values())
    return frozenset(key for key, one in given.items() if one.level is highest)


def _read(settings: Settings, trained: Config | None) -> Systems | None:
    path = settings.runner_keys().ic_path
    if path is None:
        return None
    if settings.value("use_train_ic"):
        raise settings.refusal("use_train_ic", "and ic_path both name initial conditions; leave one of them out.")
    return read_given_systems(path, settings, trained=trained, many=settings.runner_keys().multi_orbit_sim)


def read_given_systems(path: str, settings: Settings, *, trained: Config | None = None, many: bool = True) -> Systems:
    """Read a file of initial conditions; bodies, dimensions and (of ``many``) their number are those given, if any."""
    wanted = {key: settings.value(key) if key in settings else None for key in ("num_particles", "dim", "num_orbits")}
    if trained is not None:
        wanted |= {"num_particles": trained.num_particles, "dim": trained.dim}
    count = wanted["num_orbits"] if many else None
    return read_systems(path, bodies=wanted["num_particles"], dim=wanted["dim"], count=count)


def _analytic(settings: Settings, fixed: dict[str, Any]) -> Config:
    """Resolve a simulation without a model."""
    config = settings.without(NETWORK_KEYS).config(**fixed)
    mode = config.integrator_mode
    if mode != "analytic":
        needs = "a model with history_len > 0" if mode == "history" else "a model"
        raise settings.refusal("integrator_mode", f"is {mode}, which needs {needs}; give --model-path.")
    for key in NETWORK_KEYS & settings.keys():
        if settings[key].level is not Level.FILE:
            raise settings.refusal(key, "acts on a simulation with --model-path only; leave it out.")
    if settings.value("use_train_ic"):
        raise settings.refusal("use_train_ic", "needs the model that was trained on them; give --model-path.")
    # A criterion that costs nothing is asked before every step; n_steps 10 saves evaluations of a network.
    return config if "n_steps" in settings else config.model_copy(update={"n_steps": 1})


def _learned(settings: Settings, fixed: dict[str, Any], trained: Config, name: str) -> Config:
    """Resolve a simulation by a model, which none of the settings may contradict."""
    own_mode = "history" if trained.history_len else "ml"
    given = settings.value("integrator_mode")
    if "integrator_mode" in settings and given != own_mode and given in ("analytic", "ml", "history"):
        raise settings.refusal(
            "integrator_mode",
            f"is {given}, but the model {name} has history_len {trained.history_len}, and its mode is {own_mode} "
            "(history needs history_len > 0); leave it out.",
        )
    inherited = {key: value for key, value in trained.to_dict().items() if key in MODEL_KEYS | SYSTEM_KEYS}
    inherited |= {"save_name": trained.save_name}
    config = settings.config(inherited, integrator_mode=own_mode, **fixed)
    for key in sorted(MODEL_KEYS & settings.keys()):
        value, held = getattr(config, key), getattr(trained, key)
        if value != held:
            raise ConfigError(
                f"{settings[key].source}The value of `{key}` is {value!r}, but the model {name} has {held!r}; leave "
                f"{flag(key) if settings[key].level is Level.FLAG else key} out."
            )
    return config


def _check_train_ic(settings: Settings, trained: Config | None) -> None:
    assert trained is not None
    count = settings.value("num_orbits") if "num_orbits" in settings else trained.num_orbits
    if isinstance(count, int) and count > trained.num_orbits:
        raise settings.refusal(
            "num_orbits", f"is {count}, but the model was trained on {trained.num_orbits} systems; give no more."
        )
