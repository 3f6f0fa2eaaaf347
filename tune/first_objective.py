"""Early stopping in a study of several objectives, where Optuna's trials neither report nor ask."""

import copy

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

#: The user attribute that holds a trial's values by epoch (as text, since the journal is JSON).
CURVE = "curve"


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """Return what a trial reported, by epoch: Optuna's intermediate values, or the attribute in their place."""
    kept: dict[str, float] = trial.user_attrs.get(CURVE, {})
    return {int(epoch): value for epoch, value in kept.items()} or trial.intermediate_values


class FirstObjective:
    """A study as its pruner sees it: of one objective, the first.

    It is what Optuna's pruners take of a study: its trials, its direction, and its storage, where they
    write the rungs that a trial has reached. A search that goes on finds them there, as in a study of one objective.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        self._study = study
        self._storage = storage

    @property
    def direction(self) -> StudyDirection:
        """The first objective's direction."""
        return self._study.directions[0]

    def get_trials(self, deepcopy: bool = False) -> list[FrozenTrial]:
        """The trials, rungs included."""
        return self._study.get_trials(deepcopy=deepcopy)

    def should_prune(self, pruner: optuna.pruners.BasePruner, trial: FrozenTrial) -> bool:
        """Ask a pruner about a trial with a curve of its own."""
        with_curve = copy.copy(trial)
        with_curve.intermediate_values = curve_of(trial)
        return pruner.prune(self, with_curve)  # type: ignore[arg-type]
