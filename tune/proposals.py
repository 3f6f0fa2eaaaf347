"""The next trial of a study: what is known to be good, a cell of the grid, or what the sampler proposes.

A proposal that is forbidden, or that is an earlier trial's configuration, is not run. It stays in the study with the
attribute `skipped`, and another one is made.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from tune.grid import cells
from tune.samplers import Asking, Grid
from tune.seeds import DRAW, GRID, SAMPLER, derived_seed
from tune.space import Space

#: The user attribute of a trial that was proposed and is not run, with the reason. It is no trial of the search.
SKIPPED = "skipped"
#: The user attribute of a trial from another search, with its origin. It is no trial of this search either.
ORIGIN = "origin"
#: The user attribute of a trial that the space knows to be good: its place in `enqueue`.
_ENQUEUED = "enqueued"
_FORBIDDEN = "forbidden"
#: After so many proposals in a row that are not run the next trial is drawn at random from those that can be.
_PATIENCE = 5
#: So often, before one is made of the space's ends and choices.
_DRAWS = 1000
#: Excess of a trial that is not allowed at all.
_BEYOND = 1e6


def is_own(trial: FrozenTrial) -> bool:
    """Whether a trial of the study is one that the search runs, or has run."""
    return SKIPPED not in trial.user_attrs and ORIGIN not in trial.user_attrs


def constrain(trial: Trial, name: str, excess: float) -> None:
    """Tell how far a trial is beyond a limit. Optuna warns where a search that was killed had told it already."""
    if name not in trial.storage.get_trial(trial._trial_id).constraints:
        trial.set_constraint(name, excess)


class Proposals:
    """Makes a study's trials. For each the sampler is made anew, with a seed from the search's and the trial's number.

    So a search that was interrupted and goes on proposes what it would have proposed.
    """

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self._study = study
        self._space = space
        #: The numbers of the trials that have a configuration, by its text.
        self._tried: dict[str, int] = {}
        self._next_entry = 0
        #: Cells of the grid before this one have been tried.
        self._place = 0
        #: Trials that were enqueued by a search that was killed before it asked for them.
        self._waiting: list[int] = []
        for trial in study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                self._waiting.append(trial.number)
            if _ENQUEUED in trial.user_attrs:
                self._next_entry = max(self._next_entry, trial.user_attrs[_ENQUEUED] + 1)
            if is_own(trial) and "parameters" in trial.user_attrs:
                self._tried[_text(trial.user_attrs["parameters"])] = trial.number

    @property
    def exhausted(self) -> bool:
        """Whether all configurations of a space that has no more of them than trials have been tried."""
        return self._cells is not None and self._untried() is None

    def make(self) -> tuple[Trial, dict[str, Any]]:
        """Return a new trial and its parameters. The space must not be exhausted."""
        fixed, attributes = self._known()
        return self._settle(self._ask(fixed, attributes), fixed, attributes)

    def skip(self, trial: Trial, reason: str) -> None:
        """End a proposal that is not run.

        From a forbidden one samplers learn to keep away: it breaks a constraint, beyond all others. From a repeated
        one they are to learn nothing, neither that it is bad nor twice what they know already: they pass over FAIL.
        """
        trial.set_user_attr(SKIPPED, reason)
        if reason == _FORBIDDEN:
            constrain(trial, reason, _BEYOND)
        self._study.tell(trial, state=TrialState.PRUNED if reason == _FORBIDDEN else TrialState.FAIL)

    def _settle(
        self, trial: Trial, fixed: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> tuple[Trial, dict[str, Any]]:
        parameters = self._space.draw(trial)
        for attempt in range(_PATIENCE):
            reason = self._unfit(parameters, trial.number)
            if not reason:
                break
            self.skip(trial, reason)
            if attempt == _PATIENCE - 1:
                fixed, attributes = self._space.stored(self._any(trial.number)), {}
            trial = self._ask(fixed, attributes)
            parameters = self._space.draw(trial)
        self._tried[_text(parameters)] = trial.number
        return trial, parameters

    def _ask(self, fixed: Mapping[str, Any], attributes: Mapping[str, Any]) -> Trial:
        if self._waiting:
            self._seed_sampler(self._waiting.pop(0))
        else:
            self._seed_sampler(len(self._study.get_trials(deepcopy=False)))
            if fixed:
                self._study.enqueue_trial(dict(fixed), user_attrs=dict(attributes))
        return self._study.ask()

    def _seed_sampler(self, number: int) -> None:
        seed = self._space.seed
        own, shared = derived_seed(SAMPLER, seed, number), derived_seed(SAMPLER, seed)
        self._study.sampler = self._space.sampler.build(Asking(number, own, shared, self._space.distributions))

    def _known(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the next trial is to have, by Optuna's names, and its attributes: nothing where the sampler decides."""
        while self._next_entry < len(self._space.enqueue):
            number, self._next_entry = self._next_entry, self._next_entry + 1
            entry = self._space.as_drawn(self._space.enqueue[number])
            if not self._unfit(entry):
                return self._space.stored(entry), {_ENQUEUED: number}
        cell = self._untried() if isinstance(self._space.sampler, Grid) else None
        return ({} if cell is None else self._space.stored(cell)), {}

    def _unfit(self, parameters: Mapping[str, Any], number: int | None = None) -> str | None:
        """Why a configuration is not to be run, by the trial of that number."""
        if self._space.forbids(parameters):
            return _FORBIDDEN
        if (earlier := self._tried.get(_text(parameters), number)) != number:
            return f"the same as trial {earlier}"
        return None

    def _any(self, number: int) -> dict[str, Any]:
        """Draw parameters at random until they can be run; where luck does not help, the first that can."""
        if (cell := self._untried()) is not None:
            return cell
        sampler = optuna.samplers.RandomSampler(seed=derived_seed(DRAW, self._space.seed, number))
        study = optuna.create_study(sampler=sampler)
        for _ in range(_DRAWS):
            parameters = self._space.draw(study.ask())
            if not self._unfit(parameters):
                return parameters
        return self._space.corner()

    @cached_property
    def _cells(self) -> list[dict[str, Any]] | None:
        """All configurations, shuffled, of a grid or of a space that has no more of them than trials."""
        space = self._space
        if any(one.every(domain) is None for one in space.parameters.values() for domain in one.domains):
            return None
        most = None if isinstance(space.sampler, Grid) else space.trials
        found = list(islice(cells(space), None if most is None else most + 1))
        if most is not None and len(found) > most:
            return None
        order = np.random.default_rng(derived_seed(GRID, space.seed)).permutation(len(found))
        return [found[place] for place in order]

    def _untried(self) -> dict[str, Any] | None:
        """The next of a few configurations that has not been tried, if there are few."""
        cells = self._cells or []
        while self._place < len(cells) and _text(cells[self._place]) in self._tried:
            self._place += 1
        return cells[self._place] if self._place < len(cells) else None


def _text(parameters: Mapping[str, Any]) -> str:
    return json.dumps(dict(sorted(parameters.items())))
