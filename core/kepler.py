"""The exact solution of the two-body problem, elliptic and hyperbolic, for phase errors. G = 1."""

import torch
from torch import Tensor

from core.forces import State

#: Newton's method on Kepler's equation converges in a dozen steps from the starting values used here.
_NEWTON_STEPS = 50


def relative(state: State) -> tuple[Tensor, Tensor]:
    """Separation and relative velocity of body 1 from body 0, each (..., D)."""
    position, velocity = state.position, state.velocity
    return position[..., 1, :] - position[..., 0, :], velocity[..., 1, :] - velocity[..., 0, :]


def semi_major_axis(state: State) -> Tensor:
    """Semi-major axis (...) of a two-body state (..., 2, D); negative where the orbit is hyperbolic."""
    separation, velocity = relative(state)
    distance: Tensor = torch.linalg.vector_norm(separation, dim=-1)
    return 1 / (2 / distance - velocity.square().sum(-1) / state.mass.sum(-1))


def eccentricity(state: State) -> Tensor:
    """Eccentricity (...) of a two-body state (..., 2, D): the length of the Laplace-Runge-Lenz vector."""
    separation, velocity = relative(state)
    total = state.mass.sum(-1, keepdim=True)
    distance = torch.linalg.vector_norm(separation, dim=-1, keepdim=True)
    radial = (separation * velocity).sum(-1, keepdim=True)
    squared = velocity.square().sum(-1, keepdim=True)
    vector = (squared / total - 1 / distance) * separation - radial / total * velocity
    length: Tensor = torch.linalg.vector_norm(vector, dim=-1)
    return length


def kepler_separation(start: State, time: Tensor) -> Tensor:
    """Separation x_1 - x_0 (..., D) at ``time`` (...) after ``start`` (..., 2, D), two point masses without a field.

    Gauss's f and g functions of the change of the eccentric anomaly (Danby 1988, Fundamentals of Celestial
    Mechanics, sections 6.3 and 6.4). Not for parabolic orbits.
    """
    separation, velocity = relative(start)
    total = start.mass.sum(-1)
    axis = semi_major_axis(start)
    size = axis.abs()
    bound = axis > 0
    distance: Tensor = torch.linalg.vector_norm(separation, dim=-1)
    motion = torch.sqrt(total / size**3)
    swing = (separation * velocity).sum(-1) / torch.sqrt(total * size)  # e sin E, or e sinh H
    near = 1 - distance / axis  # e cos E, or e cosh H
    # Whole periods change nothing, and rounding would grow with them.
    mean = torch.where(bound, torch.remainder(motion * time + torch.pi, 2 * torch.pi) - torch.pi, motion * time)
    change = torch.where(bound, mean, torch.asinh(mean / near.abs().clamp_min(1)))
    for _ in range(_NEWTON_STEPS):
        sine = torch.where(bound, change.sin(), change.sinh())
        cosine = torch.where(bound, change.cos(), change.cosh())
        value = torch.where(
            bound, change - near * sine + swing * (1 - cosine), near * sine - change + swing * (cosine - 1)
        )
        slope = torch.where(bound, 1 - near * cosine + swing * sine, near * cosine - 1 + swing * sine)
        change = change - ((value - mean) / slope.clamp_min(1e-3)).clamp(-1, 1)
    sine = torch.where(bound, change.sin(), change.sinh())
    cosine = torch.where(bound, change.cos(), change.cosh())
    f = 1 - axis / distance * (1 - cosine)
    g = torch.where(bound, mean - change + sine, mean - sine + change) / motion
    return f.unsqueeze(-1) * separation + g.unsqueeze(-1) * velocity
