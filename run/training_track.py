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
            self._note(orbit, dt, float(step.energy[orbit]), step.state, warm=bool(step.warm[orbit]))

    def epoch(self, trainer: Trainer) -> None:
        """Note the orbits that start afresh with the next epoch."""
        held = trainer.collection
        state = held.own_state(0)
        self._begin(state)
        for orbit in (held.age[0, : len(self._rows)] == 0).nonzero().flatten().tolist():
            if self._rows[orbit]:
                nothing = np.full(state.position.shape[1:], np.nan)
                self._rows[orbit].append(_Row(self._time[orbit], 0.0, np.nan, nothing, nothing, warm=False))
            self._note(orbit, 0.0, float(held.energy[0, orbit]), state, warm=False)

    def _begin(self, state: State) -> None:
        if not self._rows:
            count = len(state.mass)
            self._rows, self._time = [[] for _ in range(count)], [0.0] * count
            self._mass = [_numpy(state.mass[orbit]) for orbit in range(count)]

    def _note(self, orbit: int, dt: float, energy: float, state: State, *, warm: bool) -> None:
        position, velocity = _numpy(state.position[orbit]), _numpy(state.velocity[orbit])
        self._rows[orbit].append(_Row(self._time[orbit], dt, energy, position, velocity, warm))

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


def _numpy(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy().copy()
