"""Step rules: how a proposed step tau becomes the step dt that is taken.

``direct`` takes tau(x_n). ``reversible`` takes 1 / dt_{n+1/2} = 2 / tau(x_n) - 1 / dt_{n-1/2}, with dt = tau
in the first step (Huang & Leimkuhler 1997; Holder, Leimkuhler & Reich 2001, Appl. Numer. Math. 39, 367). It
still costs one force evaluation a step, and where tau does not change when velocities are reversed, the
integration runs back on its own track and energy does not drift.
"""

from typing import NamedTuple

import torch
from torch import Tensor

#: The rule's step is always above tau / 2. One above this times tau is a jump: the recursion lost its track.
LARGEST_JUMP = 2.0


class Ruled(NamedTuple):
    """Steps ``dt`` (...), d ln(dt) / d ln(tau) (...), and where the rule's own value was refused (...)."""

    dt: Tensor
    response: Tensor
    fell_back: Tensor


def reversible_step(tau: Tensor, previous: Tensor, stretch: Tensor | float = 1.0) -> Ruled:
    """Apply the reversible rule to ``tau`` (...), given the ``previous`` step (...), 0 where there is none.

    Without a previous step the recursion starts with ``stretch`` times tau. A value that is not positive or jumps
    falls back to tau, from which it starts again.
    """
    inverse = 2 / tau - 1 / previous
    started = previous > 0
    fell_back = started & ~(inverse * tau >= 1 / LARGEST_JUMP)
    ruled = started & ~fell_back
    dt = torch.where(ruled, 1 / inverse, torch.where(started, tau, tau * stretch))
    return Ruled(dt, torch.where(ruled, 2 * dt / tau, 1), fell_back)
