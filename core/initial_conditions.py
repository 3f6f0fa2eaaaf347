"""Systems from a user's file, and the unit of time that a run of given systems is measured in. G = 1.

A system is N rows of ``m, x.., v..``: 5 columns in two dimensions, 7 in three. A text file (.txt,
.csv, .dat; numbers separated by blanks or commas, ``#`` starts a comment) holds one system; a .npy
file holds one, (N, columns), or M of them, (M, N, columns).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.config import Config
from core.errors import UserError
from core.forces import Forces, State, relative_energy_scale
from core.orbits import Orbits, at_one_place, crossing_time, forces_of, kepler_period

_COLUMNS = "m, x, y, vx, vy in two dimensions or m, x, y, z, vx, vy, vz in three"
_TEXT = (".txt", ".csv", ".dat")


class InitialConditionsError(UserError):
    """A file of initial conditions that cannot be used."""


@dataclass(frozen=True)
class Systems:
    """M systems as plain float64 arrays: ``mass`` (M, N), ``position`` and ``velocity`` (M, N, D)."""

    mass: NDArray[np.float64]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of systems M."""
        return len(self.mass)

    @property
    def bodies(self) -> int:
        """Bodies of each, N."""
        return int(self.position.shape[1])

    @property
    def dim(self) -> int:
        """Dimensions D, 2 or 3."""
        return int(self.position.shape[2])


def read_systems(
    path: Path | str, *, bodies: int | None = None, dim: int | None = None, count: int | None = None
) -> Systems:
    """Read a file of initial conditions.

    ``bodies``, ``dim`` and ``count`` are what the file must hold (num_particles, dim and num_orbits
    of a config, or of a model); None takes what it does hold. Raises InitialConditionsError, one
    line with the fix, for anything that is not N >= 2 rows of finite numbers of the right form. A
    pickle is never opened.
    """
    path = Path(path)
    if path.is_dir():
        raise InitialConditionsError(f"{path}: it is a folder; give a .npy or .txt file of initial conditions.")
    if not path.is_file():
        raise InitialConditionsError(f"{path}: there is no such file; give a .npy or .txt file of initial conditions.")
    if path.suffix == ".npy":
        rows = _read_npy(path)
    elif path.suffix in _TEXT:
        rows = _read_text(path)
    else:
        raise InitialConditionsError(f"{path}: the name must end in .npy or .txt (or .csv, .dat).")
    systems = _split(path, rows)
    for name, key, wanted, held in (
        ("bodies", "num_particles", bodies, systems.bodies),
        ("dimensions", "dim", dim, systems.dim),
        ("systems", "num_orbits", count, systems.count),
    ):
        if wanted is not None and wanted != held:
            raise InitialConditionsError(
                f"{path}: it holds {held} {name}, but {key} is {wanted}; give another file, or {key} {held}."
            )
    return systems


def as_orbits(systems: Systems, config: Config) -> Orbits:
    """Put systems on the config's device and in its dtype, with its forces and each one's unit of time.

    Raises InitialConditionsError if two bodies are at one place (and softening is 0).
    """
    position, velocity, mass = (
        torch.from_numpy(array).to(config.torch_device, config.torch_dtype)
        for array in (systems.position, systems.velocity, systems.mass)
    )
    state = forces_of(config).state(position, velocity, mass)
    sound = torch.isfinite(state.acceleration).all(-1).all(-1)
    if not sound.all():
        number = int((~sound).nonzero()[0])
        if not at_one_place(state.map(lambda tensor: tensor[number])):
            raise InitialConditionsError(
                f"The numbers of system {number} are too large or too small for {config.dtype}: its accelerations are "
                "not finite; choose other units."
            )
        raise InitialConditionsError(
            f"Two bodies of system {number} are at one place; move one, or set a softening > 0."
        )
    return Orbits(state, unit_of_time(state.map(Tensor.double), config.softening))


def unit_of_time(state: State, softening: float = 0.0) -> Tensor:
    """Return what one of ``Nperiod`` is for each of the given systems (M, N, D): a time (M,).

    Two bound bodies: the Kepler period of their orbit without softening and field. Two unbound or
    more bodies: the crossing time M^(5/2) / (2 |E|)^(3/2) of their own gravity, where |E| is
    at least 1e-3 (kinetic + |potential|). It is infinite where there is no energy at all (nothing
    but test particles around one mass): such a run ends by ``duration`` or ``steps``.
    """
    total = state.mass.sum(-1)
    energy, magnitude = Forces(softening).energy(state)
    crossing = crossing_time(relative_energy_scale(energy, magnitude), total)
    if state.mass.shape[-1] != 2:
        return crossing
    distance = torch.linalg.vector_norm(state.position[..., 1, :] - state.position[..., 0, :], dim=-1)
    speed = torch.linalg.vector_norm(state.velocity[..., 1, :] - state.velocity[..., 0, :], dim=-1)
    inverse_axis = 2 / distance - speed.square() / total  # vis-viva
    bound = inverse_axis > 0
    return torch.where(bound, kepler_period(1 / torch.where(bound, inverse_axis, 1), total), crossing)


def _read_npy(path: Path) -> NDArray[np.float64]:
    try:
        held = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InitialConditionsError(
            f"{path}: not a plain .npy file of numbers (it is damaged or pickled); write it with numpy.save from an "
            "array of floats."
        ) from error
    if not isinstance(held, np.ndarray) or held.dtype.kind not in "fiu":
        kind = held.dtype if isinstance(held, np.ndarray) else "an archive"
        raise InitialConditionsError(f"{path}: it holds {kind}, but must be one array of floats.")
    return held.astype(np.float64)


def _read_text(path: Path) -> NDArray[np.float64]:
    rows: list[list[float]] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InitialConditionsError(f"{path}: not a text file; give rows of {_COLUMNS}.") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            raise InitialConditionsError(
                f"{path}, line {number}: {line.strip()[:60]!r} is not a row of numbers; rows are {_COLUMNS}."
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise InitialConditionsError(
                f"{path}, line {number}: it has {len(rows[-1])} columns and the first row has {len(rows[0])}; rows are "
                f"{_COLUMNS}."
            )
    if not rows:
        raise InitialConditionsError(f"{path}: the file is empty; give rows of {_COLUMNS}.")
    return np.array(rows)


def _split(path: Path, rows: NDArray[np.float64]) -> Systems:
    """Check an array (N, columns) or (M, N, columns) and take it apart."""
    if rows.ndim not in (2, 3):
        raise InitialConditionsError(
            f"{path}: the array has the shape {rows.shape}, but must be (N, columns), or (M, N, columns) for M "
            f"systems; a row is {_COLUMNS}."
        )
    columns = rows.shape[-1]
    if columns == 3:
        raise InitialConditionsError(
            f"{path}: 3 columns describe bodies on a line (m, x, vx), but dim is 2 or 3; give {_COLUMNS}."
        )
    if columns not in (5, 7):
        raise InitialConditionsError(f"{path}: there are {columns} columns, but must be 5 or 7: {_COLUMNS}.")
    if rows.ndim == 2:
        rows = rows[None]
    if rows.shape[0] == 0 or rows.shape[1] < 2:
        raise InitialConditionsError(
            f"{path}: it holds {rows.shape[0]} systems of {rows.shape[1]} bodies, but needs at least one of two (a row "
            "for each body)."
        )
    dim = (columns - 1) // 2
    mass, position, velocity = rows[..., 0], rows[..., 1 : 1 + dim], rows[..., 1 + dim :]
    _check(path, rows, ~np.isfinite(rows).all(-1), "holds a number that is not finite; mend or remove that row.")
    _check(path, rows, mass < 0, "has a negative mass; masses are >= 0 (0 is a test particle).")
    empty = mass.sum(-1) <= 0
    if empty.any():
        raise InitialConditionsError(f"{path}: the masses of system {int(empty.argmax())} must have a positive sum.")
    return Systems(*(np.ascontiguousarray(part) for part in (mass, position, velocity)))


def _check(path: Path, rows: NDArray[np.float64], bad: Any, problem: str) -> None:
    """Name the first row (M, N) that is ``bad``, counted from 1 as a user would."""
    if bad.any():
        system, row = np.argwhere(bad)[0]
        where = f"row {row + 1}" if len(rows) == 1 else f"row {row + 1} of system {system}"
        raise InitialConditionsError(f"{path}: {where} {problem}")
