"""Gravity: accelerations, potentials and their derivatives, for any leading dimensions. G = 1.

Positions are ``(..., N, D)``, masses ``(..., N)``, energies ``(...)``. A body without mass is a
test particle: it feels the others and is not felt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: Sums over so few bodies or dimensions are written out.
SHORT = 4


class State(NamedTuple):
    """An N-body state, with the acceleration that its leapfrog step starts from.

    ``position``, ``velocity``, ``acceleration``: (..., N, D); ``mass``: (..., N).
    """

    position: Tensor
    velocity: Tensor
    acceleration: Tensor
    mass: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """Apply ``function`` to each of the four tensors."""
        return State(*map(function, self))


@dataclass(frozen=True)
class TidalField:
    """The tide of a point mass M at R in the frame that falls with the origin.

    a(x) = M [(R-x)/|R-x|^3 - R/|R|^3] and phi(x) = -M [1/|R-x| - 1/|R| - x.R/|R|^3], so that a = -grad phi.
    """

    mass: float
    position: Tensor  # (D,)

    def acceleration(self, position: Tensor) -> Tensor:
        """Acceleration (..., N, D) at ``position`` (..., N, D)."""
        towards = self.position - position
        inverse = torch.rsqrt((towards * towards).sum(-1, keepdim=True))
        distance: Tensor = torch.linalg.vector_norm(self.position)
        return self.mass * (towards * inverse.pow(3) - self.position / distance.pow(3))

    def jerk(self, position: Tensor, velocity: Tensor) -> Tensor:
        """Derivative of the acceleration along ``velocity``, both (..., N, D)."""
        towards = self.position - position
        inverse = torch.rsqrt((towards * towards).sum(-1, keepdim=True))
        along = 3 * (towards * velocity).sum(-1, keepdim=True) * inverse.pow(2)
        return self.mass * inverse.pow(3) * (along * towards - velocity)

    def jerk_and_snap(self, state: State) -> tuple[Tensor, Tensor]:
        """First and second time derivative of the field's acceleration along the motion, each (..., N, D)."""
        towards = self.position - state.position
        return _pair_derivatives(towards, -state.velocity, -state.acceleration, self.mass, _inverse_square(towards))

    def potential(self, position: Tensor) -> Tensor:
        """Potential per unit mass (..., N) at ``position`` (..., N, D)."""
        distance: Tensor = torch.linalg.vector_norm(self.position)
        inverse = torch.rsqrt((self.position - position).square().sum(-1))
        return -self.mass * (inverse - 1 / distance - position @ self.position / distance.pow(3))


@dataclass(frozen=True)
class Forces:
    """What acts on the bodies: their own gravity (Plummer-softened) and an optional tidal field."""

    softening: float = 0.0
    field: TidalField | None = None

    def state(self, position: Tensor, velocity: Tensor, mass: Tensor) -> State:
        """Complete positions and velocities (..., N, D) and masses (..., N) with their acceleration."""
        return State(position, velocity, self.acceleration(position, mass), mass)

    def acceleration(self, position: Tensor, mass: Tensor) -> Tensor:
        """Acceleration (..., N, D); one force evaluation."""
        separation, inverse = self._pairs(position)
        return self._acceleration(position, mass, separation, inverse)

    def acceleration_and_potential(self, position: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Acceleration (..., N, D) and total potential energy (...), sharing the pair distances."""
        separation, inverse = self._pairs(position)
        acceleration = self._acceleration(position, mass, separation, inverse)
        return acceleration, self._potential(position, mass, inverse)

    def all_with_jerk(self, position: Tensor, velocity: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Acceleration, its derivative along ``velocity`` (both (..., N, D)) and potential energy (...)."""
        separation, inverse = self._pairs(position)
        acceleration = self._acceleration(position, mass, separation, inverse)
        approach = velocity.unsqueeze(-3) - velocity.unsqueeze(-2)
        inverse2 = inverse * inverse
        weight = (mass.unsqueeze(-2) * (inverse2 * inverse)).unsqueeze(-1)
        along = (add_up(separation * approach, -1) * inverse2).unsqueeze(-1)
        jerk = add_up(weight * torch.addcmul(approach, along, separation, value=-3), -2)
        if self.field is not None:
            jerk = jerk + self.field.jerk(position, velocity)
        return acceleration, jerk, self._potential(position, mass, inverse)

    def jerk_and_snap(self, state: State) -> tuple[Tensor, Tensor]:
        """First and second time derivative of the acceleration along the motion, each (..., N, D).

        Sums over pairs of the formulas of Nitadori & Makino 2008, New Astronomy 13, 498, section 2.
        """
        separation, inverse = self._pairs(state.position)
        velocity = state.velocity.unsqueeze(-3) - state.velocity.unsqueeze(-2)
        acceleration = state.acceleration.unsqueeze(-3) - state.acceleration.unsqueeze(-2)
        mass = state.mass.unsqueeze(-2).unsqueeze(-1)
        pairs = _pair_derivatives(separation, velocity, acceleration, mass, (inverse * inverse).unsqueeze(-1))
        jerk, snap = (derivative.sum(-2) for derivative in pairs)
        if self.field is not None:
            tidal = self.field.jerk_and_snap(state)
            jerk, snap = jerk + tidal[0], snap + tidal[1]
        return jerk, snap

    def potential(self, position: Tensor, mass: Tensor) -> Tensor:
        """Total potential energy (...), pairs and field."""
        return self._potential(position, mass, self._pairs(position)[1])

    def energy(self, state: State) -> tuple[Tensor, Tensor]:
        """Total energy and the scale |kinetic| + |potential| that a vanishing energy is measured by, both (...)."""
        kinetic = kinetic_energy(state.velocity, state.mass)
        potential = self.potential(state.position, state.mass)
        return kinetic + potential, kinetic + potential.abs()

    def _pairs(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Separations x_j - x_i (..., N, N, D) and inverse softened distances (..., N, N), zero on the diagonal."""
        separation = position.unsqueeze(-3) - position.unsqueeze(-2)
        squared = add_up(separation * separation, -1) + self_exclusion(position)
        if self.softening:
            squared = squared + self.softening**2
        return separation, torch.rsqrt(squared)

    def _acceleration(self, position: Tensor, mass: Tensor, separation: Tensor, inverse: Tensor) -> Tensor:
        weight = mass.unsqueeze(-2) * (inverse * inverse * inverse)
        acceleration = add_up(weight.unsqueeze(-1) * separation, -2)
        if self.field is not None:
            acceleration = acceleration + self.field.acceleration(position)
        return acceleration

    def _potential(self, position: Tensor, mass: Tensor, inverse: Tensor) -> Tensor:
        potential = add_up(mass * add_up(mass.unsqueeze(-2) * inverse, -1), -1) * -0.5
        if self.field is not None:
            potential = potential + (mass * self.field.potential(position)).sum(-1)
        return potential


def add_up(values: Tensor, dim: int) -> Tensor:
    """Sum over bodies or dimensions, a short one number by number.

    That keeps the order of the numbers in memory: where all systems' first coordinates lie side by side
    (:func:`by_component`), so do their sums, and torch works on whole vectors of systems.
    """
    if values.shape[dim] > SHORT:
        return values.sum(dim)
    first, *others = values.unbind(dim)
    for other in others:
        first = first + other
    return first


def by_component(values: Tensor, leading: int) -> Tensor:
    """Return the same tensor with its ``leading`` dimensions last in memory."""
    order = [*range(leading, values.dim()), *range(leading)]
    inverse = [order.index(dim) for dim in range(values.dim())]
    return values.permute(order).contiguous().permute(inverse)


def _inverse_square(separation: Tensor) -> Tensor:
    return (separation * separation).sum(-1, keepdim=True).reciprocal()


def _pair_derivatives(
    separation: Tensor, velocity: Tensor, acceleration: Tensor, mass: Tensor | float, inverse2: Tensor
) -> tuple[Tensor, Tensor]:
    """Jerk and snap (..., D) of m x / r^3 for relative x, v and a (..., D), given 1 / r^2 (..., 1)."""
    weight = mass * inverse2 * inverse2.sqrt()
    alpha = (separation * velocity).sum(-1, keepdim=True) * inverse2
    squares = (velocity * velocity + separation * acceleration).sum(-1, keepdim=True)
    beta = squares * inverse2 + alpha * alpha
    pull = weight * separation
    jerk = weight * velocity - 3 * alpha * pull
    return jerk, weight * acceleration - 6 * alpha * jerk - 3 * beta * pull


_EXCLUSIONS: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def self_exclusion(position: Tensor) -> Tensor:
    """An (N, N) matrix with infinity on the diagonal: added to squared distances it takes a body out of its own."""
    key = (position.shape[-2], position.dtype, position.device)
    if key not in _EXCLUSIONS:
        infinity = torch.full((key[0],), torch.inf, dtype=position.dtype, device=position.device)
        _EXCLUSIONS[key] = torch.diag(infinity)
    return _EXCLUSIONS[key]


def kinetic_energy(velocity: Tensor, mass: Tensor) -> Tensor:
    """Kinetic energy (...) of velocities (..., N, D)."""
    return 0.5 * add_up(mass * add_up(velocity * velocity, -1), -1)


def angular_momentum(position: Tensor, velocity: Tensor, mass: Tensor) -> Tensor:
    """Total angular momentum sum m x cross v: (..., 1) in two dimensions, (..., 3) in three."""
    if position.shape[-1] == 3:
        moment: Tensor = torch.linalg.cross(position, velocity)
    else:
        moment = (position[..., 0] * velocity[..., 1] - position[..., 1] * velocity[..., 0]).unsqueeze(-1)
    return add_up(mass.unsqueeze(-1) * moment, -2)


def relative_energy_scale(energy: Tensor, magnitude: Tensor) -> Tensor:
    """Return max(|E|, 1e-3 (kinetic + |potential|)), so that a system with E = 0 can be trained."""
    return torch.maximum(energy.abs(), 1e-3 * magnitude)
