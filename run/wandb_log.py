"""Weights & Biases: a training's config and its epochs. Whatever is wrong there never stops the training."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.lane import EpochRecord, Lane

#: The run's name where neither wandb_name nor save_name is given.
DEFAULT_NAME = "runner_train"
#: Seconds that a run may take to begin.
_TIMEOUT = 30


class WandbLog:
    """One run; without the package, a login or a network it says so in a sentence and does nothing."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any], folder: Path):
        self._run: Any = None
        try:
            import wandb
        except ImportError:
            _say("the package is not installed (pip install wandb)")
            return
        try:
            offline = wandb.setup().settings.mode != "online"
            # Without this wandb would ask in the middle of a run.
            if not offline and not wandb.login(prompt=False, verify=False):
                _say("there is no login (run `wandb login`, or set WANDB_MODE=offline and upload later)")
                return
            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=project,
                name=name,
                config=dict(config),
                dir=str(folder),
                settings=wandb.Settings(console="off", init_timeout=_TIMEOUT),
            )
        except Exception as error:  # its own kinds, and those of whatever network there is
            _say(_first_line(error))

    def log(self, lane: Lane, record: EpochRecord) -> None:
        """Log an epoch."""
        if self._run is None:
            return
        metrics = epoch_metrics(lane, record)
        try:
            self._run.log({name: value for name, value in metrics.items() if value is not None}, step=record.epoch)
        except Exception as error:
            self._run = None
            _say(_first_line(error))

    def finish(self, scores: Mapping[str, float]) -> None:
        """End the run; ``scores`` go into its summary."""
        if self._run is None:
            return
        try:
            self._run.summary.update({f"scores/{name}": value for name, value in scores.items()})
            self._run.finish()
        except Exception as error:
            _say(_first_line(error))


def epoch_metrics(lane: Lane, record: EpochRecord) -> dict[str, float | None]:
    """Return an epoch's numbers by the names that they have in Weights & Biases; None is not logged."""
    steps = record.accepted + record.rejected
    return {
        "loss": record.loss,
        "dt": record.dt_mean,
        "E0": record.E0,
        "rel_dE": record.rel_dE_last,
        "rel_dE_mean": record.rel_dE_train,
        "rel_dL_mean": record.rel_dL_mean,
        "epoch_time": record.epoch_time,
        "convergence_rate": record.convergence_rate,
        "part1/acceptance_rate": record.accepted / steps if steps else None,
        "part1/trajectory_length": record.accepted,
        "part1/retrain_iterations": record.retrain_steps,
        "part1/stuck_orbits": record.stuck_orbits,
        "part1/rel_dE": record.rel_dE_train,
        "part1/rel_dL": record.rel_dL_mean,
        "part2/converged": int(record.converged),
        "part2/iterations": record.replay_updates,
        "part2/pass_fraction": record.pass_fraction,
        "part2/timid_share": record.timid_share,
        "part2/rel_dE": record.replay_rel_dE,
        "part2/samples": record.samples,
        **{f"norm/{name}": value for name, value in lane.scales._asdict().items()},
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _say(reason: str) -> None:
    print(f"Weights & Biases: {reason}; the training goes on without it.", file=sys.stderr)
