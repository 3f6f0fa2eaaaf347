"""A run that is told to end: running trainings save first, so that nothing they did is lost."""

import math
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT

from tune.snapshot import NotInSnapshots
from tune.trainable import FAILED, MEMORY

#: Seconds that a training has to reach the end of an epoch and save. (SLURM kills 30 seconds after its SIGTERM.)
_PATIENCE = 15.0
_SIGNALS = (signal.SIGINT, signal.SIGUSR1)


class EndingCallback(NotInSnapshots, tune.Callback):
    """Ends a run in its context at SIGINT or SIGUSR1, once what was running has saved. A second one interrupts at once.

    (SIGTERM and SIGHUP come as SIGINT, see `tune.ray_session`.) Tune itself would end at once. Its own handler is what
    it offers to be ended by, so that is what is called in the end. After so many ``seconds`` the run ends likewise.
    """

    def __init__(self, note: Callable[[str], None], seconds: float | None = None) -> None:
        self._note = note
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        #: Whether it was time that ended the run.
        self.timed_out = False
        self._end_tune: Callable[[int, FrameType | None], Any] | None = None
        self._asked = False
        self._deadline = 0.0
        #: Trainings that have not saved yet.
        self._unsaved: set[str] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "EndingCallback":
        # Tune then leaves SIGINT alone, and installs its handler for SIGUSR1 only.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Take SIGUSR1 over from Tune, which sets its handler after the callbacks were set up."""
        if self._end_tune is None:
            handler = signal.getsignal(signal.SIGUSR1)
            assert callable(handler)
            self._end_tune = handler
            signal.signal(signal.SIGUSR1, self._ask)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Have a running training save, if it has anything to save."""
        if self._asked and FAILED not in result and MEMORY not in result:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Wait for it no longer."""
        if self._unsaved is not None:
            self._unsaved.discard(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End Tune's run when everything has saved, or has had its time."""
        if not self._asked and time.monotonic() > self._until:
            self._asked = self.timed_out = True
        if not self._asked:
            return
        running = {trial.trial_id for trial in trials if trial.status == Trial.RUNNING}
        if self._unsaved is None:
            self._deadline = time.monotonic() + _PATIENCE
            self._unsaved = running
            if running:
                why = "the time budget is over" if self.timed_out else "ending"
                self._note(f"{why}: what is running saves first; Ctrl-C ends at once")
        self._unsaved &= running
        if not self._unsaved or time.monotonic() > self._deadline:
            assert self._end_tune is not None
            self._end_tune(signal.SIGUSR1, None)

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
