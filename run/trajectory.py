"""Trajectories of a run: streamed to disk while it runs, one .npz at its end that numpy.load reads without pickle.

One orbit: the arrays of :class:`Trajectory` under their own names. Several: ``time_0``, ``dt_0``, ...,
``time_1``, ... in the order of the batch. Members are stored without compression, which would save
little on floating-point numbers, so that they can be memory-mapped.
"""

import os
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.forces import State
from core.simulation import Moved
from core.whole_file import writing

Array = NDArray[Any]
#: Bytes of rows that are collected before they are written out, and of a piece that is read back.
_BUFFER = 2**24


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
    with an exception leaves nothing. Raises UserError if ``path`` does not end in .npz or cannot be
    written: here, before the run, or when the disk is full.
    """

    def __init__(self, path: Path | str, state: State):
        self._path = Path(path)
        if self._path.suffix != ".npz":
            raise UserError(f"{path}: the name of a trajectory must end in .npz.")
        if self._path.is_dir():
            raise UserError(f"{path}: it is a folder; give the name of a file.")
        self._mass: Array = state.mass.cpu().numpy()
        real = self._mass.dtype
        bodies = state.position.shape[1:]
        self._row = np.dtype(
            [
                ("time", np.float64),
                ("dt", real),
                ("position", real, bodies),
                ("velocity", real, bodies),
                ("force_evaluations", np.int64),
                ("energy", real),
            ]
        )
        self._waiting: list[tuple[Array, Array]] = []
        self._bytes = 0
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Not in the system's temporary folder, which is often in memory.
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", dir=self._path.parent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with writing(self._path):
                    self._flush()
                    self._assemble()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(self, moved: Moved) -> None:
        """Take the rows of one tick."""
        number = moved.number.cpu().numpy()
        rows = np.empty(len(number), self._row)
        rows["position"], rows["velocity"] = (part.cpu().numpy() for part in moved.state[:2])
        for name in ("time", "dt", "force_evaluations", "energy"):
            rows[name] = getattr(moved, name).cpu().numpy()
        self._waiting.append((number, rows))
        self._bytes += rows.nbytes
        if self._bytes > _BUFFER:
            with writing(self._path):
                self._flush()

    def _flush(self) -> None:
        """Append the waiting rows to one raw file for each orbit."""
        if not self._waiting:
            return
        number = np.concatenate([numbers for numbers, _ in self._waiting])
        rows = np.concatenate([rows for _, rows in self._waiting])
        order = np.argsort(number, kind="stable")
        orbits, first = np.unique(number[order], return_index=True)
        for orbit, own in zip(orbits, np.split(rows[order], first[1:]), strict=True):
            with self._raw(orbit).open("ab") as file:
                file.write(own.tobytes())
        self._waiting, self._bytes = [], 0

    def _raw(self, orbit: int) -> Path:
        return self._folder / f"{orbit}.raw"

    def _assemble(self) -> None:
        archive = self._folder / "trajectory.npz"
        with zipfile.ZipFile(archive, "w", allowZip64=True) as target:
            for orbit, mass in enumerate(self._mass):
                suffix = f"_{orbit}" if len(self._mass) > 1 else ""
                for name in Trajectory._fields:
                    with target.open(f"{name}{suffix}.npy", "w", force_zip64=True) as member:
                        if name == "mass":
                            np.lib.format.write_array(member, mass, allow_pickle=False)
                        else:
                            self._copy(self._raw(orbit), name, member)
        with archive.open("rb") as written:
            os.fsync(written.fileno())
        archive.replace(self._path)

    def _copy(self, raw: Path, name: str, member: Any) -> None:
        """Write one column of a raw file as a .npy, a piece at a time."""
        kind = self._row[name]
        count = raw.stat().st_size // self._row.itemsize
        header = {
            "descr": np.lib.format.dtype_to_descr(kind.base),
            "fortran_order": False,
            "shape": (count, *kind.shape),
        }
        np.lib.format.write_array_header_1_0(member, header)
        with raw.open("rb") as source:
            while piece := source.read(max(1, _BUFFER // self._row.itemsize) * self._row.itemsize):
                member.write(np.ascontiguousarray(np.frombuffer(piece, self._row)[name]).tobytes())


def read_trajectories(path: Path | str) -> list[Trajectory]:
    """Return the orbits of a saved file as memory-mapped arrays: only what is used is read."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    several = "time" not in members
    count = sum(name.startswith("time_") for name in members) if several else 1
    suffixes = [f"_{orbit}" if several else "" for orbit in range(count)]
    return [Trajectory(*(_map(path, members[f"{name}{suffix}"]) for name in Trajectory._fields)) for suffix in suffixes]


def _map(path: Path | str, member: zipfile.ZipInfo) -> Array:
    """Memory-map a stored member of an archive (numpy.load maps single .npy files only)."""
    with Path(path).open("rb") as file:
        file.seek(member.header_offset + 26)  # behind 26 bytes of a local header: lengths of its name and extra field
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(name + extra, os.SEEK_CUR)
        np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        assert not fortran_order
        return np.memmap(file, dtype, "r", file.tell(), shape)
