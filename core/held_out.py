"""Sets of systems that no training sees: the held-out sets of a search, and others to try a model on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from core.config import Config
from core.errors import ConfigError, nearest
from core.forces import Forces, State
from core.kepler import semi_major_axis
from core.orbits import Orbits, draw, forces_of, kepler_period, remove_centre

#: The keys of a config that describe systems.
SYSTEM_KEYS = (
    "num_particles dim mass pos_scale vel_scale softening external_field_mass external_field_position "
    "e_min e_max a_min a_max"
).split()

#: Number of systems, and a seed that no training uses (Config refuses seeds above 2^40). Validation scores
#: a search; test is used once, by the confirmation and for published numbers.
_DRAWS = {"validation": (32, 2**40 + 1), "test": (128, 2**40 + 2)}
_OTHER_DRAW = (32, 2**40 + 3)
#: The sets that searches rank and report by.
RANKING_SETS = frozenset(_DRAWS)

#: Sets with a name, as changes of the model's own systems. A flyby is hyperbolic, and is followed past its pericentre.
NAMED_SETS: dict[str, dict[str, Any]] = {
    "validation": {},
    "test": {},
    "circular": {"e_min": 0.0, "e_max": 0.3},
    "eccentric": {"e_min": 0.95, "e_max": 0.99},
    "wide": {"a_min": 80.0, "a_max": 120.0},
    "mass_ratio": {"mass": (1.0, 1e-3)},
    "three_body": {"num_particles": 3, "mass": 1.0},
    "test_particle": {"num_particles": 3, "mass": (1.0, 1.0, 0.0)},
    "flyby": {},
}
_FLYBY_ECCENTRICITY = (1.1, 2.0)
#: Keys that only orbits of two bodies are drawn by, and those of random systems.
_OF_TWO_BODIES, _OF_MORE = ("e_min", "e_max", "a_min", "a_max"), ("pos_scale", "vel_scale")


@dataclass(frozen=True)
class HeldOut:
    """A set of systems (float64, on the CPU), what describes them, and the periods that scores are taken over."""

    name: str
    config: Config
    orbits: Orbits
    periods: tuple[int, ...]

    def on(self, config: Config) -> tuple[State, Forces]:
        """Return the systems and what acts on them, on the device and in the dtype of ``config``."""
        state = self.orbits.state.map(lambda tensor: tensor.to(config.torch_device, config.torch_dtype))
        return state, forces_of(self.config.model_copy(update={"device": config.device, "dtype": config.dtype}))

    @property
    def unit(self) -> str:
        """The systems' own unit of time in words: a period where there are two bodies, else a crossing time."""
        return "period" if self.config.num_particles == 2 else "crossing time"

    def span(self, horizon: int) -> str:
        """Return so many units of time in words: "10 periods", "1 crossing time"."""
        return f"{horizon} {self.unit}" if horizon == 1 else f"{horizon} {self.unit}s"

    @property
    def is_kepler(self) -> bool:
        """Whether the systems are two point masses and nothing else."""
        return self.config.num_particles == 2 and not self.config.softening and not self.config.external_field_mass

    @property
    def identity(self) -> dict[str, Any]:
        """All that the systems depend on, for the name of a file that is kept."""
        values = self.config.to_dict()
        return {"set": self.name, "draw": _DRAWS.get(self.name, _OTHER_DRAW), **{k: values[k] for k in SYSTEM_KEYS}}


def held_out(config: Config, name: str = "validation", changes: dict[str, Any] | None = None) -> HeldOut:
    """Draw a named set of the systems that ``config`` describes, with ``changes`` to what describes them.

    Raises ConfigError for a name or a change that is none.
    """
    if name not in {*NAMED_SETS, "custom"}:
        raise ConfigError(f"The set `{name}` is unknown{nearest(name, list(NAMED_SETS)) or known_sets()}")
    systems = {key: value for key, value in config.to_dict().items() if key in SYSTEM_KEYS}
    named = NAMED_SETS.get(name, {}) | (changes or {})
    if "num_particles" in named and "mass" not in named and isinstance(systems["mass"], list):
        systems["mass"] = 1.0  # one for each body of the model's own systems
    _check_they_act(named, name, (systems | named)["num_particles"], changes or {})
    described = Config.from_mapping({**systems, **named, "device": "cpu", "dtype": "float64"})
    count, seed = _DRAWS.get(name, _OTHER_DRAW)
    generator = torch.Generator().manual_seed(seed)
    if name == "flyby":
        return HeldOut(name, described, _flybys(described, count, generator), (1,))
    return HeldOut(name, described, draw(described, count, generator), tuple(sorted(set(config.eval_periods))))


def _check_they_act(keys: Iterable[str], name: str, bodies: Any, changes: Mapping[str, Any]) -> None:
    """Raise ConfigError for keys, of the set itself or of ``changes`` to it, that these systems are not drawn by."""
    inert, systems = _OF_MORE if bodies == 2 else _OF_TWO_BODIES, f"systems of {bodies} bodies"
    if name == "flyby":
        low, high = _FLYBY_ECCENTRICITY
        inert, systems = (*_OF_MORE, "e_min", "e_max"), f"flybys, whose eccentricities are {low} to {high}"
    for key in keys:
        if key in inert and key in changes:
            raise ConfigError(f"The key `{key}` of --set does not act on {systems}; leave it out.")
        if key in inert:
            raise ConfigError(f"The set `{name}` is one of orbits, but these are {systems}; choose another set.")


def known_sets() -> str:
    """Say which names there are, as the end of a message."""
    return f"; there are {', '.join(NAMED_SETS)}, and key=value with the keys {', '.join(SYSTEM_KEYS)}."


def parse_changes(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Read ``--set``'s words: at most one name of a set, and ``key=value`` pairs with values as in JSON."""
    name, changes = None, {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            if name is not None:
                raise ConfigError(f"--set names two sets, {name} and {word}, but must name at most one.")
            name = word
            continue
        if key in changes:
            raise ConfigError(f"The key `{key}` is there twice in --set; remove one of the two.")
        if key not in SYSTEM_KEYS:
            raise ConfigError(f"The key `{key}` of --set is unknown{nearest(key, SYSTEM_KEYS) or known_sets()}")
        try:
            changes[key] = json.loads(text)
        except json.JSONDecodeError:
            raise ConfigError(
                f"The value of `{key}` in --set is {text}, but must be a number or a list such as [1,0.001]."
            ) from None
    return name or ("custom" if changes else "validation"), changes


def _flybys(config: Config, count: int, generator: torch.Generator) -> Orbits:
    """Hyperbolic two-body encounters, from half a unit of time 2 pi sqrt(|a|^3 / M) before their pericentre."""
    if config.num_particles != 2:
        raise ConfigError(f"The set `flyby` is of two bodies, but num_particles is {config.num_particles}.")
    uniform = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    low, high = _FLYBY_ECCENTRICITY
    axis = config.a_min + (config.a_max - config.a_min) * uniform[:, 0]
    eccentricity = low + (high - low) * uniform[:, 1]
    mass = torch.tensor(config.masses, dtype=torch.float64).expand(count, -1)
    total = mass.sum(-1)
    anomaly = torch.full_like(axis, -2.0)
    for _ in range(50):  # Kepler's equation, mean anomaly -pi: e sinh H - H = -pi
        error = eccentricity * anomaly.sinh() - anomaly + torch.pi
        anomaly = anomaly - error / (eccentricity * anomaly.cosh() - 1)
    minor = axis * (eccentricity**2 - 1).sqrt()
    rate = (total / axis**3).sqrt() / (eccentricity * anomaly.cosh() - 1)
    zero = torch.zeros_like(axis)
    separation = torch.stack([axis * (eccentricity - anomaly.cosh()), minor * anomaly.sinh(), zero][: config.dim], -1)
    velocity = torch.stack([-axis * rate * anomaly.sinh(), minor * rate * anomaly.cosh(), zero][: config.dim], -1)
    at_rest = torch.zeros_like(separation)
    position = remove_centre(torch.stack([at_rest, separation], -2), mass)
    state = forces_of(config).state(position, remove_centre(torch.stack([at_rest, velocity], -2), mass), mass)
    return Orbits(state, kepler_period(semi_major_axis(state).abs(), total))
