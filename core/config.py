"""Every setting of a training and of a simulation: one frozen model, each field with its sentence.

The file is the reference for the keys; `shared` defaults, TOML files, search spaces and the
runner's flags all end here. A key or value that cannot be honoured is refused, never ignored.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import ConfigError, nearest, shorten

Count = Annotated[int, Field(ge=1)]
#: Nobody waits for more periods of a score.
MOST_PERIODS = 1_000_000
Periods = Annotated[int, Field(ge=1, le=MOST_PERIODS)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Eccentricity = Annotated[float, Field(ge=0, lt=1)]
FeatureType = Literal["basic", "rich", "delta_mag"]
StepRule = Literal["direct", "reversible"]


class Config(BaseModel):
    """The settings of one training, G = 1 throughout.

    Fields left at ``None`` that have a dependent default (``feature_type``, ``E_lower``,
    ``E_upper``) are resolved on construction, so that a config always says what will happen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # training
    optimizer: Literal["adam", "adamw", "sgd", "lbfgs"] = Field("adam", description="optimizer of the weights")
    epochs: Count = Field(1000, description="training epochs (phase 1 + phase 2)")
    lr: Positive = Field(1e-4, description="learning rate")
    weight_decay: NonNegative = Field(1e-2, description="weight decay, as the optimizer defines it")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of sgd")
    n_steps: Count = Field(10, description="leapfrog steps of one dt between two energy checks")
    dt_bound: Positive = Field(1e-8, description="smallest dt the network may propose")
    rel_loss_bound: NonNegative = Field(
        1e-5, description="phase 2 counts as stalled when its loss improves by less than this share"
    )
    energy_threshold: Positive = Field(2e-4, description="a step is accepted if its rel_dE is below this")
    steps_per_epoch: Count = Field(1, description="accepted steps per orbit and epoch")
    max_retrain_steps: CountOrZero = Field(1000, description="gradient steps on one rejected state, 0 = no cap")
    replay_steps: CountOrZero = Field(1000, description="most phase 2 updates of an epoch")
    replay_batch_size: Count = Field(512, description="minibatch of phase 2")
    min_replay_size: Count = Field(2, description="fewer samples than this: phase 2 does not run")
    replay_capacity: Count = Field(10000, description="most samples the replay buffer keeps, oldest go first")
    timid_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="share of samples below E_lower that a converged buffer may hold"
    )
    keep_checkpoints: Count = Field(3, description="newest checkpoints kept, beside the best")
    # loss band
    E_lower: Positive | None = Field(None, description="lower end of the loss band of rel_dE")
    E_upper: Positive | None = Field(None, description="upper end of the loss band of rel_dE")
    bounds_relative: bool = Field(False, description="E_lower and E_upper are multiples of energy_threshold")
    L_lower: Positive = Field(1e-4, description="lower end of the loss band of rel_dL")
    L_upper: Positive = Field(1e-2, description="upper end of the loss band of rel_dL")
    angular_momentum_weight: NonNegative = Field(0.0, description="weight of the band loss of rel_dL")
    # network
    hidden_dims: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        (200, 1000, 1000, 200), description="hidden layers"
    )
    activation: Literal["tanh", "relu", "silu"] = Field("tanh", description="activation of the hidden layers")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="dropout, in gradient passes only")
    dt_scale: Literal["unit", "pair"] = Field("unit", description="what the network's output is a multiple of")
    fourier_scale: Finite = Field(-1.0, description="scale of random Fourier features; <= 0 is off")
    fourier_dim: Count = Field(256, description="number of random Fourier frequencies")
    normalize_inputs: bool = Field(False, description="divide inputs by the training set's L, V, A, T")
    # features and history
    history_len: CountOrZero = Field(0, description="past states in the input")
    feature_type: FeatureType | None = Field(None, description="delta_mag, or basic when history_len is 0")
    history_warmup: Literal["zeros", "analytic"] = Field(
        "zeros", description="the first history_len steps: a past of zeros, or steps of the dynamical criterion"
    )
    # simulation
    integrator_mode: Literal["analytic", "ml", "history"] = Field("analytic", description="what proposes the steps")
    dt: Finite = Field(-1.0, description="fixed step of analytic mode; <= 0 means the dynamical criterion")
    steps: int = Field(-1, description="steps to simulate; <= 0 means no such limit")
    duration: Positive | None = Field(
        None, description="simulate: stop at this time; train: wall-clock limit in seconds"
    )
    step_rule: StepRule = Field("direct", description="how a proposed step becomes a taken one: direct, reversible")
    model_path: str | None = Field(None, description="checkpoint")
    eps: Positive = Field(0.1, description="constant of the dynamical criterion")
    Nperiod: Positive = Field(10, description="periods to simulate (bound two-body systems)")
    # system
    num_particles: Annotated[int, Field(ge=2)] = Field(2, description="bodies")
    dim: Literal[2, 3] = Field(2, description="dimensions")
    mass: NonNegative | tuple[NonNegative, ...] = Field(1.0, description="particle mass, one number or one per body")
    pos_scale: Positive = Field(0.1, description="position scale of random initial conditions")
    vel_scale: Positive = Field(1.0, description="velocity scale of random initial conditions")
    softening: NonNegative = Field(0.0, description="Plummer softening length")
    external_field_mass: Positive | None = Field(
        None, description="mass of an external point mass; its tide acts, in the frame that falls with the origin"
    )
    external_field_position: tuple[Finite, ...] | None = Field(None, description="its position, dim numbers")
    # orbits
    num_orbits: Count = Field(8, description="systems trained together")
    stop_at_period: bool = Field(False, description="an orbit's collection ends with its period")
    e_min: Eccentricity = Field(0.6, description="smallest eccentricity")
    e_max: Eccentricity = Field(0.95, description="largest eccentricity")
    a_min: Positive = Field(0.8, description="smallest semi-major axis")
    a_max: Positive = Field(1.2, description="largest semi-major axis")
    eval_periods: Annotated[tuple[Periods, ...], Field(min_length=1)] = Field(
        (10, 100), description="periods of the scores"
    )
    evaluate_every: CountOrZero = Field(0, description="epochs between two evaluations, 0 = at the end")
    # device
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the tensors live")
    dtype: Literal["float32", "float64", "mixed"] = Field(
        "float64", description="precision of states and weights; mixed: float64 states, float32 weights"
    )
    tf32: bool = Field(False, description="matrix products of float32 may use TF32")
    compile: bool = Field(False, description="compile the physics of a training step (torch.compile)")
    detect_anomaly: bool = Field(False, description="stop at the first number that is not finite, and say where")
    # Larger seeds belong to the held-out orbits (core/evaluation.py): no training may see those.
    seed: Annotated[int, Field(ge=0, le=2**40)] | None = Field(None, description="random seed; None draws one")
    # logging
    save_name: str | None = Field(None, description="outputs go to data/<save_name>/")
    debug: bool = Field(False, description="extra log lines")
    debug_every: Count = Field(1, description="epochs between two debug lines")
    debug_replay_every: Count = Field(10, description="replay iterations between two debug lines")
    # movie
    movie: bool = Field(False, description="make an MP4 of the run")
    movie_dir: str = Field("data/movie", description="folder of movies")
    movie_max_frames: Count = Field(1000, description="most frames of a movie")
    movie_fps: Count = Field(30, description="frames per second")
    movie_dpi: Count = Field(120, description="resolution, dots per inch")

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return values

    @model_validator(mode="after")
    def _resolve_and_check(self) -> Self:
        if self.feature_type is None:
            self._set("feature_type", "delta_mag" if self.history_len else "basic")
        if self.feature_type == "delta_mag" and self.history_len == 0:
            raise ValueError(
                "The value of `history_len` is 0, but feature_type delta_mag needs history_len >= 1 (it describes "
                "transitions between states); set history_len or choose basic or rich."
            )
        lower, upper = (0.05, 0.5) if self.bounds_relative else (1e-6, 1e-4)
        if self.E_lower is None:
            self._set("E_lower", lower)
        if self.E_upper is None:
            self._set("E_upper", upper)
        low, high = self.energy_band
        if not low < high:
            raise ValueError(f"The value of `E_lower` is {self.E_lower}, but must be < E_upper ({self.E_upper}).")
        if not self.L_lower < self.L_upper:
            raise ValueError(f"The value of `L_lower` is {self.L_lower}, but must be < L_upper ({self.L_upper}).")
        if high > self.energy_threshold:
            limit = "1 (bounds_relative)" if self.bounds_relative else f"energy_threshold ({self.energy_threshold})"
            share = "" if self.bounds_relative else " Where it is a share of energy_threshold, set bounds_relative."
            raise ValueError(
                f"The value of `E_upper` is {self.E_upper}, but must be <= {limit}: between them a rejected step "
                f"would have no gradient.{share}"
            )
        for smallest, largest in (("e_min", "e_max"), ("a_min", "a_max")):
            if getattr(self, smallest) > getattr(self, largest):
                raise ValueError(
                    f"The value of `{smallest}` is {getattr(self, smallest)}, but must be <= {largest} "
                    f"({getattr(self, largest)})."
                )
        self._check_system()
        return self

    def _check_system(self) -> None:
        masses = self.mass if isinstance(self.mass, tuple) else (self.mass,) * self.num_particles
        if len(masses) != self.num_particles:
            raise ValueError(
                f"The value of `mass` has {len(masses)} numbers, but must be one number or num_particles "
                f"({self.num_particles})."
            )
        if not math.isfinite(sum(masses)):
            raise ValueError(f"The value of `mass` is {self.mass}, but the masses must have a finite sum.")
        if sum(masses) <= 0:
            raise ValueError(f"The value of `mass` is {self.mass}, but the masses must have a positive sum.")
        if sum(mass > 0 for mass in masses) < 2 and self.external_field_mass is None:
            raise ValueError(
                f"The value of `mass` is {self.mass}, but at least two bodies must have mass, or an external field "
                "must act: the energy would be zero, and its relative error nothing."
            )
        position = self.external_field_position
        if (position is None) != (self.external_field_mass is None):
            raise ValueError("`external_field_mass` and `external_field_position` must be given together.")
        if position is not None and (len(position) != self.dim or not any(position)):
            raise ValueError(
                f"The value of `external_field_position` is {list(position)}, but must be {self.dim} numbers (dim), "
                "not all zero."
            )
        if self.stop_at_period and self.num_particles != 2:
            raise ValueError(
                f"The value of `stop_at_period` is true, but num_particles is {self.num_particles}: only a "
                "two-body orbit has a period."
            )

    def _set(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)  # the model is frozen to everybody else

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "") -> "Config":
        """Build a config; ``source`` (a file name) opens the message of a :class:`ConfigError`."""
        prefix = f"{source}: " if source else ""
        known = list(cls.model_fields)
        for key in values:
            if key not in known:
                raise ConfigError(f"{prefix}The key `{key}` is unknown{nearest(key, known)}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(prefix + one_line(error)) from None

    @property
    def energy_band(self) -> tuple[float, float]:
        """The loss band of rel_dE as absolute numbers."""
        assert self.E_lower is not None
        assert self.E_upper is not None
        scale = self.energy_threshold if self.bounds_relative else 1.0
        return self.E_lower * scale, self.E_upper * scale

    @property
    def masses(self) -> tuple[float, ...]:
        """One mass per body."""
        return self.mass if isinstance(self.mass, tuple) else (self.mass,) * self.num_particles

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of states, energies and all that is computed with them."""
        return torch.float32 if self.dtype == "float32" else torch.float64

    @property
    def weights_dtype(self) -> torch.dtype:
        """The torch dtype of the network: its weights, what is between its layers, its optimizer."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def torch_device(self) -> torch.device:
        """The device asked for; ``auto`` is cuda where there is one. Raises ConfigError without the one asked for."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("The value of `device` is cuda, but torch sees no CUDA device here; use auto or cpu.")
        name = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)

    def to_dict(self) -> dict[str, Any]:
        """A flat dict of plain values (lists, not tuples), as checkpoints and files hold it."""
        values = self.model_dump()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def one_line(error: ValidationError) -> str:
    """Put the first problem of a pydantic error into the form "The value of `key` is x, but must be y."."""
    # Of a union's problems the deepest says most: a list of masses is wrong at one of its items.
    first = max(error.errors(include_url=False), key=lambda problem: len(problem["loc"]))
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    location = [str(part) for part in first["loc"] if not str(part).startswith(("function-", "tuple", "constrained"))]
    rule = first["msg"].replace("Input should be", "must be", 1).replace("Tuple should have", "must have", 1)
    rule = rule.partition(" after validation")[0]
    if first["type"] in ("missing", "extra_forbidden"):
        return f"The key `{'.'.join(location)}` is {'missing' if first['type'] == 'missing' else 'unknown'}."
    given = list(first["input"]) if isinstance(first["input"], tuple) else first["input"]
    what = f"The value of `{'.'.join(location)}` is"
    if len(location) > 1 and location[-1].isdigit():
        what = f"Number {int(location[-1]) + 1} of the values of `{'.'.join(location[:-1])}` is"
    return f"{what} {'empty' if given in (None, '') else shorten(repr(given))}, but {rule}."
