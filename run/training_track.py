"""The trajectory of a training: every accepted step of every orbit, warm-up included, for pictures of it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.forces import State
from core.trainer import Step, Trainer
from run.trajectory import Trajectory

Array = NDArray[np.float64]


class _Row(NamedTuple):
    """Where an orbit was: at the beginning, after a step, or (NaN) at the end of one that started afresh."""

    time: float
    dt: float
    energy: float
    position: Array
    velocity: Array
    warm: bool


class TrainingTrack:
    """Collects what orbits do. Time goes on over fresh starts, before which there is a row of NaN."""

    def __init__(self) -> None:
        self._rows: list[list[_Row]] = []
        self._time: list[float] = []
        self._mass: list[Array] = []

    def step(self, step: Step) -> None:
        """Note the steps that were accepted at one moment."""
        self._begin(step.state)
        for orbit in step.accepted.nonzero().flatten().tolist():
            dt = float(step.dt[orbit])
            self._time[orbit] += dt
            row = _row(self._time[orbit], dt, step.energy, step.state, orbit, warm=bool(step.warm[orbit]))
            self._rows[orbit].append(row)

    def epoch(self, trainer: Trainer) -> None:
        """Note where the orbits began (after the first epoch), and those that start afresh with the next."""
        held, lane = trainer.collection, trainer.lanes[0]
        state = held.own_state(0)
        self._begin(state)
        if lane.epoch == 1:
            energy = trainer.forces.energy(lane.train_ic)[0]
            for orbit, rows in enumerate(self._rows):
                rows.insert(0, _row(0.0, 0.0, energy, lane.train_ic, orbit))
        for orbit in (held.age[0, : len(self._rows)] == 0).nonzero().flatten().tolist():
            rows, time = self._rows[orbit], self._time[orbit]
            if len(rows) > 1:
                nothing = np.full(state.position.shape[1:], np.nan)
                rows.append(_Row(time, 0.0, np.nan, nothing, nothing, warm=False))
                rows.append(_row(time, 0.0, held.energy[0], state, orbit))

    def _begin(self, state: State) -> None:
        if not self._rows:
            count = len(state.mass)
            self._rows, self._time = [[] for _ in range(count)], [0.0] * count
            self._mass = [_numpy(state.mass[orbit]) for orbit in range(count)]

    def trajectories(self) -> list[Trajectory]:
        """Return the orbits that took a step, each with all its rows."""
        made = []
        for rows, mass in zip(self._rows, self._mass, strict=True):
            if len(rows) > 1:
                time, dt, energy = (np.array([row[i] for row in rows]) for i in range(3))
                position, velocity = (np.stack([row[i] for row in rows]) for i in (3, 4))
                made.append(Trajectory(time, dt, position, velocity, mass, np.arange(len(rows)), energy))
        return made

    def warm_up(self) -> list[NDArray[np.bool_]]:
        """Return for each of :meth:`trajectories` which of its rows are warm-up steps."""
        return [np.array([row.warm for row in rows]) for rows in self._rows if len(rows) > 1]


def _row(time: float, dt: float, energy: Tensor, state: State, orbit: int, *, warm: bool = False) -> _Row:
    return _Row(time, dt, float(energy[orbit]), _numpy(state.position[orbit]), _numpy(state.velocity[orbit]), warm)


def _numpy(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy().copy()
