"""A lane: one training's settings, random numbers and counters. Its tensors live in the trainer."""

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Generator, Tensor

from core.config import Config
from core.features import InputScales
from core.forces import State

#: So many skipped updates in a row fail a lane.
MOST_SKIPS = 100


class Phase(Enum):
    """Where a lane stands in its epoch."""

    COLLECT = "collect"
    REPLAY = "replay"


@dataclass
class EpochRecord:
    """What one epoch did. Errors are rel_dE; a value that does not exist (phase 2 did not run) is None."""

    epoch: int = 0
    converged: bool = False
    convergence_rate: float = 0.0
    rel_dE_train: float | None = None
    dt_mean: float | None = None
    accepted: int = 0
    rejected: int = 0
    retrain_steps: int = 0
    acceptance_rate: float | None = None
    rel_dE_last: float | None = None
    rel_dL_mean: float | None = None
    E0: float | None = None
    stuck_orbits: int = 0
    replay_updates: int = 0
    stalled: bool = False
    replay_rel_dE: float | None = None
    pass_fraction: float | None = None
    timid_share: float | None = None
    loss: float | None = None
    skipped_updates: int = 0
    samples: int = 0
    #: Seconds that the epoch took, where somebody measured it.
    epoch_time: float | None = None

    def to_dict(self) -> dict[str, float | int | bool | None]:
        """A flat dict of plain numbers."""
        return dict(vars(self))


@dataclass
class Lane:
    """One training."""

    config: Config
    generator: Generator
    scales: InputScales
    #: Initial conditions that the training started from, (B, N, D).
    train_ic: State
    phase: Phase = Phase.COLLECT
    epoch: int = 0
    converged_epochs: int = 0
    skips_in_a_row: int = 0
    failure: str | None = None
    #: A lane that waits takes no part in ticks.
    waiting: bool = False
    record: EpochRecord = field(default_factory=EpochRecord)
    #: The records of all epochs so far.
    logs: list[dict[str, float | int | bool | None]] = field(default_factory=list)
    #: Sums over the epoch's accepted steps.
    error_sum: float = 0.0
    dt_sum: float = 0.0
    momentum_error_sum: float = 0.0
    #: Phase 2: minibatches that are drawn; samples still to be drawn, in their order; the update after which a
    #: verdict is due; losses so far.
    drawn: deque[Tensor] = field(default_factory=deque)
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    next_verdict: int = 0
    replay_losses: list[float] = field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether the lane takes part in ticks: it neither failed nor waits."""
        return self.failure is None and not self.waiting

    def finish_epoch(self, samples: int) -> EpochRecord:
        """Close the epoch's record and start the next one's."""
        record = self.record
        self.epoch += 1
        self.converged_epochs += record.converged
        record.epoch, record.samples = self.epoch, samples
        record.convergence_rate = self.converged_epochs / self.epoch
        if record.accepted:
            record.rel_dE_train = self.error_sum / record.accepted
            record.rel_dL_mean = self.momentum_error_sum / record.accepted
            record.acceptance_rate = record.accepted / (record.accepted + record.rejected)
            record.dt_mean = self.dt_sum / record.accepted
        self.record = EpochRecord()
        self.error_sum = self.dt_sum = self.momentum_error_sum = 0.0
        self.phase = Phase.COLLECT
        self.logs.append(record.to_dict())
        return record

    def count_accepted(self, error: float, momentum_error: float, dt: float, count: int) -> None:
        """Add up ``count`` accepted steps, given the sums of their rel_dE, rel_dL and dt."""
        if count:
            self.error_sum += error
            self.momentum_error_sum += momentum_error
            self.dt_sum += dt
            self.record.rel_dE_last = error / count

    def count_update(self, loss: float) -> None:
        """Note an update by its loss, or count it as skipped where that is not finite."""
        if abs(loss) < math.inf:
            self.record.loss, self.skips_in_a_row = loss, 0
            return
        self._skip()

    def _skip(self) -> None:
        """Count an update that is not taken, and fail when there are too many in a row."""
        self.record.skipped_updates += 1
        self.skips_in_a_row += 1
        if self.config.detect_anomaly:
            self.failure = (
                f"detect_anomaly: a loss or gradient is not finite (epoch {self.epoch + 1}, {self.phase.value}, after "
                f"{self.record.accepted} accepted steps and {self.record.replay_updates} replay updates)."
            )
        elif self.skips_in_a_row >= MOST_SKIPS:
            self.failure = (
                f"{MOST_SKIPS} updates in a row had a loss or gradient that is not finite (epoch {self.epoch + 1}, "
                f"{self.phase.value}); try a smaller lr ({self.config.lr})."
            )
