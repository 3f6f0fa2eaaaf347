"""Constraints on results as entries of a search space: `steps_per_orbit <= 400`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from core.errors import UserError, shorten
from tune.objectives import score

#: A score, `<=` or `>=`, and a number.
FORM = r"^\s*\w+\s*(<=|>=)\s*[-+0-9.eE]+\s*$"


@dataclass(frozen=True)
class Constraint:
    """A score that must not be above, or below, a limit."""

    name: str
    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a constraint. Raises UserError where it is none; whether there is such a score is not checked."""
        try:
            if re.match(FORM, text):
                name, sign, limit = re.split(r"(<=|>=)", text)
                if math.isfinite(float(limit)):
                    return cls(name.strip(), sign, float(limit))
        except ValueError:  # not a number
            pass
        raise UserError(
            f"The value of `constraints` has {shorten(repr(text))}, but must have a score, `<=` or `>=`, and a number, "
            "for example `steps_per_orbit <= 400`."
        )

    def check(self) -> None:
        """Raise UserError for a limit that the score, whose name is known, cannot be compared with."""
        if score(self.name).log and self.limit <= 0:
            raise UserError(f"The limit of `{self}` in `constraints` must be above 0, as {self.name} is.")

    def excess(self, scores: Mapping[str, float]) -> float:
        """How far a trial is beyond the limit, in terms of it; at most 0 where it is kept.

        It is a difference of logarithms for ratios and errors, as :class:`tune.objectives.Score` says, and a share
        of the limit for other scores. A score without bound becomes a large number, which files can hold.
        """
        about, value = score(self.name), scores[self.name]
        if about.log:
            beyond = math.log(min(max(value, 1e-300), 1e300) / self.limit)
        else:
            beyond = (min(max(value, -1e300), 1e300) - self.limit) / max(abs(self.limit), about.noise)
        return beyond if self.sign == "<=" else -beyond

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.limit:g}"
