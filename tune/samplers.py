"""Samplers as entries of a search space: Optuna's, with Optuna's own option names.

Each is made anew for every trial, so all that it knows is in the study (`tune/optuna_samplers.py` has those of which
Optuna's own would not be).
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import optuna
from optuna.distributions import BaseDistribution
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Asking:
    """What a sampler is made for."""

    #: The trial's number in the study.
    number: int
    #: A seed of this trial alone.
    seed: int
    #: A seed that all trials of the search share.
    search_seed: int
    #: Optuna's parameters, also those that this trial may not have.
    distributions: Mapping[str, BaseDistribution]


class _Entry(BaseModel, ABC):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    #: Whether it can choose for several objectives.
    several: ClassVar[bool] = True
    #: Whether it models only the parameters that every trial has; the others are drawn at random.
    common_only: ClassVar[bool] = False
    #: Whether it models numbers only; choices are drawn at random.
    numbers_only: ClassVar[bool] = False

    def build(self, asking: Asking) -> optuna.samplers.BaseSampler:
        """Make the sampler for a trial."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self._build(asking, self.model_dump(exclude={"name"}))

    @abstractmethod
    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        """Make it, with the options of Optuna's."""


class TPE(_Entry):
    """Tree-structured Parzen estimator.

    It is multivariate over groups, because a conditional parameter has a name for each of its ranges: without
    `group` such names drop out of the joint search space. `constant_liar` counts running trials as bad ones, so that
    trials that run side by side do not all try the same place.
    """

    name: Literal["tpe"] = "tpe"
    n_startup_trials: Count = Field(10, description="random trials before the first model")
    n_ei_candidates: Count = Field(24, description="candidates drawn for each proposal")
    multivariate: bool = Field(True, description="model parameters jointly")
    group: bool = Field(True, description="one joint model for each set of parameters that occur together")
    constant_liar: bool = Field(True, description="count running trials as bad ones")

    @model_validator(mode="after")
    def _group_is_multivariate(self) -> Self:
        if self.group and not self.multivariate:
            raise ValueError("The value of `group` is true, but multivariate is false; set group: false too.")
        return self

    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=asking.seed, **options)


class GP(_Entry):
    """Gaussian process. It models the parameters that every trial has, and learns from trials that ran to their end."""

    common_only = True

    name: Literal["gp"]
    n_startup_trials: Count = Field(10, description="random trials before the first model")
    deterministic_objective: bool = Field(False, description="take scores as free of noise")

    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        return optuna.samplers.GPSampler(seed=asking.seed, warn_independent_sampling=False, **options)


class CMAES(_Entry):
    """Evolution of a covariance matrix, of the numbers that every trial has: choices are drawn at random.

    It knows one objective. A trial beyond a limit on results counts as worse than any within, by its excess.
    """

    several = False
    common_only = True
    numbers_only = True

    name: Literal["cmaes"]
    n_startup_trials: Count = Field(1, description="random trials before the first generation")
    popsize: Annotated[int, Field(ge=4)] | None = Field(None, description="trials of a generation; by dimensions")
    consider_pruned_trials: bool = Field(False, description="learn from stopped trials, too, by their last score")
    use_separable_cma: bool = Field(False, description="a diagonal covariance matrix")
    lr_adapt: bool = Field(False, description="adapt the learning rate, for noisy or rugged objectives")

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.use_separable_cma and self.lr_adapt:
            raise ValueError("The keys `use_separable_cma` and `lr_adapt` are both true; leave one of the two out.")
        return self

    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        from tune.optuna_samplers import ReplayedCmaEs

        return ReplayedCmaEs(seed=asking.seed, warn_independent_sampling=False, **options)


class NSGA2(_Entry):
    """Genetic algorithm NSGA-II. It crosses the parameters that every trial has; its parents ran to their end."""

    common_only = True

    name: Literal["nsga2"]
    population_size: Annotated[int, Field(ge=2)] = Field(50, description="trials of a generation that end well")
    mutation_prob: Share | None = Field(None, description="of a parameter; 1 / their number if left out")
    crossover_prob: Share = Field(0.9, description="of a child to have two parents")
    swapping_prob: Share = Field(0.5, description="of a parameter to come from the second parent")

    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        return optuna.samplers.NSGAIISampler(seed=asking.seed, **options)


class RandomSearch(_Entry):
    """Independent random draws."""

    name: Literal["random"]

    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        return optuna.samplers.RandomSampler(seed=asking.seed)


class QMC(_Entry):
    """A quasi-random sequence, which fills the space evenly: a trial takes the point of its number."""

    name: Literal["qmc"]
    qmc_type: Literal["sobol", "halton"] = Field("sobol", description="which sequence")
    scramble: bool = Field(True, description="scramble it by the seed; without, every seed gives the same")

    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        from tune.optuna_samplers import NumberedQMC

        return NumberedQMC(asking, **options)


class Grid(_Entry):
    """Every configuration of the space once, in an order that depends on the seed; then the search ends."""

    name: Literal["grid"]

    def _build(self, asking: Asking, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        # Its trials are made of cells of the grid (`tune.study`); what is left to draw is a parameter in vain.
        return optuna.samplers.RandomSampler(seed=asking.seed)


def _bare_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Sampler = Annotated[
    TPE | GP | CMAES | NSGA2 | RandomSearch | QMC | Grid, Field(discriminator="name"), BeforeValidator(_bare_name)
]
