"""Ray Tune's callback: keeps checkpoints and the table of trials, and feeds the display."""

import re
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from tune.folder import SHOWN, SearchFolder
from tune.progress import Progress
from tune.scheduler import number
from tune.snapshot import NotInSnapshots
from tune.study import SearchStudy
from tune.trainable import EPOCH


class SearchCallback(NotInSnapshots, tune.Callback):
    """Called after the scheduler, so the study knows already what has happened."""

    def __init__(self, study: SearchStudy, folder: SearchFolder, progress: Progress) -> None:
        self._study = study
        self._folder = folder
        self._progress = progress
        self._running: set[int] = set()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End the run if something could not be written: Ray does not catch what is raised here."""
        if self._folder.failure:
            raise self._folder.failure

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show a trial as running."""
        self._running.add(number(trial))
        self._progress.advanced(number(trial), (trial.last_result or {}).get(EPOCH, 0))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show how far a trial is."""
        self._progress.advanced(number(trial), result[EPOCH])

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        """Copy a checkpoint out of Ray's private folder."""
        with checkpoint.as_directory() as source, self._folder.remembering():
            self._folder.keep_checkpoint(number(trial), Path(source))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Write down a trial's end."""
        self._ended(number(trial))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Say that a worker died or raised; Ray starts the trial again from its last checkpoint."""
        self._progress.note(f"trial {number(trial)} goes on from its last checkpoint after: {_last_error(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """End a trial whose worker died or raised once too often. (A scheduler hears of every death, not only this.)"""
        reason = _last_error(trial)
        with self._folder.remembering():
            self._study.fail(number(trial), (trial.last_result or {}).get(EPOCH, 0), reason)
        self._ended(number(trial))

    def _ended(self, trial: int) -> None:
        self._running.discard(trial)
        with self._folder.remembering():
            records = self._study.records()
            best = self._study.best(SHOWN)
            self._folder.drop_checkpoints(best={record.number for record in best}, running=self._running)
            self._folder.write_trials(records)
        if not self._folder.failure:
            self._progress.ended(records[trial], best[0] if best else None)


def _last_error(trial: Trial) -> str:
    """Return the exception of a trial's last failure, on one line. Ray's file holds all of them with tracebacks."""
    if not trial.error_file:
        return "unknown error"
    last = Path(trial.error_file).read_text(encoding="utf-8").split("Failure # ")[-1]
    lines = [line for line in last.splitlines()[1:] if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (raised[-1] if raised else lines[0] if lines else "unknown error").strip()
