"""Systems that tests integrate, and the transformations that must not change what a step criterion sees."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.config import Config
from core.features import InputScales
from core.forces import Forces, State, TidalField
from core.history import input_width
from core.network import FullyConnectedNN
from core.orbits import kepler_period, two_body
from core.timestep import Learned

GRAVITY = Forces()


def tidal_field(dim: int, mass: float = 20.0) -> TidalField:
    """A point mass some way off, in no special direction."""
    return TidalField(mass, torch.tensor([3.0, -2.0, 1.5][:dim], dtype=torch.float64))


def random_system(
    bodies: int,
    dim: int = 3,
    seed: int = 1,
    leading: Sequence[int] = (),
    forces: Forces = GRAVITY,
    dtype: torch.dtype = torch.float64,
) -> State:
    """Bodies of unequal masses at random places, (*leading, bodies, dim)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, bodies, dim)
    position = torch.randn(shape, dtype=torch.float64, generator=generator)
    velocity = 0.5 * torch.randn(shape, dtype=torch.float64, generator=generator)
    mass = 0.5 + torch.rand(shape[:-1], dtype=torch.float64, generator=generator)
    return forces.state(position.to(dtype), velocity.to(dtype), mass.to(dtype))


def kepler_system(
    eccentricity: float, masses: Sequence[float] = (1.0, 1.0), semi_major_axis: float = 1.0, dim: int = 2
) -> tuple[State, float]:
    """A two-body system at pericentre, and its period."""
    axis, mass = torch.tensor(semi_major_axis, dtype=torch.float64), torch.tensor(masses, dtype=torch.float64)
    position, velocity = two_body(axis, torch.full_like(axis, eccentricity), mass, dim)
    return GRAVITY.state(position, velocity, mass), float(kepler_period(axis, mass.sum()))


def scaled(state: State, length: float, mass: float = 1.0) -> State:
    """The same system with lengths x ``length`` and masses x ``mass``: times grow by sqrt(length^3 / mass)."""
    speed = math.sqrt(mass / length)
    return GRAVITY.state(state.position * length, state.velocity * speed, state.mass * mass)


def rotation(dim: int, seed: int = 5) -> Tensor:
    """A random rotation matrix (dim, dim)."""
    matrix = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    orthogonal = torch.linalg.qr(matrix)[0]
    orthogonal[:, 0] *= torch.linalg.det(orthogonal).sign()
    return orthogonal


def learned(seed: int = 3, scales: InputScales = InputScales(), **settings: Any) -> Learned:  # noqa: B008
    """A step criterion with a small random network whose proposals depend visibly on its inputs."""
    config = Config(**{"hidden_dims": (16, 16), "device": "cpu", "n_steps": 1} | settings)
    network = FullyConnectedNN(
        [input_width(config)], config.hidden_dims, config.activation, config.torch_dtype, torch.device("cpu")
    )
    network.initialize(0, torch.Generator().manual_seed(seed), output_bias=math.log(0.02))
    network.layers[-1][0].mul_(10)
    return Learned(config, scales, network)
