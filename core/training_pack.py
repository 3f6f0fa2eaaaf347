"""Trainings that come and go: a trainer whose lanes are attached, told how far to go, and released."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.checkpoint import load_state, save_model, save_state
from core.config import Config
from core.errors import ConfigError
from core.lane import EpochRecord, Lane
from core.pack import check_pack
from core.scores import References, evaluating
from core.trainer import Trainer

#: Ticks of scoring for each tick of training: those that are scored wait less, and a model with tiny steps, which
#: takes a hundred times as long as others, does not stop the training of the others.
_TICKS_OF_SCORING = 8


class Event(NamedTuple):
    """What happened to a training: an epoch ended, its scores are there, or it failed; the other two are None."""

    key: str
    record: EpochRecord | None = None
    scores: dict[str, float] | None = None
    failure: str | None = None


@dataclass
class _Member:
    """A training of the pack: where its lane is, the epoch it is to reach, and the sets it is to be scored on."""

    trainer: Trainer
    index: int
    target: int = 0
    asked: list[References] = field(default_factory=list)
    failure_told: bool = False

    @property
    def lane(self) -> Lane:
        return self.trainer.lanes[self.index]


@dataclass
class _Flight:
    """The simulation by which trainings are scored on a set, tick by tick."""

    members: dict[str, _Member]
    against: References
    run: Generator[None, None, list[dict[str, float]]]


class TrainingPack:
    """Up to ``slots`` trainings, each known by a key, that advance together and are independent of each other.

    Whenever a training came, and whatever its neighbours do, it gives bit for bit what it gives alone. All have the
    same :func:`core.pack.pack_key`. A training waits until it is told how far to go, and while it is scored.
    """

    def __init__(self, slots: int):
        self.slots = slots
        self._members: dict[str, _Member] = {}
        self._trainer: Trainer | None = None
        self._flight: _Flight | None = None

    def __len__(self) -> int:
        return len(self._members)

    @property
    def has_room(self) -> bool:
        """Whether another training can be attached."""
        return len(self) < self.slots

    @property
    def is_busy(self) -> bool:
        """Whether :meth:`advance` has anything to do."""
        return any(self._is_active(member) or member.asked for member in self._members.values())

    def attach(self, key: str, start: Config | Path, **changes: Any) -> None:
        """Begin a training by a config, or go on with the one of a state.pt.

        ``changes`` are config keys that are to be otherwise than in ``start``.
        Raises CheckpointError for a state that cannot be read, ConfigError where there is no room or the training does
        not fit to those of the pack; the pack is then as it was.
        """
        if key in self._members:
            raise ValueError(f"There is a training {key} already.")
        if not self.has_room:
            raise ConfigError(f"The pack has {self.slots} slots, and all are taken; release one.")
        if isinstance(start, Config):
            trainer = Trainer([Config.from_mapping(start.to_dict() | changes) if changes else start])
        else:
            trainer = load_state(start, **changes)
        check_pack([*(member.lane.config for member in self._members.values()), trainer.lanes[0].config])
        self._members[key] = _Member(trainer, 0, trainer.lanes[0].epoch)

    def release(self, key: str) -> None:
        """Let a training go; its slot is free at once."""
        self._members.pop(key).lane.waiting = True
        if self._flight is not None and not set(self._flight.members) & set(self._members):
            self._flight = None

    def train_until(self, key: str, epoch: int) -> None:
        """Let a training take part until it has completed ``epoch`` epochs."""
        self._members[key].target = epoch

    def evaluate(self, key: str, against: References) -> None:
        """Ask for the scores of a training as it stands now; it waits until :meth:`advance` has brought them."""
        self._members[key].asked.append(against)

    @torch.no_grad()
    def advance(self) -> list[Event]:
        """Advance all trainings by one tick, and score those that are to be scored. Return what happened."""
        self._gather()
        assert self._trainer is not None
        for member in self._members.values():
            member.lane.waiting = not self._is_active(member)
        events = self._score()
        if not any(member.lane.active for member in self._members.values()):
            return events
        keys = {member.index: key for key, member in self._members.items()}
        for index, record in self._trainer.tick().items():
            events.append(Event(keys[index], record=record))
        for key, member in self._members.items():
            if member.lane.failure is not None and not member.failure_told:
                member.failure_told = True
                events.append(Event(key, failure=member.lane.failure))
        return events

    def epoch(self, key: str) -> int:
        """Return how many epochs a training has completed."""
        return self._members[key].lane.epoch

    def convergence_rate(self, key: str) -> float:
        """Return the share of a training's epochs that converged, 0 before the first."""
        lane = self._members[key].lane
        return lane.converged_epochs / lane.epoch if lane.epoch else 0.0

    def last_epoch(self, key: str) -> Mapping[str, float | int | bool | None]:
        """Return the record of a training's last epoch, empty before the first."""
        logs = self._members[key].lane.logs
        return logs[-1] if logs else {}

    def failure(self, key: str) -> str | None:
        """Return why a training cannot go on, None if it can."""
        return self._members[key].lane.failure

    def save(self, key: str, model: Path | None, state: Path | None, metrics: Mapping[str, float]) -> None:
        """Write the model.pt and the state.pt of a training between two of its epochs, whichever has a path."""
        member = self._members[key]
        if model is not None:
            save_model(model, member.trainer, member.index, dict(metrics))
        if state is not None:
            save_state(state, member.trainer, member.index)

    def _is_active(self, member: _Member) -> bool:
        lane = member.lane
        return lane.failure is None and not member.asked and lane.epoch < member.target

    def _gather(self) -> None:
        """Put the lanes of all members into one trainer, if they are not there.

        A few that were released stay in it, idle: to move the others takes as long as many ticks.
        """
        members = list(self._members.values())
        if not members:
            raise ValueError("The pack has no training to advance; attach one.")
        trainer = self._trainer
        together = all(member.trainer is trainer for member in members)
        if trainer is not None and together and len(members) > len(trainer.lanes) // 2:
            return
        self._trainer = Trainer.joined([(member.trainer, member.index) for member in members])
        for index, member in enumerate(members):
            member.trainer, member.index = self._trainer, index

    def _score(self) -> list[Event]:
        """Score those that wait for it, all at once, for some ticks; the others train on."""
        if self._flight is None:
            self._flight = self._take_off()
        if self._flight is None:
            return []
        try:
            for _ in range(_TICKS_OF_SCORING):
                next(self._flight.run)
        except StopIteration as end:
            flight, self._flight = self._flight, None
            events = []
            for (key, member), scores in zip(flight.members.items(), end.value, strict=True):
                if self._members.get(key) is member:
                    member.asked.pop(0)
                    events.append(Event(key, scores=scores))
            return events
        return []

    def _take_off(self) -> _Flight | None:
        """Begin to score what waits for one set; but only when half of the trainings do, or none has anything else."""
        waiting = {key: member for key, member in self._members.items() if member.asked}
        training = any(self._is_active(member) for member in self._members.values())
        if not waiting or (training and 2 * len(waiting) < len(self._members)):
            return None
        against = next(iter(waiting.values())).asked[0]
        together = {key: member for key, member in waiting.items() if member.asked[0] is against}
        criteria = [member.trainer.criterion(member.index) for member in together.values()]
        return _Flight(together, against, evaluating(criteria, against))
