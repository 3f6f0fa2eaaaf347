"""What a few seeds say about a score: mean, spread, and whether one configuration is better than another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tune.objectives import SCORES, Score, parts

#: Standard errors of a difference beyond which one of two is clearly behind.
_CLEARLY = 2.0
#: Two-sided 95 % points of Student's t distribution for 1, 2, ... degrees of freedom; in between, the wider one.
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean(name: str, values: Sequence[float]) -> float:
    """The mean of a score: geometric for ratios and errors, as :class:`tune.objectives.Score` says."""
    about = SCORES.get(parts(name).base)
    if about is not None and about.log:
        return math.exp(_average([math.log(max(value, 1e-300)) for value in values]))
    return _average(values)


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; one value has none."""
    if len(values) < 2:
        return None
    centre = _average(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))


@dataclass(frozen=True)
class Sample:
    """A configuration's scores over seeds, on the scale where they are compared."""

    about: Score
    values: tuple[float, ...]

    @classmethod
    def of(cls, about: Score, scores: Sequence[float]) -> "Sample":
        """Take scores as they are."""
        return cls(about, tuple(about.comparable(score) for score in scores))

    @property
    def mean(self) -> float:
        """More is better."""
        return _average(self.values)

    def is_clearly_behind(self, leader: "Sample") -> bool:
        """Whether the means are more than two standard errors of their difference apart.

        A few seeds may agree by chance, and one has no spread: it is taken to be at least the score's `noise`.
        """
        spreads = [max(deviation(sample.values) or 0, sample.about.noise) for sample in (self, leader)]
        error = math.hypot(spreads[0] / len(self.values) ** 0.5, spreads[1] / len(leader.values) ** 0.5)
        return leader.mean - self.mean > _CLEARLY * error

    def is_better_than(self, other: "Sample") -> bool:
        """Whether Welch's 95 % interval of the difference of the means leaves out zero. One seed shows nothing."""
        if len(self.values) < 2 or len(other.values) < 2:
            return False
        squares = [(deviation(s.values) or 0) ** 2 / len(s.values) for s in (self, other)]
        difference = self.mean - other.mean
        if not sum(squares):
            return difference > 0
        freedom = sum(squares) ** 2 / sum(
            square**2 / (len(s.values) - 1) for square, s in zip(squares, (self, other), strict=True)
        )
        return difference > _STUDENT[min(max(int(freedom + 1e-9), 1), len(_STUDENT)) - 1] * math.sqrt(sum(squares))


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
