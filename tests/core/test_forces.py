"""Forces: every one is minus the gradient of its potential, and the energy that includes them is conserved."""

import pytest
import torch

from core.forces import Forces, State, TidalField, relative_energy_scale
from core.leapfrog import leapfrog
from tests.systems import GRAVITY, random_system, tidal_field


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("softening", [0.0, 0.3])
def test_acceleration_is_minus_the_gradient_of_the_potential(softening, external, dim):
    forces = Forces(softening, tidal_field(dim) if external else None)
    state = random_system(5, dim, leading=(2,))
    position = state.position.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(forces.potential(position, state.mass).sum(), position)
    force = state.mass[..., None] * forces.acceleration(state.position, state.mass)
    torch.testing.assert_close(force, -gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
def test_tide_is_minus_the_gradient_of_its_potential(dim):
    field = tidal_field(dim)
    position = random_system(6, dim).position.requires_grad_()
    (gradient,) = torch.autograd.grad(field.potential(position).sum(), position)
    torch.testing.assert_close(field.acceleration(position.detach()), -gradient, rtol=1e-12, atol=1e-12)


def test_tide_far_away_is_a_quadrupole_and_vanishes_at_the_origin():
    place = torch.tensor([1200.0, 500.0, 0.0], dtype=torch.float64)
    field, distance = TidalField(1e9, place), 1300.0
    position = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, -0.7]], dtype=torch.float64)
    outwards = place / distance
    expected = 1e9 / distance**3 * (3 * (position @ outwards)[:, None] * outwards - position)
    torch.testing.assert_close(field.acceleration(position), expected, rtol=5e-3, atol=1e-12)
    assert field.potential(position)[0] == 0


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("softening", [0.0, 0.3])
def test_jerk_is_the_derivative_of_the_acceleration_along_the_velocity(softening, dim):
    forces = Forces(softening, tidal_field(dim))
    position, velocity, _, mass = random_system(4, dim, leading=(2,))
    _, expected = torch.autograd.functional.jvp(lambda x: forces.acceleration(x, mass), position, velocity)
    acceleration, jerk, potential = forces.all_with_jerk(position, velocity, mass)
    torch.testing.assert_close(jerk, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(acceleration, forces.acceleration(position, mass), rtol=1e-14, atol=0)
    torch.testing.assert_close(potential, forces.potential(position, mass), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dim", [2, 3])
def test_external_field_is_in_the_energy(dim):
    """The prototype left the field out of the energy, and printed a residual of 0.138 for a true one of -8.5e-6."""
    forces = Forces(0.05, tidal_field(dim))
    state = random_system(3, dim, forces=forces)
    energy, bare = forces.energy(state)[0], Forces(0.05).energy(state)[0]
    end = leapfrog(state, torch.tensor(5e-4, dtype=torch.float64), forces, 2000).state
    assert abs(forces.energy(end)[0] / energy - 1) < 1e-4
    assert abs(Forces(0.05).energy(end)[0] / bare - 1) > 1e-2


def test_softening_is_in_both_force_and_potential():
    position = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    mass = torch.tensor([2.0, 5.0], dtype=torch.float64)
    acceleration, potential = Forces(4.0).acceleration_and_potential(position, mass)
    torch.testing.assert_close(potential, torch.tensor(-10 / 5, dtype=torch.float64))
    expected = torch.tensor([[5 * 3 / 125, 0.0], [-2 * 3 / 125, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(acceleration, expected)


def test_softened_bodies_at_one_place_pull_with_no_force():
    position = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(Forces(0.1).acceleration(position, torch.ones(3, dtype=torch.float64)), position)


def test_test_particle_is_pulled_and_does_not_pull():
    state = random_system(3)
    mass = torch.cat([state.mass, torch.zeros(1, dtype=torch.float64)])
    position = torch.cat([state.position, torch.tensor([[0.3, -0.4, 2.0]], dtype=torch.float64)])
    acceleration, potential = GRAVITY.acceleration_and_potential(position, mass)
    torch.testing.assert_close(acceleration[:3], state.acceleration, rtol=1e-14, atol=0)
    assert acceleration[3].norm() > 0.1
    torch.testing.assert_close(potential, GRAVITY.potential(state.position, state.mass), rtol=1e-14, atol=0)


def test_any_leading_dimensions():
    state = random_system(3, leading=(2, 4))
    energy, magnitude = GRAVITY.energy(state)
    assert energy.shape == magnitude.shape == (2, 4)
    one = GRAVITY.state(*(tensor[1, 2] for tensor in (state.position, state.velocity, state.mass)))
    torch.testing.assert_close(one.acceleration, state.acceleration[1, 2], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(GRAVITY.energy(one)[0], energy[1, 2], rtol=1e-14, atol=0)


def test_system_without_energy_has_an_error_scale():
    """A parabolic orbit has E = 0, and its relative error must not divide by it."""
    position = torch.tensor([[-0.5, 0.0], [0.5, 0.0]], dtype=torch.float64)
    velocity = torch.tensor([[0.0, -1.0], [0.0, 1.0]], dtype=torch.float64)
    mass = torch.ones(2, dtype=torch.float64)
    energy, magnitude = GRAVITY.energy(State(position, velocity, position, mass))
    assert energy == 0
    assert relative_energy_scale(energy, magnitude) == 2e-3  # |kinetic| + |potential| = 1 + 1
    assert relative_energy_scale(torch.tensor(-0.5), torch.tensor(1.0)) == 0.5
