"""Samplers of Optuna's that keep what they know in an object of their own, made to read it off the study."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler, QMCSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune.samplers import Asking


class NumberedQMC(QMCSampler):
    """A quasi-random sequence over all parameters of a space, of which a trial takes the point of its number.

    Optuna's own begins a new sequence whenever its seed or its parameters differ (those of the first trial that
    ended, or of all that run), and counts its points in the study: a trial that is asked for twice, before and after a
    crash, would not be the same. A parameter that a trial does not have is a coordinate of its point that is not used.
    """

    def __init__(self, asking: Asking, **options: Any) -> None:
        super().__init__(
            seed=asking.search_seed,
            independent_sampler=optuna.samplers.RandomSampler(seed=asking.seed),
            warn_independent_sampling=False,
            **options,
        )
        self._asking = asking

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter that has more than one value."""
        return {name: about for name, about in self._asking.distributions.items() if not about.single()}

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._asking.number


class ReplayedCmaEs(CmaEsSampler):
    """CMA-ES that tells its generations anew, from the trials of the study.

    Optuna's own keeps its state as a pickle in the study, and a study is a file that may come from elsewhere.
    Replaying costs microseconds a trial. It also goes on where a new kind of trial makes the set of common parameters
    smaller, where Optuna's own would draw at random from then on.
    """

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        self._completed = completed_trials
        return None

    def _init_optimizer(self, trans: Any, direction: StudyDirection) -> Any:
        optimizer = super()._init_optimizer(trans, direction)  # type: ignore[no-untyped-call, unused-ignore]
        sign = 1 if direction == StudyDirection.MINIMIZE else -1
        while True:
            generation = self._get_solution_trials(self._completed, optimizer.generation)
            if len(generation) < optimizer.population_size:
                return optimizer
            # In the order of their numbers: with trials side by side it must not matter which ended first.
            told: list[tuple[np.ndarray, float]] = []
            for trial in generation[: optimizer.population_size]:
                # What the trial reported last, and not its value, knows the limits on results.
                value = trial.intermediate_values[max(trial.intermediate_values)]
                told.append((trans.transform(trial.params), sign * value))
            optimizer.tell(told)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing: Optuna's own would warn at every trial that constraints do not reach it; the space has said so."""
