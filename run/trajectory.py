"""Trajectories of a run: streamed to disk while it runs, one .npz at its end that numpy.load reads without pickle.

One orbit: the arrays of :class:`Trajectory` under their own names. Several: ``time_0``, ``dt_0``, ...,
``time_1``, ... in the order of the batch.
"""

from pathlib import Path
from typing import Any, NamedTuple, Self

from numpy.typing import NDArray

from core.forces import State
from core.simulation import Moved

Array = NDArray[Any]


class Trajectory(NamedTuple):
    """One orbit: how it starts and where each of its T - 1 steps ended. G = 1.

    ``time`` (T,) float64; ``dt`` (T,) of the leapfrog that led there (0 in the first row; with
    n_steps > 1 the time grows by n_steps dt); ``position`` and ``velocity`` (T, N, D); ``mass`` (N,);
    ``force_evaluations`` (T,) spent so far, those of rejected steps included; ``energy`` (T,), total.
    """

    time: Array
    dt: Array
    position: Array
    velocity: Array
    mass: Array
    force_evaluations: Array
    energy: Array


class TrajectoryWriter:
    """An observer for :func:`core.simulation.simulate` that writes what moves to disk.

    ``with TrajectoryWriter(path, state) as writer: simulate(state, ..., observer=writer)``. ``state``
    is the batch (M, N, D) that is simulated. Rows go to raw temporary files beside ``path``; a
    ``with`` block that ends well makes the .npz from them, one array after the other, and renames
    it: memory does not grow with the run, and the name never holds half a file. A block that ends
    with an exception leaves nothing. Raises UserError (here, before the run) if ``path`` does not
    end in .npz or cannot be written.
    """

    def __init__(self, path: Path | str, state: State):
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        raise NotImplementedError

    def __call__(self, moved: Moved) -> None:
        """Take the rows of one tick."""
        raise NotImplementedError


def read_trajectories(path: Path | str) -> list[Trajectory]:
    """Return the orbits of a saved file as memory-mapped arrays: only what is used is read."""
    raise NotImplementedError
