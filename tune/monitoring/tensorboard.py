"""TensorBoard files: a folder for each training, with its scores by epoch and its hyperparameters.

Records are written at once and by this thread. (tensorboardX's SummaryWriter has a thread with a queue for each folder;
on a full disk the thread dies, and who writes then waits for ever.)
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from tune.monitoring.monitor import Monitor, Training
from tune.parameters import as_text
from tune.ranking import Scores


class TensorBoard(Monitor):
    """Writes below ``folder``. A training that goes on after an interruption gets one more file in its folder."""

    name = "tensorboard"

    def __init__(self, folder: Path, objectives: Sequence[str]) -> None:
        self._folder = folder
        self._objectives = objectives
        self._files: dict[str, EventsWriter] = {}

    def started(self, training: Training) -> None:
        """Begin a file, with the hyperparameters; the objectives are what TensorBoard compares them by."""
        folder = self._folder / training.name
        folder.mkdir(parents=True, exist_ok=True)
        file = self._files[training.name] = EventsWriter(str(folder / "events"))
        for summary in hparams(_plain(training.parameters), dict.fromkeys(self._objectives)):
            _write(file, summary, 0)
        file.flush()

    def reported(self, training: Training, epoch: int, scores: Scores) -> None:
        """Add the scores of an evaluation."""
        if scores:
            values = [Summary.Value(tag=key, simple_value=value) for key, value in scores.items()]
            _write(self._files[training.name], Summary(value=values), epoch)
            self._files[training.name].flush()

    def ended(self, training: Training, state: str, epochs: int, reason: str, test: Scores) -> None:
        """Add a repeat's scores on the test set, and close the file."""
        file = self._files.pop(training.name)
        if test:
            values = [Summary.Value(tag=f"test/{key}", simple_value=value) for key, value in test.items()]
            _write(file, Summary(value=values), epochs)
        file.close()

    def close(self) -> None:
        """Close the files of trainings that were interrupted."""
        while self._files:
            self._files.popitem()[1].close()


def _write(file: EventsWriter, summary: Summary, epoch: int) -> None:
    file.write_event(Event(wall_time=time.time(), step=epoch, summary=summary))


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, bool | int | float | str) else as_text(value)
        for key, value in parameters.items()
    }
