"""Optuna's samplers as entries of a search space, with Optuna's own option names."""

import warnings
from typing import Annotated, Any, Literal, Self

import optuna
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]


class TPE(BaseModel):
    """Tree-structured Parzen estimator.

    It is multivariate over groups, because a conditional parameter has a name for each of its ranges: without
    `group` such names drop out of the joint search space. `constant_liar` counts running trials as bad ones, so that
    trials that run side by side do not all try the same place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

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

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        """Make the sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, **self.model_dump(exclude={"name"}))


class RandomSearch(BaseModel):
    """Independent random draws."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Literal["random"]

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        """Make the sampler."""
        return optuna.samplers.RandomSampler(seed=seed)


def _bare_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Sampler = Annotated[TPE | RandomSearch, Field(discriminator="name"), BeforeValidator(_bare_name)]
