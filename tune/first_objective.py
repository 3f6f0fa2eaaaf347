"""The study as its pruner sees it: of one objective, the first.

Optuna's trials neither report nor ask where there are several objectives, so a pruner is asked here, however many there
are.
"""

import copy
from collections.abc import Callable, Container, Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

#: The user attribute that holds a trial's values by epoch (as text, since the journal is JSON).
CURVE = "curve"


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """Return what a trial reported, by epoch: Optuna's intermediate values, or the attribute in their place."""
    kept: dict[str, float] = trial.user_attrs.get(CURVE, {})
    return {int(epoch): value for epoch, value in kept.items()} or trial.intermediate_values


class FirstObjective:
    """What Optuna's pruners take of a study: its trials with their curves, its direction, and its storage.

    The storage is where they write the rungs that a trial has reached: a search that goes on finds them there.
    ``among`` leaves out trials that a pruner is not to compare with.
    """

    def __init__(
        self, study: optuna.Study, storage: "BaseStorage | _Written", among: Callable[[FrozenTrial], bool] | None = None
    ) -> None:
        self._study = study
        self._storage = storage
        self._among = among

    @property
    def direction(self) -> StudyDirection:
        """The first objective's direction."""
        return self._study.directions[0]

    def get_trials(self, deepcopy: bool = False, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials, rungs and curves included."""
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [_with_curve(trial) for trial in trials if self._among is None or self._among(trial)]

    def only(self, among: Callable[[FrozenTrial], bool]) -> "FirstObjective":
        """The same study with some of its trials."""
        return FirstObjective(self._study, self._storage, among)

    def should_prune(self, pruner: Any, trial: FrozenTrial, stopping: Callable[[dict[str, Any]], None]) -> bool:
        """Ask a pruner about a trial.

        It says once only that one is to stop: so ``stopping`` is called with its notes before these are written.
        """
        written = _Written()
        stop = bool(pruner.prune(FirstObjective(self._study, written, self._among), _with_curve(trial)))
        if stop:
            stopping(written.notes)
        self.write(trial, written.notes)
        return stop

    def write(self, trial: FrozenTrial, notes: Mapping[str, Any]) -> None:
        """Write what a pruner notes about a trial."""
        for key, value in notes.items():
            self._storage.set_trial_system_attr(trial._trial_id, key, value)


class _Written:
    """Takes what a pruner writes, instead of the storage."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.notes[key] = value


def _with_curve(trial: FrozenTrial) -> FrozenTrial:
    if CURVE not in trial.user_attrs:
        return trial
    with_curve = copy.copy(trial)
    with_curve.intermediate_values = curve_of(trial)
    return with_curve
