"""Initial conditions: two-body orbits at pericentre and random systems, centre of mass at rest. G = 1."""

import os
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from core.config import Config
from core.errors import ConfigError
from core.forces import Forces, State, TidalField

#: Copies of a state, and of what is known of its pairs, that a simulation holds at once at least, as measured.
_COPIES, _PAIR_COPIES = 20, 4


class Orbits(NamedTuple):
    """A batch of systems: states with one leading dimension, and each one's unit of time (M,), float64."""

    state: State
    period: Tensor


def forces_of(config: Config) -> Forces:
    """The forces that a config names, on its device and in its dtype."""
    if config.external_field_mass is None or config.external_field_position is None:
        return Forces(config.softening)
    position = torch.tensor(
        config.external_field_position, dtype=config.torch_dtype, device=config.torch_device
    )
    return Forces(config.softening, TidalField(config.external_field_mass, position))


def two_body(semi_major_axis: Tensor, eccentricity: Tensor, mass: Tensor, dim: int = 2) -> tuple[Tensor, Tensor]:
    """Positions and velocities (..., 2, D) at pericentre on the x axis, centre of mass at rest at the origin.

    ``semi_major_axis`` and ``eccentricity`` (...), ``mass`` (..., 2) with a positive sum; dim 2 or 3.
    """
    total = mass.sum(-1)
    distance = semi_major_axis * (1 - eccentricity)
    speed = torch.sqrt(total / semi_major_axis * (1 + eccentricity) / (1 - eccentricity))
    zero = torch.zeros_like(distance)
    separation = torch.stack([distance, zero, zero][:dim], -1)
    relative = torch.stack([zero, speed, zero][:dim], -1)
    # Body 0 and body 1 share the separation x_1 - x_0 in inverse proportion to their masses.
    share = torch.stack([-mass[..., 1], mass[..., 0]], -1) / total.unsqueeze(-1)
    return share.unsqueeze(-1) * separation.unsqueeze(-2), share.unsqueeze(-1) * relative.unsqueeze(-2)


def at_one_place(state: State) -> bool:
    """Say whether any two bodies of any system (..., N, D) are at the same place."""
    bodies = state.position.shape[-2]
    first, second = torch.triu_indices(bodies, bodies, offset=1)
    return bool((state.position[..., first, :] == state.position[..., second, :]).all(-1).any())


def remove_centre(vectors: Tensor, mass: Tensor) -> Tensor:
    """Subtract the mass-weighted mean of ``vectors`` (..., N, D)."""
    weight = (mass / mass.sum(-1, keepdim=True)).unsqueeze(-1)
    return vectors - (weight * vectors).sum(-2, keepdim=True)


def kepler_period(semi_major_axis: Tensor, total_mass: Tensor) -> Tensor:
    """Orbital period 2 pi sqrt(a^3 / M)."""
    return 2 * torch.pi * torch.sqrt(semi_major_axis**3 / total_mass)


def crossing_time(energy: Tensor, total_mass: Tensor) -> Tensor:
    """Crossing time M^(5/2) / (2 |E|)^(3/2), the unit of time of more than two bodies."""
    return total_mass**2.5 / (2 * energy.abs()) ** 1.5


def check_fits_memory(config: Config, count: int) -> None:
    """Raise ConfigError where this machine's memory cannot hold so many systems and what is computed from them."""
    bodies, vectors = config.num_particles, config.num_particles * config.dim
    of_one = 8 * (_COPIES * (3 * vectors + bodies) + _PAIR_COPIES * bodies * vectors)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count * of_one > memory:
        raise ConfigError(
            f"The value of `num_orbits` is {count}, but must be at most {memory // of_one} here: more systems of "
            f"{bodies} bodies do not fit in the {memory / 2**30:.0f} GiB of this machine."
        )


def draw(config: Config, count: int, generator: Generator) -> Orbits:
    """Draw ``count`` systems as ``config`` describes them, from a CPU ``generator``.

    Two bodies take uniform semi-major axes and eccentricities from [a_min, a_max] x [e_min, e_max];
    more bodies take normal positions and velocities times pos_scale and vel_scale.
    """
    check_fits_memory(config, count)
    uniform = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    mass = torch.tensor(config.masses, dtype=torch.float64).expand(count, -1)
    if config.num_particles == 2:
        axis = config.a_min + (config.a_max - config.a_min) * uniform[:, 0]
        eccentricity = config.e_min + (config.e_max - config.e_min) * uniform[:, 1]
        position, velocity = two_body(axis, eccentricity, mass, config.dim)
        period = kepler_period(axis, mass.sum(-1))
    else:
        shape = (2, count, config.num_particles, config.dim)
        random = torch.randn(shape, dtype=torch.float64, generator=generator)
        position = remove_centre(config.pos_scale * random[0], mass)
        velocity = remove_centre(config.vel_scale * random[1], mass)
        energy = Forces(config.softening).energy(State(position, velocity, position, mass))[0]
        period = crossing_time(energy, mass.sum(-1))
    forces = forces_of(config)
    device, dtype = config.torch_device, config.torch_dtype
    state = forces.state(position.to(device, dtype), velocity.to(device, dtype), mass.to(device, dtype))
    if not torch.isfinite(state.acceleration).all():
        if not at_one_place(state):
            raise ConfigError(
                f"The masses or lengths of the initial conditions are too large or too small for {config.dtype}: "
                "accelerations are not finite; choose other units."
            )
        raise ConfigError("The initial conditions have bodies at one place; use another seed or a softening > 0.")
    return Orbits(state, period.to(config.torch_device))
