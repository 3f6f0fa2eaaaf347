"""Checkpoints on their way from the workers through the storage into the results."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from tune.folder import ResultsError
from tune.snapshot import NotInSnapshots


@contextmanager
def files_of(checkpoint: tune.Checkpoint) -> Iterator[Path]:
    """Give a folder with a checkpoint's files: its own if it is on this machine, else a temporary copy.

    Raises ResultsError if the storage cannot be read.
    """
    with ExitStack() as stack:
        try:
            source = stack.enter_context(checkpoint.as_directory())
        except OSError as error:
            raise ResultsError(f"storage {checkpoint.path}: cannot be read ({error})") from None
        yield Path(source)


class DropEnded(NotInSnapshots, tune.Callback):
    """Removes the checkpoints of trainings that have ended from the storage; what is kept has been copied by then."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a training has ended, also early."""
        _drop(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when its worker died or raised once too often."""
        _drop(trial)


def _drop(trial: Trial) -> None:
    checkpoint = trial.checkpoint
    if checkpoint is not None and checkpoint.filesystem is not None:
        with suppress(OSError):  # the whole storage goes with the search, and says so if it does not
            checkpoint.filesystem.delete_dir(checkpoint.path)
