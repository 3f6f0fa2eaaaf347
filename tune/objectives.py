"""The scores that a search can rank its trials by: which way is better, and on which scale they are compared."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from core.errors import UserError, nearest

#: Numbers below are the same to a comparison of logarithms.
_LEAST = 1e-12


@dataclass(frozen=True)
class Score:
    """What is to be known about a score, to compare trials by it."""

    direction: Literal["maximize", "minimize"]
    #: No honest trial is beyond this; those above the energy error's limit are.
    worst: float
    #: Standard deviation over seeds that is assumed at least, in ln(score) where ``log``.
    noise: float
    style: str
    meaning: str
    #: Ratios and errors are compared, and averaged, by their logarithms.
    log: bool = False
    #: Whether it is taken over periods, and so over each of `eval_periods`.
    over_periods: bool = True

    def comparable(self, value: float) -> float:
        """The score on the scale of comparisons, where more is better."""
        scaled = math.log(max(value, _LEAST)) if self.log else value
        return scaled if self.direction == "maximize" else -scaled


#: Definitions: core/scores.py.
SCORES = {
    "work_gain": Score("maximize", 0, 0.05, ".3f", "work at equal error, over the dynamical criterion", log=True),
    "work_gain_prs23": Score("maximize", 0, 0.05, ".3f", "work at equal error, over PRS23", log=True),
    "oracle_share": Score("maximize", -100, 0.05, ".2f", "how far from PRS23 to the oracle"),
    "rel_dE": Score("minimize", 1e3, 0.3, ".1e", "median energy error", log=True),
    "steps_per_orbit": Score("minimize", 1e5, 0.05, ".0f", "force evaluations per period", log=True),
    "energy_drift": Score("minimize", 1e3, 1e-5, ".1e", "slope of the energy error, per period"),
    "phase_error": Score("minimize", 1e3, 0.3, ".1e", "distance from the exact orbit at the end", log=True),
    "violations": Score("minimize", 1, 0.005, ".2%", "share of steps above energy_threshold"),
    "fallbacks": Score("minimize", 1, 0.005, ".2%", "share of steps that leave the reversible rule"),
    "failed_orbits": Score("minimize", 1e3, 1, ".0f", "orbits that failed"),
    "convergence_rate": Score("maximize", 0, 0.05, ".2f", "share of epochs that converged", over_periods=False),
}


class Named(NamedTuple):
    """The name of a score in parts: ``work_gain_100`` is work_gain over ``_100``."""

    base: str
    suffix: str


def parts(name: str) -> Named:
    """Take the horizon off the name of a score."""
    matched = re.fullmatch(r"(.+?)(_\d+)?", name, re.DOTALL)
    assert matched is not None
    return Named(matched[1], matched[2] or "")


def score(name: str) -> Score:
    """Return what is known about a score, whatever its horizon."""
    return SCORES[parts(name).base]


def error_of(name: str) -> str:
    """Return the name of the energy error over the same periods as a score."""
    return f"rel_dE{parts(name).suffix}"


def suffixes(periods: Iterable[int]) -> dict[int, str]:
    """Return the end of the scores' names for each horizon: none for the first."""
    horizons = sorted(set(periods))
    return {horizon: f"_{horizon}" if index else "" for index, horizon in enumerate(horizons)}


def check_objectives(names: list[str], periods: Iterable[int], kepler: bool) -> None:
    """Raise UserError for a name that is no score of a search over these periods, or that is there twice."""
    for index, name in enumerate(names):
        check_score("objective", name, periods, kepler)
        if name in names[:index]:
            raise UserError(f"The objective `{name}` is there twice; remove one of the two.")


def check_score(role: str, name: str, periods: Iterable[int], kepler: bool) -> None:
    """Raise UserError for a name, of an objective or whatever ``role`` says, that is no score over these periods."""
    ends = suffixes(periods)
    base, suffix = parts(name)
    if base not in SCORES:
        known = nearest(name, list(SCORES)) or f"; must be one of {', '.join(SCORES)}."
        raise UserError(f"The {role} `{name}` is unknown{known}")
    if suffix and not SCORES[base].over_periods:
        raise UserError(f"The {role} `{name}` is unknown: {base} has no periods; leave `{suffix}` out.")
    if suffix and suffix not in ends.values():
        scored = ", ".join(f"{base}{end} ({horizon} periods)" for horizon, end in ends.items())
        raise UserError(
            f"The {role} `{name}` is not scored: `fixed.eval_periods` gives {scored}; choose one of these, or "
            f"add {suffix[1:]} to it."
        )
    if base == "phase_error" and not kepler:
        raise UserError(
            f"The {role} `{name}` is not scored here: it needs two point masses without an external field."
        )
