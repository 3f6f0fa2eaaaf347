"""What makes one trial better than another: the objective, within an energy error that the space allows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Ranking:
    """Order trials: those within ``max_rel_dE`` by the objective, any trial above it after all of them.

    Even an oracle gains more at a loose error, so a gain means something at a bounded error only.
    """

    objective: str
    max_rel_dE: float

    def excess(self, scores: Scores) -> float:
        """How far the energy error is above the limit: ln(rel_dE / max_rel_dE), at most 0 when it is within.

        Optuna's constraints have this form; an error without bound becomes a large number, which files can hold.
        """
        return math.log(min(max(scores["rel_dE"], 1e-300), 1e300) / self.max_rel_dE)

    def value(self, scores: Scores) -> float:
        """The number that early stopping compares, ordered as the table is.

        It is the objective (never negative) within the limit, and minus the excess (negative) above it, so that a
        trial cannot survive by a loose error; NaN where a score is.
        """
        objective = float(scores[self.objective])
        if math.isnan(objective) or math.isnan(scores["rel_dE"]):
            return math.nan
        excess = self.excess(scores)
        return objective if excess <= 0 else -excess
