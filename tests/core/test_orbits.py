"""Initial conditions: pericentre starts and random systems, centre of mass at rest for any masses."""

import math

import pytest
import torch

from core.config import Config
from core.errors import ConfigError
from core.forces import Forces
from core.leapfrog import leapfrog
from core.orbits import crossing_time, draw, forces_of, kepler_period, two_body
from core.trainer import Trainer
from tests.systems import GRAVITY, kepler_system

MASSES = [(1.0, 1.0), (3.0, 0.2), (0.01, 5.0), (1.0, 0.0), (0.0, 1.0)]


def drawn(seed=0, count=20, **settings):
    return draw(Config(**settings), count, torch.Generator().manual_seed(seed))


def centre(vectors, mass):
    return (mass[..., None] * vectors).sum(-2) / mass.sum(-1)[..., None]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("masses", MASSES)
def test_two_body_starts_at_pericentre(masses, dim):
    axis, eccentricity = torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    mass = torch.tensor(masses, dtype=torch.float64)
    position, velocity = two_body(axis, eccentricity, mass, dim)
    separation, relative = position[1] - position[0], velocity[1] - velocity[0]
    total = mass.sum()
    expected = torch.zeros(dim, dtype=torch.float64)
    expected[0] = 1.3 * (1 - 0.7)
    torch.testing.assert_close(separation, expected)
    assert relative @ separation == 0
    vis_viva = relative.norm() ** 2 / 2 - total / separation.norm()
    torch.testing.assert_close(vis_viva, -total / (2 * axis))


@pytest.mark.parametrize("masses", MASSES)
def test_centre_of_mass_stays_at_rest_with_unequal_masses(masses):
    """The prototype's centre of mass moved unless the masses were equal."""
    state, period = kepler_system(0.6, masses)
    for _ in range(2):
        assert centre(state.position, state.mass).abs().max() < 1e-13
        assert centre(state.velocity, state.mass).abs().max() < 1e-13
        state = leapfrog(state, torch.tensor(period / 200, dtype=torch.float64), GRAVITY, 150).state


def test_period_brings_the_bodies_back():
    state, period = kepler_system(0.6, (1.0, 0.3), semi_major_axis=1.1)
    end = leapfrog(state, torch.tensor(period / 4000, dtype=torch.float64), GRAVITY, 4000).state
    torch.testing.assert_close(end.position, state.position, rtol=0, atol=1e-3)
    torch.testing.assert_close(kepler_period(torch.tensor(4.0), torch.tensor(16.0)), torch.tensor(4 * math.pi))


def test_draw_takes_two_body_orbits_from_the_ranges():
    settings = {"e_min": 0.2, "e_max": 0.5, "a_min": 0.9, "a_max": 1.1, "mass": (1.0, 0.5)}
    state, period = drawn(count=200, **settings)
    axis = (period / (2 * math.pi)) ** (2 / 3) * 1.5 ** (1 / 3)
    eccentricity = 1 - (state.position[:, 1] - state.position[:, 0]).norm(dim=-1) / axis
    for values, low, high in ((axis, 0.9, 1.1), (eccentricity, 0.2, 0.5)):
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high >= values.max() > high - 0.05 * (high - low)
    torch.testing.assert_close(GRAVITY.energy(state)[0], -0.25 / axis)
    torch.testing.assert_close(state.acceleration, GRAVITY.acceleration(state.position, state.mass))


@pytest.mark.parametrize("dim", [2, 3])
def test_draw_removes_the_mass_weighted_centre_of_random_systems(dim):
    mass = (1.0, 5.0, 0.1, 0.0)
    state, period = drawn(num_particles=4, dim=dim, mass=mass, pos_scale=0.5)
    assert state.position.shape == (20, 4, dim)
    for vectors in (state.position, state.velocity):
        assert centre(vectors, state.mass).abs().max() < 1e-14
        assert vectors.mean(-2).abs().max() > 0.05  # the plain mean is another point
    torch.testing.assert_close(period, crossing_time(GRAVITY.energy(state)[0], state.mass.sum(-1)))


def test_crossing_time():
    torch.testing.assert_close(crossing_time(torch.tensor(-2.0), torch.tensor(4.0)), torch.tensor(4.0))


def test_draw_is_its_generators():
    for settings in ({}, {"num_particles": 3}):
        first, again, other = drawn(1, **settings), drawn(1, **settings), drawn(2, **settings)
        assert torch.equal(first.state.position, again.state.position)
        assert not torch.equal(first.state.position, other.state.position)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_draw_gives_the_configs_dtype_and_times_in_float64(dtype):
    state, period = drawn(dtype=dtype)
    assert {tensor.dtype for tensor in state} == {getattr(torch, dtype)}
    assert period.dtype == torch.float64


@pytest.mark.parametrize(("dim", "place"), [(2, (3.0, -2.0)), (3, (3.0, -2.0, 1.0))])
def test_external_field_acts_in_drawn_states(dim, place):
    """The prototype's external field did not act in training: states are made with the config's own forces."""
    settings = {"dim": dim, "external_field_mass": 10.0, "external_field_position": place, "softening": 0.1}
    forces = forces_of(Config(**settings))
    assert forces.softening == 0.1
    assert forces.field is not None
    state, _ = drawn(**settings)
    tide = state.acceleration - Forces(0.1).acceleration(state.position, state.mass)
    torch.testing.assert_close(tide, forces.field.acceleration(state.position), rtol=1e-9, atol=1e-12)
    assert tide.norm(dim=-1).min() > 1e-3


def test_bodies_too_close_to_each_other_are_refused():
    with pytest.raises(ConfigError, match="are too large or too small for float64"):
        drawn(num_particles=3, pos_scale=1e-200)


def test_more_systems_than_memory_holds_are_refused():
    with pytest.raises(ConfigError, match=r"`num_orbits` is 1000000000000, but must be at most \d+ here: .* 3 bodies"):
        draw(Config(num_particles=3), 10**12, torch.Generator())
    with pytest.raises(ConfigError, match=r"`num_orbits` is 1000000000000, but must be at most \d+ here"):
        Trainer([Config(num_orbits=10**12)])
