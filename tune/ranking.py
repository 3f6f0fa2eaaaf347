"""What makes one trial better than another: the first objective, within the limits that the space sets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from tune.constraints import Constraint
from tune.objectives import error_of, score

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Ranking:
    """Order trials: those within all limits by the first objective, any trial beyond one after all of them.

    Even an oracle gains more at a loose error, so a gain means something at a bounded error only: that over the
    first objective's own periods, ``max_rel_dE``. A space may set further limits.
    """

    objectives: tuple[str, ...]
    max_rel_dE: float
    constraints: tuple[Constraint, ...] = ()

    @property
    def first(self) -> str:
        """The objective that picks the best."""
        return self.objectives[0]

    @property
    def error(self) -> str:
        """The energy error that is limited."""
        return error_of(self.first)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """The objectives' directions, as Optuna calls them."""
        return [score(name).direction for name in self.objectives]

    @cached_property
    def limits(self) -> dict[str, Constraint]:
        """All limits under the names that they have in the study, that of the energy error first."""
        error = Constraint(self.error, "<=", self.max_rel_dE)
        return {"max_rel_dE": error, **{str(constraint): constraint for constraint in self.constraints}}

    @property
    def limited(self) -> list[str]:
        """The scores that have a limit."""
        return list(dict.fromkeys(limit.name for limit in self.limits.values()))

    def missing(self, scores: Scores) -> str | None:
        """Return the first score without which a trial cannot be ranked, if it is NaN or not there."""
        needed = (*self.objectives, *self.limited)
        return next((key for key in needed if math.isnan(scores.get(key, math.nan))), None)

    def excesses(self, scores: Scores) -> dict[str, float]:
        """How far a trial is beyond each limit; at most 0 where it is kept. Optuna's constraints have this form."""
        return {name: limit.excess(scores) for name, limit in self.limits.items()}

    def excess(self, scores: Scores) -> float:
        """How far a trial is beyond its limits, all in all; at most 0 when it is within every one."""
        every = self.excesses(scores).values()
        return sum(one for one in every if one > 0) or max(every)

    def broken(self, scores: Scores) -> list[str]:
        """The limits that a trial is beyond, as text."""
        return [str(limit) for limit in self.limits.values() if limit.excess(scores) > 0]

    def value(self, scores: Scores) -> float:
        """The number that early stopping compares, in the first objective's direction and ordered as the table is.

        It is the objective within the limits. Beyond one, it is worse than any honest trial's by the excess, so that
        a trial cannot survive by a loose error; NaN where a score is.
        """
        if any(math.isnan(scores.get(name, math.nan)) for name in (self.first, *self.limited)):
            return math.nan
        objective = float(scores[self.first])
        about, excess = score(self.first), self.excess(scores)
        if about.direction == "maximize":
            return max(objective, about.worst) if excess <= 0 else about.worst - excess
        return min(objective, about.worst) if excess <= 0 else about.worst + excess

    def merit(self, scores: Scores) -> float:
        """The same number, more is better."""
        value = self.value(scores)
        return value if score(self.first).direction == "maximize" else -value

    def front(self, trials: Mapping[int, Scores]) -> set[int]:
        """Of trials by number, those within all limits that no other one within them is better than in everything."""
        within = [number for number, scores in trials.items() if self.excess(scores) <= 0]
        signs = [1.0 if direction == "maximize" else -1.0 for direction in self.directions]
        table = [[trials[number][name] for name in self.objectives] for number in within]
        values = np.array(table).reshape(-1, len(signs)) * signs
        return {
            number
            for number, own in zip(within, values, strict=True)
            if not ((values >= own).all(1) & (values > own).any(1)).any()
        }

    def __str__(self) -> str:
        """What a trial must keep."""
        return ", ".join(map(str, self.limits.values()))
