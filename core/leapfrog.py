"""Kick-drift-kick leapfrog with one time step per system, and the energy it reaches.

One force evaluation a step: the last kick's acceleration is the next step's first. A block is
``n_steps`` steps of one dt: one proposal, one verdict. G = 1.
"""

from typing import NamedTuple

from torch import Tensor

from core.forces import Forces, State, add_up, kinetic_energy


class Block(NamedTuple):
    """Where a block of leapfrog steps ends: the state and its energies (...)."""

    state: State
    kinetic: Tensor
    potential: Tensor

    @property
    def energy(self) -> Tensor:
        """Total energy (...)."""
        return self.kinetic + self.potential


class Tangent(NamedTuple):
    """Derivatives of a block's end with respect to its dt: energy (...), position and velocity (..., N, D)."""

    energy: Tensor
    position: Tensor
    velocity: Tensor


def leapfrog(state: State, dt: Tensor, forces: Forces, n_steps: int = 1) -> Block:
    """Take ``n_steps`` steps of ``dt`` (...) from ``state`` (..., N, D). Differentiable in dt."""
    step = dt[..., None, None]
    half = 0.5 * step
    position, velocity, acceleration, mass = state
    for _ in range(n_steps):
        middle = velocity + half * acceleration
        position = position + step * middle
        acceleration, potential = forces.acceleration_and_potential(position, mass)
        velocity = middle + half * acceleration
    return Block(State(position, velocity, acceleration, mass), kinetic_energy(velocity, mass), potential)


def leapfrog_with_slope(state: State, dt: Tensor, forces: Forces, n_steps: int = 1) -> tuple[Block, Tangent]:
    """Do as :func:`leapfrog` does, and return the tangent d/d(dt) too, carried along in closed form.

    The tangent of the acceleration is the jerk formula along d position / d(dt), and the slope of
    the energy is sum m (v . dv - a . dx): one scalar per system, so that training needs no
    autograd through the physics.
    """
    step = dt[..., None, None]
    half = 0.5 * step
    position, velocity, acceleration, mass = state
    d_velocity = d_acceleration = d_position = None
    for _ in range(n_steps):
        kick = half * acceleration
        middle = velocity + kick
        d_middle = 0.5 * acceleration
        if d_velocity is not None and d_acceleration is not None:
            d_middle = d_middle + d_velocity + half * d_acceleration
        position = position + step * middle
        d_drift = middle + step * d_middle
        d_position = d_drift if d_position is None else d_position + d_drift
        acceleration, d_acceleration, potential = forces.all_with_jerk(position, d_position, mass)
        velocity = middle + half * acceleration
        d_velocity = d_middle + 0.5 * acceleration + half * d_acceleration
    assert d_velocity is not None
    assert d_position is not None
    slope = add_up(mass * add_up(velocity * d_velocity - acceleration * d_position, -1), -1)
    block = Block(State(position, velocity, acceleration, mass), kinetic_energy(velocity, mass), potential)
    return block, Tangent(slope, d_position, d_velocity)
