"""The training of one trial, from evaluation to evaluation. It knows no Ray: `tune.rerun` does the same alone."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from core.checkpoint import load_state, save_model, save_state
from core.config import Config
from core.pack import STEERING_KEYS
from core.scores import References, evaluate
from core.trainer import Trainer, TrainingFailed
from tune.folder import MODEL_FILE, STATE_FILE


@dataclass(frozen=True)
class Stretch:
    """What a stretch of a training came to. Without scores it ended between two evaluations."""

    epoch: int
    scores: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    done: bool = False
    #: Why the training cannot go on.
    failed: str = ""


class Training:
    """Trains one configuration, alone in its lane, and scores it at its evaluations.

    With a ``test`` set it is a repeat, which nothing stops early: it is scored at its end alone, on both sets.
    ``state`` is a state.pt to go on from, bit for bit on a device of the same kind; it may be that of a training that
    was steered otherwise. Raises CheckpointError if it cannot be read.
    """

    def __init__(
        self, settings: Config, curves: References, test: References | None = None, state: Path | None = None
    ) -> None:
        self._settings = settings
        self._curves, self._test = curves, test
        self._trainer = _going_on(settings, state) if state else Trainer([settings])
        self._scores: dict[str, float] = {}

    @property
    def epoch(self) -> int:
        """The epochs that it has run."""
        return self._trainer.lanes[0].epoch

    def advance(self, seconds: float = float("inf")) -> Stretch:
        """Train up to the next evaluation, or to the end of the epoch in which so much time is over.

        The numbers do not depend on ``seconds``.
        """
        lane, until = self._trainer.lanes[0], time.monotonic() + seconds
        self._scores = {}
        try:
            while lane.epoch < self._settings.epochs:
                self._trainer.train_epoch()
                if lane.epoch == next_evaluation(self._settings, lane.epoch - 1, repeat=self._test is not None):
                    break
                if time.monotonic() > until:
                    return Stretch(lane.epoch)
        except TrainingFailed as failure:
            return Stretch(lane.epoch, failed=str(failure), done=True)
        scores = evaluate(self._trainer.criterion(0), self._settings, self._curves)
        scores["convergence_rate"] = lane.converged_epochs / lane.epoch
        if (error := lane.logs[-1].get("rel_dE_train")) is not None:
            scores["rel_dE_train"] = error
        self._scores = scores
        done = lane.epoch >= self._settings.epochs
        test = evaluate(self._trainer.criterion(0), self._settings, self._test) if self._test else {}
        return Stretch(lane.epoch, scores, test, done)

    def save_model(self, path: Path) -> None:
        """Write a model, with its scores if it stands at an evaluation."""
        save_model(path, self._trainer, metrics=self._scores)

    def save(self, folder: Path) -> None:
        """Write model.pt and state.pt."""
        self.save_model(folder / MODEL_FILE)
        save_state(folder / STATE_FILE, self._trainer)


def next_evaluation(settings: Config, epoch: int, *, repeat: bool) -> int:
    """The epoch of the next evaluation after ``epoch``. A repeat has one, at its end."""
    every = settings.epochs if repeat else settings.evaluate_every or settings.epochs
    return min((epoch // every + 1) * every, settings.epochs)


def _going_on(settings: Config, state: Path) -> Trainer:
    values = settings.to_dict()
    return load_state(state, device=settings.device, **{key: values[key] for key in STEERING_KEYS})
