"""Simulations of many systems at once: each fares as it would alone, and none can go on for ever."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from core.config import Config
from core.forces import Forces, State, TidalField, relative_energy_scale
from core.leapfrog import leapfrog
from core.orbits import Orbits, draw
from core.simulation import simulate, take
from core.timestep import Dynamical, Fixed
from tests.systems import GRAVITY, learned

COUNT = 4


def orbits(count: int = COUNT, **settings) -> Orbits:
    """Systems that differ in size and shape."""
    config = Config(**{"device": "cpu", "a_min": 0.5, "a_max": 2.0} | settings)
    return draw(config, count, torch.Generator().manual_seed(3))


@dataclass
class Alone:
    """One system, one step after the other: what `simulate` must agree with."""

    time: float = 0.0
    steps: int = 0
    error: float = 0.0
    final: float = 0.0
    violations: int = 0

    def run(self, state, criterion, forces, end, n_steps=1, threshold=math.inf) -> State:
        memory = criterion.init(state)
        first, magnitude = forces.energy(state)
        energy = first
        while self.time < end:
            dt = criterion.propose(state, memory)
            block = leapfrog(state, dt, forces, n_steps)
            memory = criterion.advance(memory, block.state, dt * n_steps)
            self.violations += bool(
                (block.energy - energy).abs() > threshold * relative_energy_scale(energy, magnitude)
            )
            state, energy, magnitude = block.state, block.energy, block.kinetic + block.potential.abs()
            self.final = float((energy - first).abs() / first.abs())
            self.error = max(self.error, self.final)
            self.time += float(dt) * n_steps
            self.steps += 1
        return state


FIELD = Forces(0.01, TidalField(0.5, torch.tensor([6.0, 2.0], dtype=torch.float64)))
CASES = {
    "fixed": (lambda: Fixed(0.01), 1, GRAVITY),
    "dynamical": (lambda: Dynamical(0.05), 1, GRAVITY),
    "dynamical in a field": (lambda: Dynamical(0.02), 2, FIELD),
    "learned": (lambda: learned(feature_type="rich", dt_scale="pair"), 1, GRAVITY),
    "learned, history": (lambda: learned(feature_type="delta_mag", history_len=3, dt_scale="pair"), 3, GRAVITY),
}


@pytest.mark.parametrize("case", CASES)
def test_a_batch_equals_one_system_at_a_time(case):
    """Finished systems leave the batch on the way; that changes nothing for the others."""
    make, n_steps, forces = CASES[case]
    criterion, threshold = make(), 3e-6
    drawn = orbits()
    ends = drawn.period * torch.linspace(0.02, 1.2, COUNT, dtype=torch.float64)
    state = forces.state(drawn.state.position, drawn.state.velocity, drawn.state.mass)
    outcome = simulate(
        state, criterion, forces, ends, (1.0,), n_steps=n_steps, threshold=threshold, fail_above=math.inf
    )
    (record,) = outcome.records
    assert not record.failed.any()
    assert record.steps.max() > record.steps.sort().values[1] + 32  # so that half of the batch left it
    for index in range(COUNT):
        alone = Alone()
        own = take(state, slice(index, index + 1))
        end = alone.run(own, criterion, forces, float(ends[index]), n_steps, threshold)
        assert record.steps[index] == alone.steps
        assert record.force_evaluations[index] == alone.steps * n_steps
        assert record.violations[index] == alone.violations
        assert float(record.time[index]) == pytest.approx(alone.time, rel=1e-12)
        assert float(record.max_rel_dE[index]) == pytest.approx(alone.error, rel=1e-8)
        assert float(record.final_rel_dE[index]) == pytest.approx(alone.final, rel=1e-8, abs=1e-15)
        torch.testing.assert_close(take(outcome.state, slice(index, index + 1)), end, rtol=1e-9, atol=1e-9)
    assert 0 < record.violations.sum() < record.steps.sum()


def test_first_of_two_horizons_is_a_run_of_its_own():
    """And the second one goes on from it: a longer run is not another run."""
    drawn, criterion = orbits(), Dynamical(0.05)
    short, long = simulate(drawn.state, criterion, GRAVITY, drawn.period, (1.0, 3.0)).records
    for horizon, record in ((1.0, short), (3.0, long)):
        (alone,) = simulate(drawn.state, criterion, GRAVITY, drawn.period, (horizon,)).records
        for ours, theirs in zip(record, alone, strict=True):
            assert torch.equal(ours, theirs)
        assert (record.time >= horizon * drawn.period).all()
    assert (long.max_rel_dE >= short.max_rel_dE).all()


def test_last_step_passes_the_end_and_is_not_cut():
    drawn = orbits(e_min=0.0, e_max=0.3)
    (record,) = simulate(drawn.state, Fixed(0.01), GRAVITY, drawn.period, (0.5,)).records
    expected = torch.ceil(0.5 * drawn.period / 0.01).long()
    assert torch.equal(record.steps, expected)
    torch.testing.assert_close(record.time, expected.double() * 0.01, rtol=1e-12, atol=0)


# Failures ------------------------------------------------------------------------------------------


def per_system(values: list[float]) -> Fixed:
    """A fixed step for each system."""
    return Fixed(torch.tensor(values, dtype=torch.float64))


@dataclass(frozen=True)
class BadAfter:
    """Takes good steps, as many as each of three systems has left, and then bad ones."""

    bad: float
    left: tuple[float, float, float] = (math.inf, 40, math.inf)

    def init(self, state: State) -> Tensor:
        return torch.tensor(self.left, dtype=torch.float64)

    def propose(self, state: State, memory: Tensor) -> Tensor:
        return torch.full_like(memory, 1e-3).where(memory > 0, self.bad)

    def advance(self, memory: Tensor, state: State, dt: Tensor) -> Tensor:
        return memory - 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1e-3])
def test_unusable_dt_stops_its_system_and_no_other(bad):
    """A NaN looped for ever: time became NaN, which is never past the end."""
    drawn = orbits(3)
    (record,) = simulate(drawn.state, BadAfter(bad), GRAVITY, drawn.period, (0.1,)).records
    assert record.failed.tolist() == [False, True, False]
    assert record.steps[1] == 41
    assert float(record.time[1]) == pytest.approx(0.04)
    assert torch.isfinite(record.time).all()
    (sound,) = simulate(drawn.state, Fixed(1e-3), GRAVITY, drawn.period, (0.1,)).records
    for ours, theirs in zip(record, sound, strict=True):
        assert torch.equal(ours[[0, 2]], theirs[[0, 2]])


def test_all_systems_may_fail():
    drawn = orbits(3)
    outcome = simulate(drawn.state, Fixed(math.nan), GRAVITY, drawn.period, (1.0, 10.0))
    for record in outcome.records:
        assert record.failed.all()
        assert record.time.tolist() == [0, 0, 0]
    assert torch.equal(outcome.state.position, drawn.state.position)


def test_large_error_is_a_failure():
    drawn = orbits(3, e_min=0.6, e_max=0.6, a_min=1.0, a_max=1.0)
    (record,) = simulate(drawn.state, per_system([1e-3, 0.2, 1e-3]), GRAVITY, drawn.period, (1.0,)).records
    assert record.failed.tolist() == [False, True, False]
    assert record.max_rel_dE[1] > 0.1
    assert record.time[1] < drawn.period[1]


def test_steps_are_capped():
    """A step that makes no progress ends by its count, at about the cap, in the period that it is in."""
    drawn = orbits(3)
    criterion = per_system([1e-2, 1e-9, 1e-2])
    (record,) = simulate(drawn.state, criterion, GRAVITY, drawn.period, (3.0,), steps_per_period=1000).records
    assert record.failed.tolist() == [False, True, False]
    assert 1000 < record.steps[1] < 1100
    assert record.steps[0] > 400  # and more than the cap of one period is fine over several
    (record,) = simulate(
        drawn.state, criterion, GRAVITY, drawn.period, (3.0,), n_steps=10, steps_per_period=1000
    ).records
    assert 1000 < record.force_evaluations[1] < 1500


def test_failed_system_stays_failed_at_later_horizons():
    drawn = orbits(3)
    first, second = simulate(drawn.state, BadAfter(math.nan), GRAVITY, drawn.period, (0.1, 0.2)).records
    assert first.failed.tolist() == second.failed.tolist() == [False, True, False]
    assert first.steps[1] == second.steps[1]
    assert (second.steps[[0, 2]] > first.steps[[0, 2]]).all()


# Precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "floor", "ceiling"), [("float64", 0.0, 1e-12), ("float32", 1e-6, 1e-2)])
def test_a_simulation_runs_in_the_checkpoints_dtype(dtype, floor, ceiling):
    """A hundred tiny steps leave round-off only; in float32 whatever the dtype it was 8.8e-6."""
    criterion = learned(dtype=dtype, dt_scale="pair")
    criterion.network.layers[-1][0].zero_()
    criterion.network.layers[-1][1].fill_(math.log(1e-5))
    drawn = orbits(dtype=dtype)
    outcome = simulate(drawn.state, criterion, GRAVITY, drawn.period, (1e-4,))
    assert outcome.state.position.dtype == criterion.config.torch_dtype
    (record,) = outcome.records
    assert record.steps.min() > 10
    assert floor <= record.max_rel_dE.max() < ceiling
    assert record.time.dtype == torch.float64


def test_proposals_with_dropout_are_deterministic():
    """Dropout never acts in a simulation: two runs are one, and a batch of copies stays a batch of copies."""
    drawn = orbits(1)
    copies = State(*(part.expand(5, *part.shape[1:]).contiguous() for part in drawn.state))
    criterion = learned(dropout=0.5, feature_type="delta_mag", history_len=2, dt_scale="pair")
    period = drawn.period.expand(5)
    runs = [simulate(copies, criterion, GRAVITY, period, (0.5,)) for _ in range(2)]
    assert torch.equal(runs[0].state.position, runs[1].state.position)
    assert (runs[0].state.position == runs[0].state.position[:1]).all()
