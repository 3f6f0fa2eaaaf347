"""Feature rows of states and of transitions, and the units they may be measured in.

A *row* describes one state (basic, rich) or one transition between two states (delta_mag), in
simulation units; every column is a magnitude >= 0 that does not change when the system is
rotated, moved, or its bodies exchanged. States are (..., N, D), rows (..., C).
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import FeatureType
from core.forces import SHORT, State, add_up, self_exclusion

#: (name, exponents of length, time and mass, product of input scales) of each column.
_STATE = [
    ("bodies", (0, 0, 0), ""),
    ("dimensions", (0, 0, 0), ""),
    ("total mass", (0, 0, 1), ""),
    ("radius mean", (1, 0, 0), "L"),
    ("radius max", (1, 0, 0), "L"),
    ("speed mean", (1, -1, 0), "V"),
    ("speed max", (1, -1, 0), "V"),
    ("acceleration mean", (1, -2, 0), "A"),
    ("acceleration max", (1, -2, 0), "A"),
    ("pair distance min", (1, 0, 0), "L"),
    ("pair distance mean", (1, 0, 0), "L"),
]
_RICH = [
    ("mass mean", (0, 0, 1), ""),
    ("mass min", (0, 0, 1), ""),
    ("mass max", (0, 0, 1), ""),
    ("mass rms", (0, 0, 1), ""),
    ("radius min", (1, 0, 0), "L"),
    ("radius rms", (1, 0, 0), "L"),
    ("speed min", (1, -1, 0), "V"),
    ("speed rms", (1, -1, 0), "V"),
    ("acceleration min", (1, -2, 0), "A"),
    ("acceleration rms", (1, -2, 0), "A"),
    ("pair distance max", (1, 0, 0), "L"),
    ("softening", (1, 0, 0), "L"),
]
_TRANSITION = [
    *((f"displacement {kind}", (1, 0, 0), "VT") for kind in ("mean", "max", "rms")),
    *((f"velocity change {kind}", (1, -1, 0), "AT") for kind in ("mean", "max", "rms")),
    *((f"acceleration change {kind}", (1, -2, 0), "A") for kind in ("mean", "max", "rms")),
    ("elapsed dt", (0, 1, 0), "T"),
]
COLUMNS: dict[FeatureType, list[tuple[str, tuple[int, int, int], str]]] = {
    "basic": _STATE,
    "rich": _STATE + _RICH,
    "delta_mag": _TRANSITION,
}


class Units(NamedTuple):
    """Shortest pair distance and shortest pair time sqrt(r^3 / (m_i + m_j)) of a state, each (...)."""

    length: Tensor
    time: Tensor


class InputScales(NamedTuple):
    """Typical length, velocity, acceleration and time that inputs are divided by; they travel in the checkpoint."""

    L: float = 1.0
    V: float = 1.0
    A: float = 1.0
    T: float = 1.0

    def product(self, names: str) -> float:
        """Multiply the scales named by the letters of ``names``; 1 for none."""
        return math.prod(float(getattr(self, name)) for name in names)


def pair_units(state: State) -> Units:
    """Units of a state. Pairs without mass have no time scale and are left out."""
    separation = state.position.unsqueeze(-3) - state.position.unsqueeze(-2)
    squared = add_up(separation * separation, -1) + self_exclusion(state.position)
    mass = state.mass.unsqueeze(-1) + state.mass.unsqueeze(-2)
    return Units(squared.amin((-2, -1)).sqrt(), (squared * squared.sqrt() / mass).amin((-2, -1)).sqrt())


def state_rows(state: State, softening: float, *, rich: bool) -> Tensor:
    """The 11 columns of basic or the 23 of rich, (..., C). Radius and speed are relative to the centre of mass."""
    n_bodies, dim = state.position.shape[-2:]
    mass, vectors = state.mass.movedim(-1, 0), _stacked(state)
    first, second = _pairs_of(n_bodies, mass.device)
    pair = _length(vectors[:, first, 0] - vectors[:, second, 0])
    total = _sum(mass, 0)
    moving = vectors[:, :, :2]
    moving -= _sum((mass / total).unsqueeze(1) * moving, 1).unsqueeze(1)
    size = _length(vectors)
    one = torch.ones_like(total)
    columns = [
        torch.stack([n_bodies * one, dim * one, total]),
        torch.stack([_mean(size), size.amax(0)], 1).flatten(0, 1),
        torch.stack([pair.amin(0), _mean(pair)]),
    ]
    if rich:
        columns += [
            torch.stack([_mean(mass), mass.amin(0), mass.amax(0), _rms(mass)]),
            torch.stack([size.amin(0), _rms(size)], 1).flatten(0, 1),
            torch.stack([pair.amax(0), softening * one]),
        ]
    return torch.cat(columns).movedim(0, -1)


def transition_rows(before: State, after: State, dt: Tensor) -> Tensor:
    """The 10 columns of delta_mag for the step from ``before`` to ``after`` that took ``dt`` (...)."""
    change = _length(_stacked(after) - _stacked(before))
    columns = torch.stack([_mean(change), change.amax(0), _rms(change)], 1).flatten(0, 1)
    return torch.cat([columns, dt.to(columns.dtype).unsqueeze(0)]).movedim(0, -1)


# Below, what is summed over comes first and systems last, and position, velocity and acceleration are treated at once:
# systems are so few that each operation costs more by being one than by its arithmetic.


def _stacked(state: State) -> Tensor:
    """Positions, velocities and accelerations in a tensor of their own, (D, N, 3, ...)."""
    return torch.stack([vectors.movedim((-1, -2), (0, 1)) for vectors in state[:3]], 2)


@cache
def _pairs_of(n_bodies: int, device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(n_bodies, n_bodies, 1, device=device)
    return first, second


def _length(vectors: Tensor) -> Tensor:
    return add_up(vectors * vectors, 0).sqrt()


def _sum(values: Tensor, dim: int) -> Tensor:
    # One by one, however many: the order of torch's sums would depend on which other systems are in the batch.
    return add_up(values, dim) if values.shape[dim] <= SHORT else values.cumsum(dim).select(dim, -1)


def _mean(values: Tensor) -> Tensor:
    return _sum(values, 0) / len(values)


def _rms(values: Tensor) -> Tensor:
    return _mean(values * values).sqrt()
