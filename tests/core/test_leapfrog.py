"""The integrator: its order, its symmetry, what it conserves, and the slope of the energy that training uses."""

import math

import numpy as np
import pytest
import rebound
import torch

from core.forces import Forces, State, kinetic_energy
from core.leapfrog import leapfrog, leapfrog_with_slope
from tests.kepler import relative_orbit
from tests.systems import GRAVITY, kepler_system, random_system, tidal_field


def fly(state: State, duration: float, steps: int, forces: Forces = GRAVITY) -> State:
    dt = torch.full(state.mass.shape[:-1], duration / steps, dtype=state.mass.dtype)
    return leapfrog(state, dt, forces, steps).state


def order(steps: list[int], errors: list[float]) -> float:
    """Minus the slope of log error over log steps."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize(("eccentricity", "masses"), [(0.3, (1.0, 1.0)), (0.6, (1.0, 0.1)), (0.6, (1.0, 0.0))])
def test_orbit_agrees_with_the_kepler_solution_to_second_order(eccentricity, masses):
    state, period = kepler_system(eccentricity, masses)
    duration = 0.7 * period
    position, velocity = relative_orbit(duration, 1.0, eccentricity, sum(masses))
    steps, errors = [500, 1000, 2000, 4000], []
    for count in steps:
        end = fly(state, duration, count)
        separation = (end.position[1] - end.position[0]).numpy() - position
        approach = (end.velocity[1] - end.velocity[0]).numpy() - velocity
        errors.append(math.hypot(*separation, *approach))
    assert order(steps, errors) == pytest.approx(2.0, abs=0.05)
    assert errors[-1] < 1e-3


def test_energy_error_is_second_order():
    state, period = kepler_system(0.6)
    energy = GRAVITY.energy(state)[0]
    steps, errors = [250, 500, 1000, 2000], []
    for count in steps:
        worst, now = 0.0, state
        for _ in range(50):  # half an orbit: the error of a whole one cancels
            now = fly(now, period / 100, count // 50)
            worst = max(worst, float(abs(GRAVITY.energy(now)[0] - energy)))
        errors.append(worst)
    assert order(steps, errors) == pytest.approx(2.0, abs=0.05)


def test_time_reversible():
    state, period = kepler_system(0.6)
    there = fly(state, 5 * period, 1000)
    back = fly(there._replace(velocity=-there.velocity), 5 * period, 1000)
    assert (there.position - state.position).abs().max() > 0.1
    torch.testing.assert_close(back.position, state.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(-back.velocity, state.velocity, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [3, 4, 8])
def test_four_bodies_agree_with_ias15(seed):
    state, duration = random_system(4, seed=seed), 1.0
    reference = rebound.Simulation()
    reference.integrator = "ias15"
    for (x, y, z), (vx, vy, vz), mass in zip(*(part.tolist() for part in (*state[:2], state.mass)), strict=True):
        reference.add(m=mass, x=x, y=y, z=z, vx=vx, vy=vy, vz=vz)
    reference.integrate(duration)
    expected = torch.tensor([particle.xyz for particle in reference.particles], dtype=torch.float64)
    assert (expected - state.position).abs().max() > 0.3
    steps = [500, 1000, 2000, 4000]
    errors = [float((fly(state, duration, count).position - expected).norm()) for count in steps]
    assert order(steps, errors) == pytest.approx(2.0, abs=0.05)
    assert errors[-1] < 1e-5


def test_momentum_and_angular_momentum_are_conserved():
    state = random_system(5)
    end = fly(state, 0.5, 100)
    for before, after in zip(_momenta(state), _momenta(end), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def _momenta(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    momentum = state.mass[:, None] * state.velocity
    return momentum.sum(0), torch.linalg.cross(state.position, momentum).sum(0)


def test_block_is_its_single_steps():
    state, dt = random_system(3, leading=(2,)), torch.tensor([0.01, 0.02], dtype=torch.float64)
    block = leapfrog(state, dt, GRAVITY, n_steps=5)
    for _ in range(5):
        single = leapfrog(state, dt, GRAVITY)
        state = single.state
    for ours, theirs in zip(block.state, state, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(block.energy, single.energy)
    torch.testing.assert_close(block.energy, GRAVITY.energy(state)[0], rtol=1e-14, atol=0)
    assert torch.equal(block.state.acceleration, GRAVITY.acceleration(state.position, state.mass))


@pytest.mark.parametrize("method", [leapfrog, leapfrog_with_slope])
def test_one_force_evaluation_a_step(method):
    evaluations = []

    class Counting(Forces):
        def _pairs(self, position):
            evaluations.append(position)
            return super()._pairs(position)

    state = random_system(3)
    method(state, torch.tensor(0.01, dtype=torch.float64), Counting(), n_steps=7)
    assert len(evaluations) == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype(dtype):
    """The prototype integrated in float32 whatever was asked for."""
    block = leapfrog(random_system(3, dtype=dtype), torch.tensor(0.01, dtype=dtype), GRAVITY)
    assert all(tensor.dtype == dtype for tensor in (*block.state, block.energy))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("softening", [0.0, 0.2])
@pytest.mark.parametrize("bodies", [2, 4])
@pytest.mark.parametrize("n_steps", [1, 5])
def test_slope_of_the_energy(n_steps, bodies, softening, external, dim):
    forces = Forces(softening, tidal_field(dim) if external else None)
    state = random_system(bodies, dim, leading=(3,), forces=forces)
    dt = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64, requires_grad=True)
    plain = leapfrog(state, dt, forces, n_steps)
    (expected,) = torch.autograd.grad(plain.energy.sum(), dt)
    block, (slope, *_) = leapfrog_with_slope(state, dt.detach(), forces, n_steps)
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(block.energy, plain.energy.detach(), rtol=1e-14, atol=0)
    for ours, theirs in zip(block.state, plain.state, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("n_steps", [1, 5])
def test_gradient_of_the_relative_energy_error_in_dt(n_steps):
    forces = Forces(0.1, tidal_field(3))
    state = random_system(4, leading=(3,), forces=forces)
    energy = forces.energy(state)[0]
    dt = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda step: (leapfrog(state, step, forces, n_steps).energy - energy) / energy, dt)


def test_kinetic_energy():
    velocity = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert kinetic_energy(velocity, torch.tensor([2.0, 0.5])) == 26.0
