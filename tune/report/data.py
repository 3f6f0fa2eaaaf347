"""What a report shows: a search's folder as it is read, and the curves and simulations that stand beside it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from core import portrait
from core.checkpoint import Model, load_model
from core.errors import CheckpointError, UserError
from core.evaluation import Row, at_horizon
from core.held_out import HeldOut, held_out
from core.portrait import Portrait
from core.scores import baseline_scores
from core.work_precision import BASELINES, Curve, curves_of, has_curve
from tune.folder import SearchFolder
from tune.opening import Best, best_model, open_search, read_json
from tune.proposals import is_own
from tune.ranking import Ranking
from tune.space import Space
from tune.study import TrialRecord

Say = Callable[[str], None]

#: Curves over so many periods take a minute or two each, and are measured where they are missing; longer ones are not.
_MEASURED_PERIODS = 10
#: A step of the oracle costs some forty evaluations: it is followed over this many periods at most.
ORACLE_PERIODS = 10
#: Errors that curves of gains are read at.
ERRORS = np.geomspace(1e-5, 3e-2, 60)
#: The portrayed orbit is the one of the validation set nearest to this: eccentric, but no extreme.
_ECCENTRICITY = 0.9


class NotDrawn(Exception):
    """A figure that this search has no data for. Its message is the sentence that stands in its place."""


@dataclass(frozen=True)
class Search:
    """All that the report of one search shows. ``objectives`` say of each score whether higher is better."""

    folder: SearchFolder
    space: Space
    ranking: Ranking
    records: list[TrialRecord]
    trials: list[FrozenTrial]
    ranked: list[TrialRecord]
    objectives: dict[str, bool]
    best: Best | None
    confirmation: dict[str, Any]
    systems: HeldOut
    #: Curves of the baselines on the validation set, by horizon and name, and why others are missing.
    curves: dict[int, dict[str, Curve]]
    missing: dict[int, str]
    say: Say = field(repr=False)

    @property
    def objective(self) -> str:
        """The first objective: it picks the best."""
        return next(iter(self.objectives))

    @property
    def error(self) -> str:
        """The energy error that the space limits."""
        return self.ranking.error

    def within(self, scores: dict[str, float]) -> bool:
        """Whether a trial kept every limit that the space sets."""
        return all(name in scores for name in self.ranking.limited) and self.ranking.excess(scores) <= 0

    def is_limited(self, horizon: int) -> bool:
        """Whether max_rel_dE limits the energy error over a horizon."""
        return self.error == f"rel_dE{self.suffix(horizon)}"

    def suffix(self, horizon: int) -> str:
        """What the names of scores over a horizon end in."""
        return "" if horizon == self.horizon else f"_{horizon}"

    @property
    def horizon(self) -> int:
        """The periods that scores with plain names are taken over."""
        return min(self.systems.periods)

    def rows(self, horizon: int) -> list[Row]:
        """The best model over a horizon, and the baselines at its median error."""
        if self.best is None:
            return []
        plain = at_horizon(self.best.scores, self.systems, horizon)
        own = Row(f"trial {self.best.trial}", plain)
        if not 0 < plain.get("rel_dE", math.nan) < math.inf:
            return [own]
        curves = self.curves[horizon]
        return [own, *(Row(name, baseline_scores(curve, curves, plain["rel_dE"])) for name, curve in curves.items())]

    @cached_property
    def model(self) -> Model:
        """The best model. Raises NotDrawn."""
        if self.best is None:
            raise NotDrawn("No trial ran to its end, so there is no best model.")
        if self.best.path is None:
            raise NotDrawn(f"The model of trial {self.best.trial} is not in the folder any more.")
        try:
            return load_model(self.best.path)
        except CheckpointError as error:
            raise NotDrawn(str(error)) from None

    @cached_property
    def orbit(self) -> tuple[int, float | None]:
        """The system that is portrayed: its number in the validation set, and its eccentricity if it has one."""
        return portrait.nearest_to(self.systems, _ECCENTRICITY)

    @cached_property
    def gains(self) -> dict[int, dict[str, tuple[list[float], list[float]]]]:
        """By horizon and baseline, the errors that it reaches without a failed orbit, and its work gain there.

        Not of the fixed step: a tenth of the others' gain would press them together.
        """
        found: dict[int, dict[str, tuple[list[float], list[float]]]] = {}
        for horizon, curves in self.curves.items():
            found[horizon] = {}
            for name, curve in curves.items() if "dynamical" in curves else ():
                if name == "fixed":
                    continue
                medians = np.median(curve.error, axis=0)
                reached = ERRORS[(medians.min() <= ERRORS) & (medians.max() >= ERRORS)].tolist()
                scores = [(error, baseline_scores(curve, curves, error)) for error in reached]
                kept = [(error, each["work_gain"]) for error, each in scores if not each["failed_orbits"]]
                if kept:
                    errors, gains = zip(*kept, strict=True)
                    found[horizon][name] = list(errors), list(gains)
        return found

    @cached_property
    def portraits(self) -> dict[str, Portrait]:
        """The best model, the classical criterion and the oracle on one orbit, at equal median error on the set.

        Raises NotDrawn.
        """
        model = self.model
        assert self.best is not None
        error = self.best.scores.get("rel_dE", math.nan)
        if not 0 < error < math.inf:
            raise NotDrawn(f"The median error of trial {self.best.trial} is {error}: nothing can be compared at it.")
        number, longest = self.orbit[0], max(self.systems.periods)
        self.say(f"simulating one system over {self.systems.span(longest)} with the best model and with the baselines")
        drawn = {f"trial {self.best.trial}": portrait.of_model(model, self.systems, number, longest)}
        names = ["dynamical", "oracle"]
        if model.config.step_rule == "reversible":
            names.insert(1, "dynamical, reversible")
        for name in names:
            if (curve := self.curves[self.horizon].get(name)) is not None:
                constant = curve.constant_at(error, BASELINES[name].constants_on(self.systems))
                periods = min(longest, ORACLE_PERIODS) if name == "oracle" else longest
                drawn[name] = portrait.of_baseline(name, constant, self.systems, number, periods)
        return drawn


def read_search(path: Path, say: Say) -> Search:
    """Read a search's folder, and measure the curves that are missing. Raises UserError if it is none."""
    folder, study = open_search(path)
    space = study.space
    ranked = study.best(len(study.trials))
    systems = held_out(space.example(), "validation")
    curves, missing = _curves(systems, say)
    upwards = [direction == "maximize" for direction in study.ranking.directions]
    return Search(
        folder=folder,
        space=space,
        ranking=study.ranking,
        records=study.records(),
        trials=[trial for trial in study.trials if is_own(trial)],
        ranked=ranked,
        objectives=dict(zip(space.objectives, upwards, strict=True)),
        best=best_model(folder, ranked),
        confirmation=read_json(path / "confirmation.json"),
        systems=systems,
        curves=curves,
        missing=missing,
        say=say,
    )


def _curves(systems: HeldOut, say: Say) -> tuple[dict[int, dict[str, Curve]], dict[int, str]]:
    curves: dict[int, dict[str, Curve]] = {}
    missing: dict[int, str] = {}
    for horizon in systems.periods:
        curves[horizon] = {}
        for name in BASELINES:
            if horizon > _MEASURED_PERIODS and not has_curve(systems, name, horizon):
                missing[horizon] = "they take ten minutes or more each"
                continue
            try:
                curves[horizon] |= {name: curves_of(systems, name, (horizon,), say)[horizon]}
            except UserError as error:
                missing[horizon] = str(error)
    return curves, missing
