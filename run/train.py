"""The mode train: a whole training from settings, with progress, debug lines, scores, pictures and W&B."""

import math
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.checkpoint import load_model, load_state
from core.config import Config
from core.errors import ConfigError
from core.initial_conditions import as_orbits
from core.interrupts import stop_later
from core.lane import EpochRecord
from core.orbits import Orbits
from core.trainer import Trainer
from core.training import MAY_CHANGE, TrainingSummary, train
from run.encoders import WITHOUT_FFMPEG, find_ffmpeg
from run.keys import RunnerKeys
from run.outputs import DEFAULT_NAME, Files, check_name, check_output, draw_pictures, write_beside, write_resolved
from run.plan import read_given_systems
from run.progress import TrainingProgress
from run.report import Report
from run.scores import Scorer
from run.settings import Settings, Situation
from run.training_track import TrainingTrack
from run.wandb_log import DEFAULT_NAME as DEFAULT_WANDB_NAME
from run.wandb_log import WandbLog

#: Where one of them is given, now or to the training that goes on, scores are measured however long that takes.
SCORE_KEYS = ("evaluate_every", "eval_periods")
_SCORE_DEFAULTS = {key: value for key, value in Config().to_dict().items() if key in SCORE_KEYS}


class TrainingPlan(NamedTuple):
    """A training that can be run: everything that could be refused has been checked."""

    config: Config
    own: RunnerKeys
    #: Systems of a file; else they are drawn.
    systems: Orbits | None
    situation: Situation
    #: Epochs that a resumed training has behind it.
    done: int

    @property
    def folder(self) -> Path:
        """Where the training writes."""
        return Path("data") / (self.config.save_name or DEFAULT_NAME)


def plan_training(settings: Settings, *, simulated: bool = False) -> TrainingPlan:
    """Resolve and check a training, to be ``simulated`` after it or not. Raises UserError."""
    own = settings.runner_keys()
    if own.plot is not None:
        check_output(own.plot, ".png")
        if simulated:  # which gets the plot of that name, as it gets the movie without _train
            path = Path(own.plot)
            own = own.model_copy(update={"plot": str(path.with_stem(f"{path.stem}_train"))})
    fixed: dict[str, Any] = {}
    systems = None
    if own.ic_path is not None:
        systems = read_given_systems(own.ic_path, settings)
        fixed |= {"num_particles": systems.bodies, "dim": systems.dim, "num_orbits": systems.count, "mass": 1.0}
    base: dict[str, Any] = {}
    done, given = 0, systems is not None
    if own.resume is not None:
        base, done, given = _resumed(own.resume, settings)
    elif settings.value("seed") is None:
        # Drawn here, so that the resolved config holds it.
        fixed["seed"] = secrets.randbits(32)
    config = settings.config(base, **fixed)
    if own.resume is not None:
        _check_resumed(own.resume, settings, config, base, done)
    asked = [key for key in SCORE_KEYS if key in settings]
    if asked and config.num_particles != 2:
        reason = f"needs held-out orbits of two bodies; num_particles is {config.num_particles}."
        raise settings.refusal(asked[0], reason)
    scored = bool(asked) or any(base.get(key, default) != default for key, default in _SCORE_DEFAULTS.items())
    check_name(config.save_name)
    _ = config.torch_device  # refused here if there is none
    orbits = as_orbits(systems, config) if systems is not None else None
    situation = Situation("train", config, own, given, scored, by_model=False)
    return TrainingPlan(config, own, orbits, situation, done)


def _resumed(path: str, settings: Settings) -> tuple[dict[str, Any], int, bool]:
    """Return the config of a training that is to go on, how far it is, and whether its systems were given.

    Refuses other initial conditions.
    """
    with settings.naming_source():
        asked = Config.from_mapping({"device": settings.value("device")}).device
    trainer = load_state(path, **({"device": asked} if "device" in settings else {}))
    systems = trainer.collection.systems[0]
    if settings.value("ic_path") is not None:
        given = read_given_systems(settings.value("ic_path"), settings)
        if systems is None or not torch.equal(systems.state.position.cpu().double(), torch.from_numpy(given.position)):
            raise settings.refusal("ic_path", f"holds other systems than the training in {path} has; leave it out.")
    # A limit on time is one run's own.
    return trainer.lanes[0].config.to_dict() | {"duration": None}, trainer.lanes[0].epoch, systems is not None


def _check_resumed(path: str, settings: Settings, config: Config, base: dict[str, Any], done: int) -> None:
    """Refuse what contradicts a training that is to go on: core would, but only when a run has been announced."""
    now = config.to_dict()
    for key in settings:
        if key in now and key not in MAY_CHANGE and now[key] != base[key]:
            raise settings.refusal(key, f"is {now[key]!r}, but the training in {path} has {base[key]!r}; leave it out.")
    if config.epochs <= done:
        raise ConfigError(
            f"The training in {path} has run {done} epochs already, of {config.epochs}; give a larger --epochs."
        )


class _Watch:
    """What happens beside a training: shows, scores and logs its epochs, and follows its orbits."""

    def __init__(self, plan: TrainingPlan, progress: TrainingProgress, scorer: Scorer | None):
        self._plan, self._progress, self._scorer = plan, progress, scorer
        self._wandb: WandbLog | None = None
        self.track = TrainingTrack() if plan.config.movie or plan.own.plot is not None else None

    @property
    def scores(self) -> dict[str, float]:
        return self._scorer.scores if self._scorer is not None else {}

    def epoch(self, trainer: Trainer, record: EpochRecord) -> dict[str, float]:
        """Return the scores of the epoch's model, if it is due for them."""
        plan, config = self._plan, self._plan.config
        self._progress.epoch(record)
        if self.track is not None:
            self.track.epoch(trainer)
        if self._scorer is not None and config.evaluate_every and record.epoch % config.evaluate_every == 0:
            self._scorer.score(trainer.criterion(), record.epoch)
        if plan.own.wandb:
            if self._wandb is None:
                name = plan.own.wandb_name or config.save_name or DEFAULT_WANDB_NAME
                self._wandb = WandbLog(plan.own.wandb_project, name, config.to_dict(), plan.folder)
            self._wandb.log(trainer.lanes[0], record)
        return self.scores if self.scores.get("epoch") == record.epoch else {}

    def end(self, summary: TrainingSummary) -> None:
        """Score the last model of a training that was neither interrupted nor failed."""
        if self._scorer is not None and summary.stopped_by in ("epochs", "duration"):
            assert summary.last_checkpoint is not None
            model = load_model(summary.last_checkpoint, self._plan.config.torch_device.type)
            self._scorer.score_last(model.criterion, summary.epochs)

    def finish(self) -> None:
        if self._wandb is not None:
            self._wandb.finish(self.scores)


def run_training(plan: TrainingPlan) -> tuple[TrainingSummary, Report]:
    """Train, write the files that were asked for, and return the summary and the report."""
    config, own = plan.config, plan.own
    ffmpeg = find_ffmpeg() if config.movie else None
    if config.movie and ffmpeg is None:
        print(WITHOUT_FFMPEG, file=sys.stderr)
    _announce(plan)
    progress = TrainingProgress(config, plan.done)
    watch = _Watch(plan, progress, _scorer(plan, progress))

    def stopping_soon() -> None:
        progress.say("interrupted: stopping after this epoch, with a checkpoint; a second Ctrl-C stops at once")

    try:
        with progress, stop_later(stopping_soon) as stopping:
            summary = train(
                config,
                plan.folder,
                systems=None if own.resume is not None else plan.systems,
                resume=Path(own.resume) if own.resume is not None else None,
                on_epoch=watch.epoch,
                on_replay=progress.replay,
                on_step=watch.track.step if watch.track is not None else None,
                before_saving=lambda: write_resolved(plan.folder / "config.toml", plan.situation, _unset(plan)),
                stopping=stopping,
            )
        print(_conclusion(summary), file=sys.stderr)
        try:
            watch.end(summary)
        except KeyboardInterrupt:  # the training is over, and its report not lost
            print("scoring was interrupted", file=sys.stderr)
            summary = replace(summary, stopped_by="interrupted")
    finally:
        watch.finish()
    files: Files = {}
    if watch.track is not None and (tracks := watch.track.trajectories()):
        files = draw_pictures(
            tracks,
            config,
            own,
            title=f"training of {plan.folder.name}, {summary.epochs} epochs",
            ending="_train",
            ffmpeg=ffmpeg,
            warmup=watch.track.warm_up(),
        )
        write_beside(files, plan.situation, _unset(plan))
    return summary, make_report(plan, summary, watch.scores, files)


def _scorer(plan: TrainingPlan, progress: TrainingProgress) -> Scorer | None:
    """What scores a training: nothing if its systems are not like those of the held-out set, unless it is asked for."""
    asked, config = plan.situation.scored, plan.config
    if not asked and (config.num_particles != 2 or plan.situation.given_systems):
        return None
    return Scorer(config, progress.say, asked=asked)


def make_report(
    plan: TrainingPlan, summary: TrainingSummary, scores: dict[str, float], files: Files
) -> Report:
    """Say how a training ended, in plain numbers and paths."""
    return {
        "mode": "train",
        "epochs": summary.epochs,
        "convergence_rate": summary.convergence_rate,
        "total_time_s": summary.total_time,
        "stopped_by": summary.stopped_by,
        "failure": summary.failure,
        "seed": plan.config.seed,
        "folder": str(plan.folder),
        "last_checkpoint": _text(summary.last_checkpoint),
        "best_checkpoint": _text(summary.best_checkpoint),
        "state": _text(summary.state),
        "scores": {name: value if math.isfinite(value) else None for name, value in scores.items()} or None,
        "files": files,
    }


def _announce(plan: TrainingPlan) -> None:
    config = plan.config
    history = f" with history {config.history_len}" if config.history_len else ""
    goes_on = f", going on after epoch {plan.done}" if plan.own.resume is not None else ""
    print(
        f"training {config.epochs} epochs on {config.num_orbits} x {config.num_particles} bodies, {config.feature_type}"
        f"{history}, seed {config.seed}, into {plan.folder}{goes_on}",
        file=sys.stderr,
    )


def _conclusion(summary: TrainingSummary) -> str:
    """One or two lines for people."""
    line = (
        f"{summary.epochs} epochs completed, convergence rate {100 * summary.convergence_rate:.0f} %, "
        f"{summary.total_time:.1f} s"
    )
    ended = {"duration": "; stopped by duration", "interrupted": "; interrupted"}.get(summary.stopped_by, "")
    if summary.failure is not None:
        ended = f"; failed: {summary.failure}"
    return f"{line}{ended}\nlast checkpoint: {summary.last_checkpoint or 'none'}"


def _unset(plan: TrainingPlan) -> frozenset[str]:
    """Keys that would act if they stood in a file, but did not act on this training."""
    return frozenset() if plan.situation.scored else frozenset(SCORE_KEYS)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
