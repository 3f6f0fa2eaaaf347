"""Step criteria: one interface, one conformance suite; and what each of them promises."""

import math
from dataclasses import dataclass

import pytest
import torch

from core.forces import State
from core.leapfrog import leapfrog
from core.oracle import Oracle
from core.timestep import PRS23, Dynamical, Fixed, Learned, proposed_step
from tests.systems import GRAVITY, kepler_system, learned, random_system, rotation, scaled

CRITERIA = {
    "fixed": lambda: Fixed(0.01),
    "dynamical": lambda: Dynamical(0.05),
    "prs23": lambda: PRS23(0.05, GRAVITY),
    "oracle": lambda: Oracle(1e-4, GRAVITY),
    "basic": lambda: learned(feature_type="basic"),
    "basic, history": lambda: learned(feature_type="basic", history_len=3, dt_scale="pair"),
    "rich, history": lambda: learned(feature_type="rich", history_len=2, activation="relu", dt_scale="pair"),
    "delta_mag": lambda: learned(feature_type="delta_mag", history_len=4, activation="silu", dt_scale="pair"),
}


@pytest.fixture(params=CRITERIA)
def criterion(request):
    return CRITERIA[request.param]()


@dataclass
class Flight:
    steps: list[torch.Tensor]
    end: State


def fly(criterion, state: State, count: int = 6) -> Flight:
    memory, steps = criterion.init(state), []
    for _ in range(count):
        dt = criterion.propose(state, memory)
        state = leapfrog(state, dt, GRAVITY).state
        memory = criterion.advance(memory, state, dt)
        steps.append(dt)
    return Flight(steps, state)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_any_leading_dimensions(criterion, leading):
    """A batch proposes, for each of its systems, what that system is proposed alone."""
    states = random_system(3, 2, leading=leading)
    together = fly(criterion, states)
    assert all(dt.shape == leading for dt in together.steps)
    flat = State(*(part.reshape(-1, *part.shape[len(leading) :]) for part in states))
    for index in range(flat.mass.shape[0]):
        alone = fly(criterion, State(*(part[index] for part in flat)))
        ours = torch.stack([dt.reshape(-1)[index] for dt in together.steps])
        torch.testing.assert_close(ours, torch.stack(alone.steps), rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_positive_and_finite_in_both_dtypes(criterion, dtype):
    if isinstance(criterion, Learned):
        dtype = torch.float64  # a network has a dtype of its own: see test_learned_keeps_the_dtype
    flight = fly(criterion, random_system(4, 3, leading=(5,), dtype=dtype))
    steps = torch.stack(flight.steps)
    assert steps.dtype == dtype
    assert (steps > 0).all()
    assert torch.isfinite(steps).all()


def test_proposals_are_pure(criterion):
    state = random_system(3, 2, leading=(2,))
    memory = criterion.init(state)
    first = criterion.propose(state, memory)
    criterion.advance(memory, state, first)
    assert torch.equal(criterion.propose(state, memory), first)


def test_rotation_and_exchange_of_bodies_leave_steps_alone(criterion):
    state, turn = random_system(3, 3, leading=(2,)), rotation(3)
    moved = GRAVITY.state((state.position @ turn).flip(-2) + 4.0, (state.velocity @ turn).flip(-2), state.mass.flip(-1))
    for ours, theirs in zip(fly(criterion, moved).steps, fly(criterion, state).steps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


SCALE_FREE = [name for name in CRITERIA if name not in ("fixed", "basic")]


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize(("length", "mass"), [(3.7, 1.0), (1e-3, 1.0), (50.0, 8.0)])
def test_whole_step_is_scale_invariant(name, length, mass):
    """Lengths x s, velocities x s^-1/2, times x s^1.5 (and masses x m, times x m^-1/2), history and all."""
    criterion, state = CRITERIA[name](), random_system(3, 2, leading=(2,))
    ours, theirs = fly(criterion, scaled(state, length, mass)), fly(criterion, state)
    time = math.sqrt(length**3 / mass)
    for dt, reference in zip(ours.steps, theirs.steps, strict=True):
        torch.testing.assert_close(dt, reference * time, rtol=1e-9, atol=0)
    torch.testing.assert_close(ours.end.position, theirs.end.position * length, rtol=1e-9, atol=1e-12 * length)
    assert len({round(float(dt[0]), 14) for dt in theirs.steps}) == 6


def test_unit_step_depends_on_the_scale():
    criterion, state = CRITERIA["basic"](), random_system(3, 2)
    ratio = fly(criterion, scaled(state, 3.7)).steps[0] / fly(criterion, state).steps[0]
    assert abs(ratio / 3.7**1.5 - 1) > 0.1


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_analytic_mode_adapts(dtype, leading):
    """The prototype's analytic mode took one and the same step for any eps: here every state has its own."""
    state, period = kepler_system(0.6)
    shape = (*leading, 2, 2)
    parts = (state.position.expand(shape), state.velocity.expand(shape), state.mass.expand(shape[:-1]))
    state = GRAVITY.state(*(part.to(dtype) for part in parts))
    flight = fly(Dynamical(0.05), state, 40)
    steps = torch.stack(flight.steps)
    assert steps.dtype == dtype
    assert len(torch.unique(steps.reshape(40, -1)[:, 0])) == 40
    assert steps.max() > 2 * steps.min()
    assert steps.sum(0).max() < period / 2
    assert torch.equal(fly(Dynamical(0.1), state, 1).steps[0], 2 * flight.steps[0])
    bigger = fly(Dynamical(0.05), State(*(part.to(dtype) for part in scaled(state, 4.0))), 1).steps[0]
    torch.testing.assert_close(bigger, 8 * flight.steps[0])


def test_dynamical_step_by_hand():
    """Unit masses at distance 2: each is pulled by 1/4, so a_rel = 1/2 and dt = eps sqrt(2 / (1/2))."""
    position = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    state = GRAVITY.state(position, torch.zeros_like(position), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(fly(Dynamical(0.1), state, 1).steps[0], torch.tensor(0.2, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "value"), [(Fixed, 0.01), (Dynamical, 0.05)])
def test_classical_constant_may_differ_by_system(kind, value):
    state = random_system(3, 2, leading=(2,))
    several = fly(kind(torch.tensor([value, 2 * value], dtype=torch.float64)), state, 1).steps[0]
    assert torch.equal(several[0], fly(kind(value), state, 1).steps[0][0])
    assert torch.equal(several[1], fly(kind(2 * value), state, 1).steps[0][1])


def test_dropout_is_off_when_a_step_is_proposed():
    """With dropout on, the prototype's steps scattered by 23 % and a retry was a lottery."""
    state = random_system(3, 2)
    without, with_dropout = (learned(dropout=share).propose for share in (0.0, 0.9))
    memory = learned().init(state)
    assert torch.equal(without(state, memory), with_dropout(state, memory))


def test_learned_step_is_never_below_dt_bound():
    criterion, state = learned(dt_bound=0.5), random_system(3, 2, leading=(4,))
    assert (criterion.propose(state, criterion.init(state)) == 0.5).all()
    assert proposed_step(torch.tensor(-1000.0), torch.tensor(1.0), 1e-8) == pytest.approx(1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_learned_keeps_the_dtype(dtype):
    criterion = learned(dtype=dtype, feature_type="delta_mag", history_len=2)
    flight = fly(criterion, random_system(3, 2, dtype=getattr(torch, dtype)))
    assert {dt.dtype for dt in flight.steps} == {getattr(torch, dtype)}
