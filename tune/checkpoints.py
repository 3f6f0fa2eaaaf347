"""Checkpoints on their way from the workers through the storage into the results."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from tune.folder import ResultsError, SearchFolder
from tune.snapshot import NotInSnapshots
from tune.storage import Storage

#: Key of a training's config: the checkpoint that it goes on from.
STATE = "state"


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


class Unfinished:
    """Puts what interrupted trainings go on from where their workers can read it."""

    def __init__(self, folder: SearchFolder, storage: Storage, note: Callable[[str], None]) -> None:
        self._folder, self._storage, self._note = folder, storage, note

    def of(self, number: int, repeat: int = 0) -> dict[str, tune.Checkpoint]:
        """Return the entry of a training's config that names its checkpoint, or none. Raises ResultsError."""
        state = self._folder.state(number, repeat, note=self._note)
        if state is None:
            return {}
        try:
            path = self._storage.put(state, f"unfinished/{state.parent.name}")
        except OSError as error:
            raise ResultsError(f"storage {self._storage.path}: cannot be written ({error})") from None
        return {STATE: tune.Checkpoint(path, self._storage.filesystem)}


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
