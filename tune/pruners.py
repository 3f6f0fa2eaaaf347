"""Early stopping as an entry of a search space: Optuna's pruners, with Optuna's own option names."""

from typing import Annotated, Any, Literal

import optuna
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Asha(BaseModel):
    """Asynchronous successive halving: a trial goes on if it is in the top 1/reduction_factor at its rung."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Literal["asha"] = "asha"
    min_resource: Annotated[int, Field(ge=1)] = Field(1, description="epochs before the first rung")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(4, description="one in so many goes on at a rung")
    min_early_stopping_rate: Annotated[int, Field(ge=0)] = Field(0, description="rungs left out at the start")
    bootstrap_count: Annotated[int, Field(ge=0)] = Field(0, description="trials a rung needs before one goes on")

    @property
    def first_rung(self) -> int:
        """The epoch at which the first trials are stopped."""
        return int(self.min_resource * self.reduction_factor**self.min_early_stopping_rate)

    def build(self) -> optuna.pruners.BasePruner:
        """Make the pruner."""
        return optuna.pruners.SuccessiveHalvingPruner(**self.model_dump(exclude={"name"}))


class NoStopping(BaseModel):
    """Every trial runs to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Literal["none"]

    def build(self) -> optuna.pruners.BasePruner:
        """Make the pruner."""
        return optuna.pruners.NopPruner()


def _bare_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Scheduler = Annotated[Asha | NoStopping, Field(discriminator="name"), BeforeValidator(_bare_name)]
