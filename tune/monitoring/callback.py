"""Ray Tune's callback that tells monitors what becomes of trainings."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from ray import tune
from ray.tune.experiment import Trial

from tune.callback import last_error
from tune.monitoring.monitor import Monitor, Training, give_up
from tune.scheduler import number, repeat
from tune.snapshot import NotInSnapshots
from tune.study import SearchStudy
from tune.trainable import EPOCH, FAILED, SCORES, SETTINGS, TEST


class Monitoring(NotInSnapshots, tune.Callback):
    """Called after the study knows what has happened. Use it as a context manager, which closes the monitors."""

    def __init__(self, study: SearchStudy, monitors: Iterable[Monitor]) -> None:
        self._study = study
        self._monitors = list(monitors)
        self._running: dict[str, Training] = {}

    @property
    def hints(self) -> dict[str, str]:
        """How to see what the monitors write, by their names."""
        return {monitor.name: monitor.hint for monitor in self._monitors if monitor.hint}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(lambda monitor: monitor.close())

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell of a beginning, once: a training whose worker died is started again."""
        name = str(trial)
        if name not in self._running:
            record = self._study.record(number(trial))
            settings = trial.config[SETTINGS]
            training = Training(name, record.number, repeat(trial), record.parameters, settings)
            self._running[name] = training
            self._tell(lambda monitor: monitor.started(training))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Tell how far a training is."""
        if training := self._running.get(str(trial)):
            self._tell(lambda monitor: monitor.reported(training, result[EPOCH], result.get(SCORES, {})))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell of an end."""
        result = trial.last_result or {}
        reason = result.get(FAILED, "")
        if not reason and (missing := self._study.ranking.missing(result.get(SCORES, {}))):
            reason = f"{missing} is NaN"
        self._end(trial, "FAIL" if reason else "COMPLETE", reason, result.get(TEST, {}))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell of a training whose worker died or raised once too often."""
        self._end(trial, "FAIL", last_error(trial), {})

    def _end(self, trial: Trial, state: str, reason: str, test: dict[str, float]) -> None:
        training = self._running.pop(str(trial), None)
        if training is None:
            return
        epochs = (trial.last_result or {}).get(EPOCH, 0)
        if not training.repeat:
            # The study knows better: it stops trials early, too.
            record = self._study.record(training.number)
            state, reason = record.state, record.reason
        self._tell(lambda monitor: monitor.ended(training, state, epochs, reason, test))

    def _tell(self, event: Callable[[Monitor], None]) -> None:
        for monitor in list(self._monitors):
            try:
                event(monitor)
            except Exception as error:  # a full disk, a library, a network
                self._monitors.remove(monitor)
                give_up(monitor.name, error)
                with suppress(Exception):
                    monitor.close()
