"""A whole training of one model: epochs, checkpoints on the way, and how it ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.checkpoint import load_model, load_state, save_model, save_state
from core.config import Config
from core.errors import CheckpointError, ConfigError
from core.lane import EpochRecord
from core.orbits import Orbits
from core.pack import RUN_KEYS
from core.trainer import Step, Trainer, TrainingFailed

#: Epochs between two checkpoints.
CHECKPOINT_EVERY = 10
#: Keys that a resumed training may have otherwise than before: they do not act on its numbers, but for the last digits
#: on another device.
MAY_CHANGE = RUN_KEYS | {"epochs", "evaluate_every", "eval_periods", "device"}


@dataclass(frozen=True)
class TrainingSummary:
    """How a training ended. ``total_time`` is in seconds of wall clock, of this run alone."""

    epochs: int
    convergence_rate: float
    total_time: float
    stopped_by: Literal["epochs", "duration", "interrupted", "failure"]
    last_checkpoint: Path | None
    best_checkpoint: Path | None
    state: Path | None
    failure: str | None


def train(
    config: Config,
    folder: Path | None,
    *,
    systems: Orbits | None = None,
    resume: Path | None = None,
    on_epoch: Callable[[Trainer, EpochRecord], None] | None = None,
    on_replay: Callable[[int, float], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> TrainingSummary:
    """Train ``config`` to its last epoch, or until its ``duration`` (seconds) is over at an epoch's end.

    Every 10 epochs and at the end ``folder/model/model_epoch_XXXX.pt`` (numbered from 0) and
    ``folder/state.pt`` are written; the newest ``keep_checkpoints`` models and the best one are kept.
    ``systems`` replace drawn initial conditions. ``resume`` is a state.pt to go on from, bit for bit on a
    device of the same kind; ``config`` may differ from it in MAY_CHANGE. Raises ConfigError and CheckpointError
    before anything is written. Ctrl-C and a failed training end it with what was saved last.
    """
    began = time.monotonic()
    trainer = _trainer(config, systems, resume)
    if on_replay is not None:
        trainer.on_replay = lambda _, update, loss: on_replay(update, loss)
    if on_step is not None:
        trainer.on_step = lambda _, step: on_step(step)
    lane = trainer.lanes[0]
    models = _Models(folder / "model", config.keep_checkpoints, resume) if folder is not None else None
    state = folder / "state.pt" if folder is not None else None
    saved_at = lane.epoch if resume is not None else -1
    stopped_by: Literal["epochs", "duration", "interrupted", "failure"] = "epochs"
    failure = None

    def save() -> None:
        nonlocal saved_at
        if models is not None and state is not None and lane.epoch != saved_at:
            models.save(trainer)
            save_state(state, trainer)
            saved_at = lane.epoch

    try:
        while lane.epoch < config.epochs:
            epoch_began = time.monotonic()
            record = trainer.train_epoch()
            record.epoch_time = time.monotonic() - epoch_began
            if on_epoch is not None:
                on_epoch(trainer, record)
            if lane.epoch % CHECKPOINT_EVERY == 0:
                save()
            if config.duration is not None and time.monotonic() - began >= config.duration:
                stopped_by = "duration" if lane.epoch < config.epochs else "epochs"
                break
        save()
    except TrainingFailed as error:
        stopped_by, failure = "failure", str(error)
    except KeyboardInterrupt:
        stopped_by = "interrupted"
    return TrainingSummary(
        epochs=lane.epoch,
        convergence_rate=lane.converged_epochs / lane.epoch if lane.epoch else 0.0,
        total_time=time.monotonic() - began,
        stopped_by=stopped_by,
        last_checkpoint=models.last if models is not None else None,
        best_checkpoint=models.best if models is not None else None,
        state=state if state is not None and state.exists() else None,
        failure=failure,
    )


def _trainer(config: Config, systems: Orbits | None, resume: Path | None) -> Trainer:
    if resume is None:
        return Trainer([config], systems)
    if systems is not None:
        raise ConfigError("A resumed training has its initial conditions already; leave the ic file out.")
    changes = {key: value for key, value in config.to_dict().items() if key in MAY_CHANGE}
    trainer = load_state(resume, **changes)
    before = trainer.lanes[0].config.to_dict()
    for key, value in config.to_dict().items():
        if value != before[key] and not (key == "seed" and value is None):
            raise ConfigError(
                f"The value of `{key}` is {value!r}, but the training in {resume} has {before[key]!r}; leave it out, "
                "or start a new training."
            )
    epoch = trainer.lanes[0].epoch
    if epoch >= config.epochs:
        raise ConfigError(
            f"The value of `epochs` is {config.epochs}, but the training in {resume} has run {epoch} already; "
            "give a larger one."
        )
    return trainer


class _Models:
    """The checkpoints of a training: the newest few, and the best.

    The best has the largest share of samples that pass its last verdict, less the share of timid
    ones: neither a loose model nor one with vanishing steps wins. The newer one wins a tie.
    """

    def __init__(self, folder: Path, keep: int, resume: Path | None):
        self.folder, self.keep = folder, keep
        self.last: Path | None = None
        self.best: Path | None = None
        self._quality = float("-inf")
        self._newest: list[Path] = []
        held = sorted(folder.glob("model_epoch_*.pt"))
        # A training that goes on in its folder finds its earlier ones; those of another one go at the first save.
        own = resume is not None and resume.resolve().parent == folder.resolve().parent
        self._foreign = [] if own else held
        for path in held if own else []:
            try:
                info = load_model(path).content["info"]
            except CheckpointError:
                continue
            self._note(path, info)

    def save(self, trainer: Trainer) -> None:
        path = self.folder / f"model_epoch_{trainer.lanes[0].epoch - 1:04d}.pt"
        save_model(path, trainer)
        for stale in self._foreign:
            if stale != path:
                stale.unlink(missing_ok=True)
        self._foreign = []
        self._newest = [kept for kept in self._newest if kept != path]
        self._note(path, trainer.lanes[0].logs[-1])
        for kept in self._newest[: -self.keep]:
            if kept != self.best:
                kept.unlink(missing_ok=True)
        self._newest = self._newest[-self.keep :]

    def _note(self, path: Path, info: dict[str, Any]) -> None:
        self.last = path
        self._newest.append(path)
        quality = (info.get("pass_fraction") or 0.0) - (info.get("timid_share") or 0.0)
        if quality >= self._quality:
            if self.best is not None and self.best not in self._newest[-self.keep :]:
                self.best.unlink(missing_ok=True)
            self.best, self._quality = path, quality
