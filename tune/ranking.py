"""What makes one trial better than another: the first objective, within an energy error that the space allows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tune.objectives import error_of, score

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Ranking:
    """Order trials: those within ``max_rel_dE`` by the first objective, any trial above it after all of them.

    Even an oracle gains more at a loose error, so a gain means something at a bounded error only: that over the
    first objective's own periods.
    """

    objectives: tuple[str, ...]
    max_rel_dE: float

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

    def missing(self, scores: Scores) -> str | None:
        """Return the first score without which a trial cannot be ranked, if it is NaN or not there."""
        needed = (*self.objectives, self.error)
        return next((key for key in needed if math.isnan(scores.get(key, math.nan))), None)

    def excess(self, scores: Scores) -> float:
        """How far the energy error is above the limit: ln(rel_dE / max_rel_dE), at most 0 when it is within.

        Optuna's constraints have this form; an error without bound becomes a large number, which files can hold.
        """
        return math.log(min(max(scores[self.error], 1e-300), 1e300) / self.max_rel_dE)

    def value(self, scores: Scores) -> float:
        """The number that early stopping compares, in the first objective's direction and ordered as the table is.

        It is the objective within the limit. Above it, it is worse than any honest trial's by the excess, so that a
        trial cannot survive by a loose error; NaN where a score is.
        """
        objective, error = float(scores.get(self.first, math.nan)), scores[self.error]
        if math.isnan(objective) or math.isnan(error):
            return math.nan
        about, excess = score(self.first), self.excess(scores)
        if about.direction == "maximize":
            return max(objective, about.worst) if excess <= 0 else about.worst - excess
        return min(objective, about.worst) if excess <= 0 else about.worst + excess

    def merit(self, scores: Scores) -> float:
        """The same number, more is better."""
        value = self.value(scores)
        return value if score(self.first).direction == "maximize" else -value
