"""PRS23 and the oracle against their definitions, REBOUND, and what was measured elsewhere."""

import numpy as np
import pytest
import rebound
import torch

from core.forces import Forces, relative_energy_scale
from core.leapfrog import leapfrog
from core.oracle import Oracle
from core.simulation import simulate
from core.timestep import PRS23, Dynamical, Fixed
from tests.systems import GRAVITY, kepler_system, random_system, tidal_field


def along_the_motion(forces, state):
    """Jerk and snap by automatic differentiation of a(x(t)), with x and v from a Taylor series in t."""

    def acceleration(time):
        position = state.position + time * state.velocity + time**2 / 2 * state.acceleration
        return forces.acceleration(position, state.mass)

    zero = torch.tensor(0.0, dtype=torch.float64)
    jerk = torch.func.jacfwd(acceleration)
    return jerk(zero), torch.func.jacfwd(jerk)(zero)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "softened", "tidal"])
def test_jerk_and_snap_are_derivatives(kind, dim):
    """The pairwise formulas against derivatives of the acceleration itself, a(x(t)) to second order in t."""
    field = tidal_field(dim) if kind == "tidal" else None
    forces = Forces(0.3 if kind == "softened" else 0.0, field)
    state = random_system(4, dim, forces=forces)
    for ours, theirs in zip(forces.jerk_and_snap(state), along_the_motion(forces, state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("bodies", [2, 3, 5])
def test_prs23_is_the_step_of_ias15(bodies, seed):
    """REBOUND's step after a step is (5040 epsilon)^(1/7) tau of the state that it reached."""
    state = random_system(bodies, 3, seed=seed)
    simulation = rebound.Simulation()
    simulation.integrator = "ias15"
    for mass, position, velocity in zip(state.mass, state.position, state.velocity, strict=True):
        x, y, z = position.tolist()
        vx, vy, vz = velocity.tolist()
        simulation.add(m=float(mass), x=x, y=y, z=z, vx=vx, vy=vy, vz=vz)
    simulation.dt = 1e-3
    simulation.steps(4)
    reached = GRAVITY.state(
        *(torch.tensor([getattr(body, name) for body in simulation.particles], dtype=torch.float64)
          for name in ("xyz", "vxyz")),
        state.mass,
    )
    eta = (5040 * 1e-9) ** (1 / 7)  # IAS15's default epsilon
    criterion = PRS23(eta, GRAVITY)
    assert simulation.dt == pytest.approx(float(criterion.propose(reached, criterion.init(reached))), rel=2e-3)


def test_prs23_on_a_circular_orbit():
    """a, j and s are r w^2, r w^3 and r w^4: tau is 1 / w, whatever the masses."""
    state, period = kepler_system(0.0, (1.0, 0.01), semi_major_axis=2.0)
    criterion = PRS23(1.0, GRAVITY)
    assert float(criterion.propose(state, criterion.init(state))) == pytest.approx(period / (2 * np.pi), rel=1e-12)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_oracle_takes_the_first_crossing(tolerance):
    """Tried by force: all smaller steps keep the tolerance, and one that is 0.1 % larger does not."""
    states, criterion = random_system(3, 2, leading=(40,)), Oracle(tolerance, GRAVITY)
    dt = criterion.propose(states, criterion.init(states))
    energy, magnitude = GRAVITY.energy(states)
    scale = relative_energy_scale(energy, magnitude)
    shares = torch.linspace(0.01, 1.0, 400, dtype=torch.float64)

    def error(step):
        return (leapfrog(states, step, GRAVITY).energy - energy).abs() / scale

    assert all((error(share * dt) <= tolerance * (1 + 1e-9)).all() for share in shares)
    assert (error(1.001 * dt) > tolerance).all()


# Force evaluations at equal error --------------------------------------------------------------------


def measured(make, low, high, eccentricity, periods, count, step_rule="direct"):
    """Errors and force evaluations per period of ``count`` constants at once, one orbit."""
    state, period = kepler_system(eccentricity)
    state = state.map(lambda tensor: tensor.expand(count, *tensor.shape))
    lengths = torch.full((count,), period, dtype=torch.float64)
    constants = torch.from_numpy(np.geomspace(low, high, count))
    record = simulate(
        state, make(constants), GRAVITY, lengths, (periods,), fail_above=10, steps_per_period=1e5, step_rule=step_rule
    ).records[0]
    return record.max_rel_dE.numpy(), (record.force_evaluations / (record.time / lengths)).numpy()


@pytest.mark.parametrize(
    ("steps", "fixed", "dynamical"),
    [(68, 6.6e-2, 6.9e-3), (194, 7.8e-3, 8.8e-4), (253, 4.6e-3, 5.2e-4), (540, 1.0e-3, 1.14e-4)],
)
def test_classical_criteria_at_moderate_eccentricity(steps, fixed, dynamical):
    """max |dE/E| over 3 periods at so many steps an orbit, e = 0.6: as an earlier implementation measured it."""
    _, period = kepler_system(0.6)
    error, _ = measured(Fixed, period / steps, period / steps, 0.6, 3, 1)
    assert error[0] == pytest.approx(fixed, rel=0.05)
    error, cost = measured(Dynamical, 5.5 / steps, 9 / steps, 0.6, 3, 12)
    at = np.exp(np.interp(np.log(steps), np.log(cost[::-1]), np.log(error[::-1])))
    assert at == pytest.approx(dynamical, rel=0.05)


@pytest.mark.parametrize(
    ("name", "make", "low", "high", "periods", "evaluations"),
    [
        ("fixed", Fixed, 4.4e-4, 4.6e-4, 2, 9900),  # so fine a step finds the same error at every pericentre
        ("dynamical", Dynamical, 0.009, 0.016, 10, 612),
        ("prs23", lambda eta: PRS23(eta, GRAVITY), 0.014, 0.034, 10, 623),
        ("oracle", lambda tolerance: Oracle(tolerance, GRAVITY), 3e-6, 3e-5, 10, 422),
    ],
)
def test_cost_of_an_error_of_a_thousandth(name, make, low, high, periods, evaluations):
    """e = 0.9, a = 1, unit masses: force evaluations an orbit, each constant tuned to max |dE/E| = 1e-3."""
    error, cost = measured(make, low, high, 0.9, periods, 4)
    assert error.min() < 1e-3 < error.max(), name
    order = np.argsort(error)
    at = np.exp(np.interp(np.log(1e-3), np.log(error[order]), np.log(cost[order])))
    assert at == pytest.approx(evaluations, rel=0.05)
