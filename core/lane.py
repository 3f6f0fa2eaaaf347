"""A lane: one training's settings, random numbers, optimizer and counters. Its tensors live in the trainer."""

from dataclasses import asdict, dataclass, field
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
    stuck_orbits: int = 0
    replay_updates: int = 0
    pass_fraction: float | None = None
    timid_share: float | None = None
    loss: float | None = None
    skipped_updates: int = 0
    samples: int = 0

    def to_dict(self) -> dict[str, float | int | bool | None]:
        """A flat dict of plain numbers."""
        return asdict(self)


@dataclass
class Lane:
    """One training. ``parameter`` and ``optimizer`` act on the lane's row of the network's flat matrix."""

    config: Config
    generator: Generator
    scales: InputScales
    parameter: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    #: Initial conditions that the training started from, (B, N, D).
    train_ic: State
    phase: Phase = Phase.COLLECT
    epoch: int = 0
    converged_epochs: int = 0
    skips_in_a_row: int = 0
    failure: str | None = None
    record: EpochRecord = field(default_factory=EpochRecord)
    #: The records of all epochs so far.
    logs: list[dict[str, float | int | bool | None]] = field(default_factory=list)
    #: Sums over the epoch's accepted steps.
    error_sum: float = 0.0
    dt_sum: float = 0.0
    #: Phase 2: the order in which samples are still to be drawn, and the update after which the next verdict is due.
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    next_verdict: int = 0

    def finish_epoch(self, samples: int) -> EpochRecord:
        """Close the epoch's record and start the next one's."""
        record = self.record
        self.epoch += 1
        self.converged_epochs += record.converged
        record.epoch, record.samples = self.epoch, samples
        record.convergence_rate = self.converged_epochs / self.epoch
        if record.accepted:
            record.rel_dE_train = self.error_sum / record.accepted
            record.dt_mean = self.dt_sum / record.accepted
        self.record, self.error_sum, self.dt_sum = EpochRecord(), 0.0, 0.0
        self.phase = Phase.COLLECT
        self.logs.append(record.to_dict())
        return record

    def update(self, gradient: Tensor, loss: float, *, finite: bool) -> None:
        """Take one optimizer step, or skip it and count where loss or gradient are not finite."""
        if finite:
            self.parameter.grad = gradient
            self.optimizer.step()
            self.record.loss, self.skips_in_a_row = loss, 0
            return
        self.record.skipped_updates += 1
        self.skips_in_a_row += 1
        if self.skips_in_a_row >= MOST_SKIPS:
            self.failure = (
                f"{MOST_SKIPS} updates in a row had a loss or gradient that is not finite (epoch {self.epoch + 1}, "
                f"{self.phase.value}); try a smaller lr ({self.config.lr})."
            )


def make_optimizer(config: Config, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    """Build the optimizer that a config names, for one lane's flat parameters."""
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind([parameter], lr=config.lr, weight_decay=config.weight_decay, fused=True)
