"""What a picture draws of an orbit: tracks and errors, reduced to as many points as can be seen."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Most rows of an orbit that are drawn: more than a picture has pixels.
MOST_ROWS = 20_000
#: Points that a curved track is drawn with at least, and points between two rows at most.
_TRACK_POINTS, _MOST_BETWEEN = 4_000, 8


class Orbit(Protocol):
    """What a picture needs of one orbit: ``trajectory.Trajectory`` has it. Arrays may be memory-mapped.

    ``time``, ``dt`` and ``energy`` (T,), ``position`` and ``velocity`` (T, N, D), ``mass`` (N,). Time must
    not decrease. A row whose position is NaN separates what an orbit did before a fresh start from
    what it did after it: tracks break there, and errors are measured from the next row.
    """

    @property
    def time(self) -> Array: ...  # noqa: D102
    @property
    def dt(self) -> Array: ...  # noqa: D102
    @property
    def energy(self) -> Array: ...  # noqa: D102
    @property
    def position(self) -> Array: ...  # noqa: D102
    @property
    def velocity(self) -> Array: ...  # noqa: D102
    @property
    def mass(self) -> Array: ...  # noqa: D102


class Curves:
    """The curves of one orbit.

    Of P rows ``time``, ``dt``, ``energy_error`` and ``momentum_error`` (P,); of a track of Q points
    ``track_time`` (Q,) and ``track`` (Q, N, D); of W warm-up steps ``warm_time`` (W,) and ``warm`` (W, N, D).
    |E - E0| is relative to |E0| and |P - P0| to the sum of m |v|, as the numbers of a run are.
    """

    def __init__(self, orbit: Orbit, warmup: Array | None = None):
        count = len(orbit.time)
        pause = ~np.isfinite(np.asarray(orbit.position[:, 0, 0]))
        start = _first_rows(pause)
        error = np.abs(orbit.energy - orbit.energy[start]) / _energy_scale(orbit, start)
        error[pause] = np.nan
        rows = _spread(count, MOST_ROWS, np.flatnonzero(pause))
        self.time: Array = np.asarray(orbit.time)[rows]
        self.dt: Array = np.where(pause[rows] | (start[rows] == rows), np.nan, orbit.dt[rows])
        self.energy_error: Array = np.fmax.reduceat(error, rows)  # no peak between two drawn rows is lost
        self.energy_error[pause[rows]] = np.nan
        self.momentum_error = _momentum_error(orbit, rows, start[rows])
        self._position: Array = np.asarray(orbit.position[rows], dtype=np.float64)
        self._velocity: Array = np.asarray(orbit.velocity[rows], dtype=np.float64)
        self.mass: Array = np.asarray(orbit.mass)
        between = int(np.clip(-(-_TRACK_POINTS // len(rows)), 1, _MOST_BETWEEN))
        steps = np.arange(between * (len(rows) - 1) + 1)
        after = np.minimum(steps // between, max(len(rows) - 2, 0))
        self.track_time, self.track = self._hermite(after, (steps - after * between) / between)
        warm = np.flatnonzero(warmup) if warmup is not None else np.zeros(0, int)
        warm = warm[_spread(len(warm), MOST_ROWS // 10, warm[:0])] if len(warm) else warm
        self.warm_time: Array = np.asarray(orbit.time)[warm]
        self.warm: Array = np.asarray(orbit.position[warm], dtype=np.float64)

    def at(self, times: Array) -> Array:
        """Return the positions (F, N, D) at ``times`` (F,); after its end an orbit stays where it was."""
        after = np.clip(np.searchsorted(self.time, times, side="right") - 1, 0, max(len(self.time) - 2, 0))
        if len(self.time) == 1:
            return np.repeat(self._position, len(times), 0)
        length = self.time[after + 1] - self.time[after]
        share = np.divide(times - self.time[after], length, out=np.ones(len(times)), where=length > 0)
        return self._hermite(after, np.clip(share, 0, 1))[1]

    def _hermite(self, after: Array, share: Array) -> tuple[Array, Array]:
        """Times and positions a ``share`` of the way from rows ``after`` to the next: positions and velocities fit."""
        if len(self.time) == 1:
            return self.time, self._position
        length = self.time[after + 1] - self.time[after]
        s, h = share[:, None, None], length[:, None, None]
        x0, x1 = self._position[after], self._position[after + 1]
        v0, v1 = h * self._velocity[after], h * self._velocity[after + 1]
        curved = x0 + s * (v0 + s * (3 * (x1 - x0) - 2 * v0 - v1 + s * (2 * (x0 - x1) + v0 + v1)))
        # At a row itself, its neighbours do not matter: one of them may be a pause.
        curved = np.where(s == 0, x0, np.where(s == 1, x1, curved))
        return self.time[after] + share * length, curved


def reach(curves: Sequence[Curves]) -> tuple[Array, float]:
    """Return centre (D,) and half width of the square or cube that shows the tracks, without far escapers."""
    points = np.concatenate([curve.track.reshape(-1, curve.track.shape[-1]) for curve in curves])
    points = points[np.isfinite(points).all(-1)]
    low, high = points.min(0), points.max(0)
    inner_low, inner_high = np.quantile(points, 0.02, axis=0), np.quantile(points, 0.98, axis=0)
    if (high - low).max() > 4 * (inner_high - inner_low).max() > 0:
        low, high = inner_low, inner_high
    half = float((high - low).max()) / 2
    return (low + high) / 2, 1.08 * half if half > 0 else 1.0


def _first_rows(pause: Array) -> Array:
    """For each row (T,) the one that its piece starts with: row 0, or the one after a pause."""
    rows = np.arange(len(pause))
    begins = ~pause & np.append(True, pause[:-1])
    first: Array = np.maximum.accumulate(np.where(begins, rows, 0))
    return first


def _spread(count: int, most: int, always: Array) -> Array:
    """Row numbers, at most about ``most`` of ``count`` in even steps, the last and those of ``always`` among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.concatenate([np.linspace(0, count - 1, most).astype(int), always]))


def _energy_scale(orbit: Orbit, start: Array) -> Array:
    """|E0| of each row's piece, but at least 1e-3 (kinetic + |potential|), (T,)."""
    pieces, piece = np.unique(start, return_inverse=True)
    energy = np.asarray(orbit.energy)[pieces]
    kinetic = 0.5 * (np.asarray(orbit.mass) * (np.asarray(orbit.velocity[pieces]) ** 2).sum(-1)).sum(-1)
    scale: Array = np.maximum(np.abs(energy), 1e-3 * (kinetic + np.abs(energy - kinetic)))
    return scale[piece]


def _momentum_error(orbit: Orbit, rows: Array, start: Array) -> Array:
    mass = np.asarray(orbit.mass, dtype=np.float64)[:, None]
    now, first = (mass * np.asarray(orbit.velocity[index], dtype=np.float64) for index in (rows, start))
    scale = np.maximum(*(np.linalg.norm(each, axis=-1).sum(-1) for each in (now, first)))
    change: Array = np.linalg.norm(now.sum(1) - first.sum(1), axis=-1)
    error: Array = np.divide(change, scale, out=np.full(len(rows), np.nan), where=scale > 0)
    return error
