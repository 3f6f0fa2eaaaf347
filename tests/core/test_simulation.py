"""A simulation: where it ends, what the guard does again, what an observer sees, and how exact it is."""

import math

import numpy as np
import pytest
import torch

from core.config import Config
from core.forces import Forces, State, kinetic_energy
from core.orbits import draw
from core.simulation import GUARD_HALVINGS, Moved, Outcome, simulate
from core.timestep import Dynamical, Fixed
from tests.kepler import relative_orbit
from tests.systems import GRAVITY, kepler_system, learned, random_system, tidal_field


def orbits(count: int = 5):
    return draw(Config(device="cpu"), count, torch.Generator().manual_seed(11))


def one(eccentricity: float) -> tuple[State, torch.Tensor]:
    state, period = kepler_system(eccentricity)
    return state.map(lambda tensor: tensor.unsqueeze(0)), torch.tensor([period], dtype=torch.float64)


# Ends ----------------------------------------------------------------------------------------------


def test_each_system_ends_after_its_own_periods():
    state, period = orbits()
    record = simulate(state, Dynamical(0.05), GRAVITY, period, (3,)).records[0]
    assert (record.time >= 3 * period).all()
    assert (record.time < 3.02 * period).all()
    assert len(set(record.steps.tolist())) > 1


def test_all_systems_end_at_one_duration():
    state, period = orbits()
    record = simulate(state, Fixed(0.003), GRAVITY, period, duration=0.5, fail_above=math.inf).records[0]
    assert record.steps.tolist() == [167] * 5
    assert record.time.tolist() == pytest.approx([0.501] * 5)


def test_all_systems_end_after_so_many_steps():
    """Those that go slowest, too; a step is a block of n_steps."""
    state, period = orbits()
    (record,) = simulate(state, Dynamical(0.01), GRAVITY, period, steps=45, n_steps=3).records
    assert record.steps.tolist() == [45] * 5
    assert record.force_evaluations.tolist() == [135] * 5
    assert not record.failed.any()


def test_what_comes_first_ends_a_run():
    state, period = orbits()
    free = simulate(state, Dynamical(0.05), GRAVITY, period, (3,)).records[0]
    limit = int(free.steps.median())
    record = simulate(state, Dynamical(0.05), GRAVITY, period, (3,), steps=limit).records[0]
    assert record.steps.tolist() == [min(limit, count) for count in free.steps.tolist()]
    assert not record.failed.any()


def test_a_run_without_an_end_is_refused():
    state, period = orbits()
    with pytest.raises(ValueError, match="never end"):
        simulate(state, Dynamical(0.05), GRAVITY, period)


@pytest.mark.parametrize("end", [{"periods": (1,)}, {"duration": 1.0}])
def test_steps_that_lead_nowhere_meet_a_cap(end):
    """Tiny steps, and a NaN, on which the prototype looped for ever."""
    state, period = orbits(3)
    dt = torch.tensor([1e-12, math.nan, 0.005], dtype=torch.float64)
    record = simulate(state, Fixed(dt), GRAVITY, period, steps_per_period=100, fail_above=math.inf, **end).records[0]
    assert record.failed.tolist() == [True, True, True]
    assert record.steps[1] == 1
    assert 100 < record.steps[0] < 200


def test_a_failed_system_does_not_stop_the_others():
    state, period = orbits(3)
    dt = torch.tensor([5.0, 1e-3, 1e-3], dtype=torch.float64)
    record = simulate(state, Fixed(dt), GRAVITY, period, steps=50).records[0]
    assert record.failed.tolist() == [True, False, False]
    assert record.steps.tolist() == [1, 50, 50]


# What is reported ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_energies_and_errors_are_those_of_the_states(dim):
    forces = Forces(0.1, tidal_field(dim))
    state = random_system(3, dim, leading=(4,), forces=forces)
    outcome = simulate(state, Dynamical(0.2), forces, torch.ones(4, dtype=torch.float64), steps=100, fail_above=1.0)
    record = outcome.records[0]
    first, last = (
        kinetic_energy(now.velocity, now.mass) + forces.potential(now.position, now.mass)
        for now in (state, outcome.state)
    )
    torch.testing.assert_close(record.initial_energy, first, rtol=1e-14, atol=0)
    torch.testing.assert_close(record.final_energy, last, rtol=1e-13, atol=0)
    torch.testing.assert_close(record.final_rel_dE, (last - first).abs() / first.abs(), rtol=1e-9, atol=1e-13)
    assert (record.max_rel_dE >= record.final_rel_dE).all()
    assert (record.max_rel_dE > record.final_rel_dE).any()


def test_momentum_and_angular_momentum_are_kept_but_for_round_off():
    state = random_system(4, 3, leading=(3,))
    record = simulate(state, Dynamical(0.1), GRAVITY, torch.ones(3), steps=200, fail_above=math.inf).records[0]
    for error in (record.momentum_error, record.angular_momentum_error):
        assert (error < 1e-13).all()
        assert (error > 0).any()


@pytest.mark.parametrize("dim", [2, 3])
def test_momentum_errors_are_relative_to_what_the_bodies_carry(dim):
    """A tide does change momentum and angular momentum: by as much as the definition says."""
    forces = Forces(0.1, tidal_field(dim))
    state = random_system(3, dim, leading=(2,), forces=forces)
    outcome = simulate(state, Dynamical(0.1), forces, torch.ones(2), steps=20)
    carried = []
    for now in (state, outcome.state):
        x, v, m = (tensor.numpy() for tensor in (now.position, now.velocity, now.mass[..., None]))
        sizes = np.linalg.norm(m * v, axis=-1)
        flat = ((0, 0), (0, 0), (0, 3 - dim))
        turning = np.cross(np.pad(x, flat), np.pad(m * v, flat)).sum(1)
        carried.append(((m * v).sum(1), sizes.sum(1), turning, (sizes * np.linalg.norm(x, axis=-1)).sum(1)))
    (p0, s0, l0, t0), (p1, s1, l1, t1) = carried
    record = outcome.records[0]
    np.testing.assert_allclose(record.momentum_error, np.linalg.norm(p1 - p0, axis=-1) / np.maximum(s0, s1), rtol=1e-12)
    np.testing.assert_allclose(
        record.angular_momentum_error, np.linalg.norm(l1 - l0, axis=-1) / np.maximum(t0, t1), rtol=1e-12
    )
    assert (record.momentum_error > 1e-4).all()


def test_bodies_that_start_from_rest_have_a_momentum_error():
    state = random_system(3, leading=(1,))
    state = state._replace(velocity=torch.zeros_like(state.velocity))
    record = simulate(state, Dynamical(0.05), GRAVITY, torch.ones(1), steps=50).records[0]
    assert 0 <= record.momentum_error[0] < 1e-13
    nothing = simulate(state, Fixed(1e-300), GRAVITY, torch.ones(1), steps=1).records[0]
    assert nothing.momentum_error[0] == nothing.angular_momentum_error[0] == 0


def test_eccentric_orbits_follow_the_kepler_solution():
    """The run of the analytic mode that users are promised: 100 orbits at e = 0.9, eps 0.003, 10 periods."""
    config = Config(device="cpu", e_min=0.9, e_max=0.9, mass=(1.0, 0.5))
    state, period = draw(config, 100, torch.Generator().manual_seed(5))
    outcome = simulate(state, Dynamical(0.003), GRAVITY, period, (10,))
    record = outcome.records[0]
    assert not record.failed.any()
    assert record.max_rel_dE.max() < 1e-4
    separation = (outcome.state.position[:, 1] - outcome.state.position[:, 0]).numpy()
    for time, length, found in zip(record.time.tolist(), period.tolist(), separation, strict=True):
        axis = (length**2 * 1.5 / (4 * math.pi**2)) ** (1 / 3)
        expected, _ = relative_orbit(time, axis, 0.9, 1.5)
        assert np.linalg.norm(found - expected) < 0.03 * axis


# The guard -----------------------------------------------------------------------------------------


def by_hand(state: State, criterion, guard: float, steps: int) -> tuple[int, list[float]]:
    """The guard's rule for one system, one step after the other: rejected steps, and the dt that were taken."""
    rejected, taken = 0, []
    for _ in range(steps):
        energy = GRAVITY.energy(state)[0]
        dt = criterion.propose(state, criterion.init(state))
        while True:
            tried = simulate(state, Fixed(dt), GRAVITY, torch.ones(1), steps=1, fail_above=math.inf)
            if abs(tried.records[0].final_energy - energy) <= guard * abs(energy):
                break
            dt, rejected = dt / 2, rejected + 1
        state = tried.state
        taken.append(float(dt))
    return rejected, taken


def watched(state: State, *arguments, **settings) -> tuple[Outcome, list[Moved]]:
    seen: list[Moved] = []
    return simulate(state, *arguments, observer=seen.append, **settings), seen


def test_the_guard_halves_a_step_until_it_passes_and_counts():
    state, period = one(0.9)
    outcome, seen = watched(state, Dynamical(0.3), GRAVITY, period, steps=40, guard=1e-4, fail_above=math.inf)
    rejected, taken = by_hand(state, Dynamical(torch.tensor([0.3], dtype=torch.float64)), 1e-4, 40)
    record = outcome.records[0]
    assert record.rejected[0] == rejected > 10
    assert record.steps[0] == 40
    assert record.force_evaluations[0] == 40 + rejected == seen[-1].force_evaluations[0]
    assert [float(moved.dt) for moved in seen[1:]] == taken


def test_the_guard_keeps_every_step_within_its_threshold():
    state, period = orbits(20)
    free, _ = watched(state, Dynamical(0.3), GRAVITY, period, (2,), threshold=1e-4, fail_above=math.inf)
    assert (free.records[0].violations > 0).all()
    guarded = simulate(state, Dynamical(0.3), GRAVITY, period, (2,), threshold=1e-4, guard=1e-4, n_steps=1)
    assert (guarded.records[0].violations == 0).all()
    assert (guarded.records[0].max_rel_dE < free.records[0].max_rel_dE / 5).all()


def test_a_guard_that_never_acts_changes_nothing():
    state, period = orbits()
    for criterion in (Dynamical(0.01), learned(history_len=3)):
        plain = simulate(state, criterion, GRAVITY, period, steps=70, fail_above=math.inf)
        guarded = simulate(state, criterion, GRAVITY, period, steps=70, guard=1e6, fail_above=math.inf)
        assert all(torch.equal(*pair) for pair in zip(plain.state, guarded.state, strict=True))
        assert (guarded.records[0].rejected == 0).all()


def test_a_rejected_step_leaves_no_trace_in_the_history():
    """A learned criterion with a window: its next proposal knows the step that was taken, and only that one."""
    state, period = orbits(3)
    criterion = learned(history_len=3)
    outcome, seen = watched(state, criterion, GRAVITY, period, steps=12, guard=1e-5, fail_above=math.inf)
    assert (outcome.records[0].rejected > 0).all()
    for number in range(3):
        rows = [(moved, int((moved.number == number).nonzero())) for moved in seen if number in moved.number]
        now = state.map(lambda tensor, number=number: tensor[number : number + 1])
        memory = criterion.init(now)
        for moved, place in rows[1:]:
            proposed = float(criterion.propose(now, memory))
            dt = moved.dt[place : place + 1]
            halvings = math.log2(proposed / float(dt))
            assert halvings == pytest.approx(round(halvings), abs=1e-9)
            now = moved.state.map(lambda tensor, place=place: tensor[place : place + 1])
            memory = criterion.advance(memory, now, dt)


def test_the_guard_gives_up_at_its_floor():
    """A threshold that nothing can keep: each step is halved as often as allowed, taken, and counted."""
    state, period = one(0.6)
    outcome, seen = watched(state, Fixed(0.1), GRAVITY, period, steps=3, guard=-1.0)
    assert not outcome.records[0].failed[0]
    assert outcome.records[0].rejected[0] == 3 * GUARD_HALVINGS
    assert [float(moved.dt) for moved in seen[1:]] == [0.1 / 2**GUARD_HALVINGS] * 3


# The observer --------------------------------------------------------------------------------------


def test_an_observer_sees_each_step_of_each_system_once():
    state, period = orbits(40)
    outcome, seen = watched(state, Dynamical(0.1), GRAVITY, period, (2,), n_steps=2, fail_above=math.inf)
    record = outcome.records[0]
    assert torch.equal(seen[0].number, torch.arange(40))
    assert (seen[0].dt == 0).all()
    assert all(torch.equal(*pair) for pair in zip(seen[0].state, state, strict=True))
    counts, time = torch.zeros(40, dtype=torch.int64), torch.zeros(40, dtype=torch.float64)
    last = state.position.clone()
    for moved in seen[1:]:
        counts[moved.number] += 1
        time[moved.number] += 2 * moved.dt
        last[moved.number] = moved.state.position
        assert torch.equal(moved.force_evaluations, 2 * counts[moved.number])
    assert torch.equal(counts, record.steps)
    torch.testing.assert_close(time, record.time, rtol=1e-12, atol=0)
    assert torch.equal(last, outcome.state.position)


def flat(record):
    """All tensors of a record."""
    return [tensor for field in record for tensor in (field if isinstance(field, State) else [field])]


def test_an_observer_changes_nothing():
    state, period = orbits(40)
    plain = simulate(state, Dynamical(0.1), GRAVITY, period, (1, 3))
    outcome, _ = watched(state, Dynamical(0.1), GRAVITY, period, (1, 3))
    for ours, theirs in zip(outcome.records, plain.records, strict=True):
        assert all(torch.equal(*pair) for pair in zip(flat(ours), flat(theirs), strict=True))
