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
    """Steps ``dt`` (...), where the rule's own value was taken (...), and where it was refused (...)."""

    dt: Tensor
    followed: Tensor
    fell_back: Tensor

    def response(self, tau: Tensor) -> Tensor:
        """Return d ln(dt) / d ln(tau) (...)."""
        return torch.where(self.followed, 2 * self.dt / tau, 1)


def reversible_step(tau: Tensor, previous: Tensor, stretch: Tensor | None = None) -> Ruled:
    """Apply the reversible rule to ``tau`` (...), given the ``previous`` step (...), 0 where there is none.

    Without a previous step the recursion starts with tau, times ``stretch`` (...) if that is given. A value that is not
    positive or jumps falls back to tau, from which it starts again.
    """
    inverse = 2 / tau - 1 / previous
    started = previous > 0
    followed = started & (inverse * tau >= 1 / LARGEST_JUMP)  # a NaN is not followed
    otherwise = tau if stretch is None else torch.where(started, tau, tau * stretch)
    return Ruled(torch.where(followed, 1 / inverse, otherwise), followed, started ^ followed)
