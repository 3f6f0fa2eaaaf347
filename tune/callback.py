"""Ray Tune's callbacks: keep checkpoints and the table of trials, and feed the display."""

import re
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from tune.checkpoints import files_of
from tune.folder import SHOWN, SearchFolder
from tune.progress import Progress, brief, describe
from tune.ranking import Ranking
from tune.scheduler import number, repeat
from tune.snapshot import NotInSnapshots
from tune.study import SearchStudy, TrialRecord
from tune.trainable import EPOCH, SCORES

#: The table of trials is written for at most one part in so many of the time.
_TABLE_SHARE = 50


class TrainingCallback(NotInSnapshots, tune.Callback):
    """What is done alike for the trials of a search and for the repeats of its best."""

    def __init__(self, folder: SearchFolder, progress: Progress, ranking: Ranking) -> None:
        self._folder = folder
        self._progress = progress
        self._ranking = ranking

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End the run if something could not be written: Ray does not catch what is raised here."""
        if self._folder.failure:
            raise self._folder.failure

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show a training as running."""
        self._progress.advanced(name(trial), (trial.last_result or {}).get(EPOCH, 0))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show how far a training is."""
        self._progress.advanced(name(trial), result[EPOCH], brief(result.get(SCORES, {}), self._ranking))

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        """Copy a checkpoint out of Ray's storage."""
        with self._folder.remembering(), files_of(checkpoint) as source:
            self._folder.keep_checkpoint(source, self.checkpoint(trial))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Say that a worker died or raised; Ray starts the training again from its last checkpoint."""
        what = "repeat" if repeat(trial) else "trial"
        self._progress.note(f"{what} {name(trial)} goes on from its last checkpoint after: {last_error(trial)}")

    def checkpoint(self, trial: Trial) -> Path:
        """Where a training's newest checkpoint is kept."""
        return self._folder.checkpoint(number(trial), repeat(trial))


class SearchCallback(TrainingCallback):
    """Called after the scheduler, so the study knows already what has happened."""

    def __init__(self, study: SearchStudy, folder: SearchFolder, progress: Progress) -> None:
        super().__init__(folder, progress, study.ranking)
        self._study = study
        #: When trials.csv is written again: it has a row for every trial, so that writing it for every trial would
        #: cost their number squared. `tune.search` writes it at the end.
        self._next_table = 0.0
        progress.led_by(self._leader(study.best(1)))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Write down a trial's end."""
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """End a trial whose worker died or raised once too often. (A scheduler hears of every death, not only this.)"""
        reason = last_error(trial)
        with self._folder.remembering():
            self._study.fail(number(trial), (trial.last_result or {}).get(EPOCH, 0), reason)
        self._ended(trial)

    def _ended(self, trial: Trial) -> None:
        with self._folder.remembering():
            best = self._study.best(SHOWN)
            records = self._study.records()
            self._folder.drop_checkpoints(
                self.checkpoint(trial),
                best=[self._folder.checkpoint(record.number) for record in best],
                unfinished=[self._folder.checkpoint(one.number) for one in records if one.state == "RUNNING"],
            )
            if (began := time.monotonic()) >= self._next_table:
                self._folder.write_trials(records)
                self._next_table = time.monotonic() + _TABLE_SHARE * (time.monotonic() - began)
        if not self._folder.failure:
            record, ranking = self._study.record(number(trial)), self._ranking
            result = brief(record.scores, ranking) if record.scores else ""
            self._progress.ended(name(trial), record.state, record.epochs, result, self._leader(best), record.reason)

    def _leader(self, best: list[TrialRecord]) -> list[str]:
        if not best:
            return []
        broken = self._ranking.broken(best[0].scores)
        beyond = f", beyond {', '.join(broken)}" if broken else ""
        first = f"trial {best[0].number}, {brief(best[0].scores, self._ranking)}{beyond}"
        return [first, describe(best[0].parameters)]


def name(trial: Trial) -> str:
    """A trial's number, or a repeat's name: the number of its trial, and its own."""
    return f"{number(trial)}-{repeat(trial)}" if repeat(trial) else str(number(trial))


def last_error(trial: Trial) -> str:
    """Return the exception of a trial's last failure, on one line. Ray's file holds all of them with tracebacks."""
    if not trial.error_file:
        return "unknown error"
    last = Path(trial.error_file).read_text(encoding="utf-8").split("Failure # ")[-1]
    lines = [line for line in last.splitlines()[1:] if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (raised[-1] if raised else lines[0] if lines else "unknown error").strip()
