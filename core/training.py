"""A whole training of one model: epochs, checkpoints on the way, and how it ended."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from core.checkpoint import load_model, load_state, save_model, save_state
from core.config import Config
from core.errors import CheckpointError, ConfigError
from core.lane import EpochRecord
from core.orbits import Orbits
from core.pack import RUN_KEYS
from core.trainer import Step, Trainer, TrainingFailed

#: Epochs between two checkpoints.
CHECKPOINT_EVERY = 10
#: Two verdicts (shares of samples) that differ by less say the same of two models.
AS_GOOD = 0.01
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
    on_epoch: Callable[[Trainer, EpochRecord], Mapping[str, float] | None] | None = None,
    on_replay: Callable[[int, float], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    before_saving: Callable[[], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> TrainingSummary:
    """Train ``config`` to its last epoch, or until its ``duration`` (seconds) is over at an epoch's end.

    Every 10 epochs, after those that ``on_epoch`` returned held-out scores of, and at the end
    ``folder/model/model_epoch_XXXX.pt`` (numbered from 0) and ``folder/state.pt`` are written; the newest
    ``keep_checkpoints`` models and the best one are kept. With the first of them those of another training in
    ``folder`` go, and then ``before_saving`` is called: until then the folder is as it was.
    ``systems`` replace drawn initial conditions. ``resume`` is a state.pt to go on from, bit for bit on a
    device of the same kind; ``config`` may differ from it in MAY_CHANGE. Raises ConfigError and CheckpointError
    before anything is written. An epoch after which ``stopping`` is true is the last, and is saved. KeyboardInterrupt
    and a failed training end it with what was saved last.
    """
    began = time.monotonic()
    trainer = _trainer(config, systems, resume)
    if on_replay is not None:
        trainer.on_replay = lambda _, update, loss: on_replay(update, loss)
    if on_step is not None:
        trainer.on_step = lambda _, step: on_step(step)
    lane = trainer.lanes[0]
    files = _Files(folder, config.keep_checkpoints, resume, before_saving) if folder is not None else None
    saved_at = lane.epoch if resume is not None else -1
    stopped_by: Literal["epochs", "duration", "interrupted", "failure"] = "epochs"
    failure = None

    def save(scores: Mapping[str, float]) -> None:
        nonlocal saved_at
        if files is not None and lane.epoch != saved_at:
            files.save(trainer, scores)
            saved_at = lane.epoch

    try:
        while lane.epoch < config.epochs:
            epoch_began = time.monotonic()
            record = trainer.train_epoch()
            record.epoch_time = time.monotonic() - epoch_began
            scores = (on_epoch(trainer, record) if on_epoch is not None else None) or {}
            if scores or lane.epoch % CHECKPOINT_EVERY == 0:
                save(scores)
            if stopping is not None and stopping():
                stopped_by = "interrupted"
                break
            if config.duration is not None and time.monotonic() - began >= config.duration:
                stopped_by = "duration" if lane.epoch < config.epochs else "epochs"
                break
        save({})
    except TrainingFailed as error:
        stopped_by, failure = "failure", str(error)
    except KeyboardInterrupt:
        stopped_by = "interrupted"
    return TrainingSummary(
        epochs=lane.epoch,
        convergence_rate=lane.converged_epochs / lane.epoch if lane.epoch else 0.0,
        total_time=time.monotonic() - began,
        stopped_by=stopped_by,
        last_checkpoint=files.last if files is not None else None,
        best_checkpoint=files.best if files is not None else None,
        state=files.state if files is not None else None,
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


class _Files:
    """What a training keeps in its folder: the state of the last save, and the newest few models and the best.

    A model with held-out scores is better than one without, and one with a larger work_gain than another. Without
    scores the best has the largest share of samples that pass its last verdict, less the share of timid ones: neither
    a loose model nor one with vanishing steps wins. Verdicts on a small buffer are easy: when it has doubled since
    the best one's, the newer model is the best. It also is where the two are as good as equal.
    """

    def __init__(self, folder: Path, keep: int, resume: Path | None, before_saving: Callable[[], None] | None):
        self.last: Path | None = None
        self.best: Path | None = None
        #: That of this training; one of another training in the folder is none.
        self.state: Path | None = None
        self._folder, self._keep, self._before_saving = folder, keep, before_saving
        self._quality = _Quality(None, float("-inf"), 0)
        self._newest: list[Path] = []
        self._claimed = False
        #: Of another training; they go at the first save.
        self._foreign = [*sorted((folder / "model").glob("model_epoch_*.pt")), folder / "state.pt"]
        if resume is not None and resume.resolve().parent == folder.resolve():
            self._take_up(resume)

    def _take_up(self, resume: Path) -> None:
        """Find the earlier files of a training that goes on in its folder."""
        *models, state = self._foreign
        self._foreign = []
        if resume.resolve() == state.resolve():
            self.state = state
        for path in models:
            try:
                info = load_model(path).content["info"]
            except CheckpointError:
                continue
            self._note(path, info)

    def save(self, trainer: Trainer, scores: Mapping[str, float]) -> None:
        if not self._claimed:
            self._claim()
        epoch, state = trainer.lanes[0].epoch, self._folder / "state.pt"
        path = self._folder / "model" / f"model_epoch_{epoch - 1:04d}.pt"
        # Plain numbers: a file that holds one of NumPy's cannot be read with weights_only.
        save_model(path, trainer, metrics={name: float(value) for name, value in scores.items()})
        save_state(state, trainer)
        self.state = state
        self._newest = [kept for kept in self._newest if kept != path]
        self._note(path, {**trainer.lanes[0].logs[-1], **scores})
        for kept in self._newest[: -self._keep]:
            if kept != self.best:
                kept.unlink(missing_ok=True)
        self._newest = self._newest[-self._keep :]

    def _claim(self) -> None:
        """Make the folder this training's. Killed at any moment it holds no state, or one that fits the rest."""
        for stale in reversed(self._foreign):
            stale.unlink(missing_ok=True)
        if self._before_saving is not None:
            self._before_saving()
        self._claimed = True

    def _note(self, path: Path, info: dict[str, Any]) -> None:
        self.last = path
        self._newest.append(path)
        quality = _Quality.of(info)
        if self.best is None or quality.replaces(self._quality):
            if self.best is not None and self.best not in self._newest[-self._keep :]:
                self.best.unlink(missing_ok=True)
            self.best, self._quality = path, quality


class _Quality(NamedTuple):
    """What decides whether a model is the best: its work_gain if it was scored, and its last verdict."""

    work_gain: float | None
    verdict: float
    samples: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        verdict = (info.get("pass_fraction") or 0.0) - (info.get("timid_share") or 0.0)
        return cls(info.get("work_gain"), verdict, info.get("samples") or 0)

    def replaces(self, best: "_Quality") -> bool:
        """Say whether a newer model of this quality is the best from now on."""
        if self.work_gain is not None and best.work_gain is not None:
            return self.work_gain >= best.work_gain
        if self.work_gain is not None or best.work_gain is not None:
            return best.work_gain is None
        return self.samples >= 2 * best.samples or self.verdict >= best.verdict - AS_GOOD
