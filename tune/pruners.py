"""Early stopping as an entry of a search space: Optuna's pruners, with Optuna's own option names."""

import binascii
from itertools import accumulate
from typing import Annotated, Any, Literal, NamedTuple

import optuna
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Factor = Annotated[int, Field(ge=2)]


class FirstStop(NamedTuple):
    """When trials are stopped first."""

    epoch: int
    #: The option that sets it, and how.
    key: str
    what: str


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def build(self, epochs: int, seed: int) -> optuna.pruners.BasePruner:
        """Make the pruner of a search: for trials of so many epochs, and with the search's seed."""
        return NopPruner()

    def first_stop(self) -> FirstStop | None:
        """When the first trials are stopped, if any ever is."""
        return None


class Asha(_Entry):
    """Asynchronous successive halving: a trial goes on if it is in the top 1/reduction_factor at its rung."""

    name: Literal["asha"] = "asha"
    min_resource: Count = Field(1, description="epochs before the first rung")
    reduction_factor: Factor = Field(4, description="one in so many goes on at a rung")
    min_early_stopping_rate: CountOrZero = Field(0, description="rungs left out at the start")
    bootstrap_count: CountOrZero = Field(0, description="trials a rung needs before one goes on")

    def build(self, epochs: int, seed: int) -> optuna.pruners.BasePruner:
        """Make the pruner."""
        return SuccessiveHalvingPruner(**self.model_dump(exclude={"name"}))

    def first_stop(self) -> FirstStop:
        """The first rung."""
        rung = self.min_resource * self.reduction_factor**self.min_early_stopping_rate
        what = f"the first rung (min_resource * reduction_factor ** min_early_stopping_rate = {rung})"
        return FirstStop(rung, "min_resource", what)


class Hyperband(_Entry):
    """Successive halving in several brackets at once: the more a bracket begins with, the earlier it stops them."""

    name: Literal["hyperband"]
    min_resource: Count = Field(1, description="epochs before the first rung of the strictest bracket")
    max_resource: Annotated[int, Field(ge=2)] | Literal["auto"] = Field(
        "auto", description="the largest number of epochs; auto is a trial's `epochs`"
    )
    reduction_factor: Factor = Field(3, description="one in so many goes on at a rung")
    bootstrap_count: CountOrZero = Field(0, description="trials a rung needs before one goes on")

    def build(self, epochs: int, seed: int) -> optuna.pruners.BasePruner:
        """Make the pruner."""
        longest = epochs if self.max_resource == "auto" else self.max_resource
        return _SeededHyperband(
            seed, **{**self.model_dump(exclude={"name"}), "max_resource": max(longest, self.min_resource)}
        )

    def first_stop(self) -> FirstStop:
        """The first rung of the strictest bracket."""
        return FirstStop(self.min_resource, "min_resource", "it")


class _SeededHyperband(HyperbandPruner):
    """Optuna's, in which a trial's bracket depends on the search's seed and not on its name, which has the date.

    It asks :class:`tune.first_objective.FirstObjective`, not a study.
    """

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self._seed = seed
        self._try_initialization(None)  # type: ignore[arg-type]  # it looks at a study only for max_resource auto

    def prune(self, study: Any, trial: FrozenTrial) -> bool:
        """Ask successive halving among the trials of the same bracket."""
        bracket = self._bracket(trial)
        return self._pruners[bracket].prune(study.only(lambda other: self._bracket(other) == bracket), trial)

    def _bracket(self, trial: FrozenTrial) -> int:
        place = binascii.crc32(f"{self._seed}_{trial.number}".encode()) % self._total_trial_allocation_budget
        ends = accumulate(self._trial_allocation_budgets)
        return next(bracket for bracket, end in enumerate(ends) if place < end)


class Median(_Entry):
    """A trial is stopped if its best score so far is worse than the median of what the finished ones had there."""

    name: Literal["median"]
    n_startup_trials: CountOrZero = Field(5, description="trials that must have run to their end first")
    n_warmup_steps: CountOrZero = Field(0, description="epochs before which none is stopped")
    interval_steps: Count = Field(1, description="epochs between two decisions, at least")
    n_min_trials: Count = Field(1, description="finished trials that must have a score at that epoch")

    def build(self, epochs: int, seed: int) -> optuna.pruners.BasePruner:
        """Make the pruner."""
        return MedianPruner(**self.model_dump(exclude={"name"}))

    def first_stop(self) -> FirstStop:
        """The end of the warm-up."""
        return FirstStop(self.n_warmup_steps, "n_warmup_steps", "it")


class PopulationBased(_Entry):
    """Population-based training: instead of being stopped, the worst go on with what the best have learned.

    It stands alone: it changes the parameters itself, and so allows no sampler beside it.
    """

    name: Literal["pbt"]
    perturbation_interval: Count = Field(description="epochs between two decisions about a trial")
    quantile_fraction: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.25, description="the worst share takes over from the best share"
    )
    resample_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="of a parameter to be drawn anew, and not to be moved by a fifth"
    )

    def first_stop(self) -> FirstStop:
        """The first decision."""
        return FirstStop(self.perturbation_interval, "perturbation_interval", "it")


class NoStopping(_Entry):
    """Every trial runs to its end."""

    name: Literal["none"]


def _bare_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Scheduler = Annotated[
    Asha | Hyperband | Median | PopulationBased | NoStopping, Field(discriminator="name"), BeforeValidator(_bare_name)
]
