"""How well momentum and angular momentum are kept, relative to what the bodies carry. G = 1.

A leapfrog conserves both to round-off, whatever its steps. An external field does change them: the
number is then that change, and no error.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from core.forces import State, angular_momentum


class MomentumErrors(NamedTuple):
    """Relative changes of momentum and of angular momentum (about the origin), float64, each (...)."""

    momentum: Tensor
    angular_momentum: Tensor


def momentum_errors(start: State, end: State) -> MomentumErrors:
    """Compare two states (..., N, D) of the same systems.

    |P1 - P0| is measured by the sum of m |v|, |L1 - L0| by the sum of m |x| |v|, each at the start
    or at the end, whichever is larger: bodies that start from rest have no momentum to divide by.
    Where both sums vanish nothing moved, and the error is 0.
    """
    before, after = (_Carried(state.map(Tensor.double)) for state in (start, end))
    return MomentumErrors(
        _relative(after.momentum - before.momentum, before.moving, after.moving),
        _relative(after.angular - before.angular, before.turning, after.turning),
    )


class _Carried:
    def __init__(self, state: State):
        mass = state.mass.unsqueeze(-1)
        each = mass * state.velocity
        self.momentum = each.sum(-2)
        self.angular = angular_momentum(state.position, state.velocity, state.mass)
        size = torch.linalg.vector_norm(each, dim=-1)
        self.moving = size.sum(-1)
        self.turning = (size * torch.linalg.vector_norm(state.position, dim=-1)).sum(-1)


def _relative(change: Tensor, before: Tensor, after: Tensor) -> Tensor:
    scale = torch.maximum(before, after)
    size: Tensor = torch.linalg.vector_norm(change, dim=-1)
    return torch.where(size == 0, size, size / scale)
