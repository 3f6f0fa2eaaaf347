"""The reversible rule: it runs back on its own track, energy does not drift, and trainings mean what is simulated."""

import math

import pytest
import torch

from core.forces import State
from core.leapfrog import leapfrog
from core.orbits import draw
from core.simulation import simulate
from core.step_rule import LARGEST_JUMP, reversible_step
from core.timestep import PRS23, Dynamical, Fixed
from core.trainer import Trainer
from tests.systems import GRAVITY, kepler_system, learned, random_system
from tests.trainings import FROZEN, multiply_proposals, small, train


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one(eccentricity: float) -> tuple[State, torch.Tensor]:
    state, period = kepler_system(eccentricity)
    return state.map(lambda tensor: tensor.unsqueeze(0)), numbers(period)


# The rule --------------------------------------------------------------------------------------------


def test_rule_by_hand():
    """No step before; equal; the harmonic mean of both steps is tau; three values that cannot be taken."""
    tau, previous = numbers(0.3, 0.2, 0.2, 0.2, 0.2, 0.2), numbers(0.0, 0.2, 0.25, 0.11, 0.1, 0.05)
    ruled = reversible_step(tau, previous)
    torch.testing.assert_close(ruled.dt[:3], numbers(0.3, 0.2, 1 / (2 / 0.2 - 1 / 0.25)))
    assert ruled.dt[3:].tolist() == [0.2] * 3
    assert ruled.fell_back.tolist() == [False, False, False, True, True, True]


def test_no_step_is_beyond_the_largest_jump():
    tau, previous = torch.ones(1000, dtype=torch.float64), torch.linspace(0.01, 10, 1000, dtype=torch.float64)
    dt = reversible_step(tau, previous).dt
    assert dt.min() > 0.5
    assert dt.max() <= LARGEST_JUMP


def test_response_is_the_derivative():
    tau, previous = numbers(0.2, 0.2, 0.2), numbers(0.0, 0.22, 0.05)
    ruled = reversible_step(tau, previous)
    nearby = [reversible_step(tau * math.exp(change), previous).dt.log() for change in (1e-6, -1e-6)]
    torch.testing.assert_close((nearby[0] - nearby[1]) / 2e-6, ruled.response(tau), rtol=1e-6, atol=0)


def test_a_restart_takes_its_stretch():
    assert reversible_step(numbers(0.2), numbers(0.0), numbers(1.1)).dt.tolist() == pytest.approx([0.22])


# Simulations -----------------------------------------------------------------------------------------

EVEN = {
    "dynamical": lambda: Dynamical(0.05),
    "prs23": lambda: PRS23(0.05, GRAVITY),
    "basic": lambda: learned(feature_type="basic", dt_scale="pair", step_rule="reversible"),
    "rich": lambda: learned(feature_type="rich", dt_scale="pair", step_rule="reversible"),
}


def there_and_back(criterion, state: State, count: int) -> State:
    """Fly ``count`` steps by the rule, turn the velocities round, and fly as many."""
    following = torch.zeros_like(state.mass[..., 0])
    for _ in ("there", "back"):
        # The step that would have come next is, backwards, the one that was.
        memory, previous = criterion.init(state), following
        for _ in range(count):
            dt = reversible_step(criterion.propose(state, memory), previous).dt
            state = leapfrog(state, dt, GRAVITY).state
            memory, previous = criterion.advance(memory, state, dt), dt
        following = reversible_step(criterion.propose(state, memory), previous).dt
        state = state._replace(velocity=-state.velocity)
    return state


@pytest.mark.parametrize("name", EVEN)
def test_time_reversal(name):
    """Two unequal masses over two periods and more, and three bodies, come back to where they started."""
    for start, count in ((kepler_system(0.8, (1.0, 0.3))[0], 400), (random_system(3, 3, seed=4), 100)):
        end = there_and_back(EVEN[name](), start, count)
        torch.testing.assert_close(end.position, start.position, rtol=0, atol=1e-10)
        torch.testing.assert_close(end.velocity, start.velocity, rtol=0, atol=1e-10)


def test_a_history_is_not_reversible():
    criterion = learned(feature_type="basic", history_len=3, dt_scale="pair", step_rule="reversible")
    start = kepler_system(0.8)[0]
    assert (there_and_back(criterion, start, 400).position - start.position).abs().max() > 1e-6


def test_energy_does_not_drift():
    """e = 0.9 over 40 periods: as many steps as the direct rule takes, a tenth of the error, and no slope."""
    state, period = one(0.9)
    records = {
        rule: simulate(state, Dynamical(0.05), GRAVITY, period, (40,), step_rule=rule).records[0]
        for rule in ("direct", "reversible")
    }
    direct, reversible = records["direct"], records["reversible"]
    assert reversible.steps.item() == pytest.approx(direct.steps.item(), rel=0.05)
    assert reversible.max_rel_dE < 0.25 * direct.max_rel_dE
    assert reversible.drift.abs() < 0.01 * direct.drift
    assert reversible.fallbacks.item() == 0
    # The slope is that of the error: over the whole run it makes most of the direct rule's.
    assert direct.drift * direct.time == pytest.approx(direct.max_rel_dE.item(), rel=0.3)


def test_second_order():
    state, period = one(0.6)
    errors = [
        simulate(state, Dynamical(eps), GRAVITY, period, (2,), step_rule="reversible").records[0].max_rel_dE.item()
        for eps in (0.04, 0.02, 0.01)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_a_constant_step_stays_constant():
    state, period = one(0.3)
    records = [simulate(state, Fixed(0.01), GRAVITY, period, (2,), step_rule=rule).records[0] for rule in RULES]
    assert records[0].steps == records[1].steps
    assert torch.equal(records[0].max_rel_dE, records[1].max_rel_dE)


RULES = ("direct", "reversible")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_simulation_follows_the_rule(dtype, n_steps):
    """Step by step against the rule applied by hand; a block of n_steps has one dt."""
    state = random_system(3, 2, leading=(4,), dtype=dtype)
    seen = []
    simulate(
        state, Dynamical(0.05), GRAVITY, torch.ones(4, dtype=torch.float64), steps=12, n_steps=n_steps,
        step_rule="reversible", observer=seen.append,
    )
    criterion, previous = Dynamical(0.05), torch.zeros(4, dtype=dtype)
    for moved in seen[1:]:
        dt = reversible_step(criterion.propose(state, criterion.init(state)), previous).dt
        assert moved.dt.dtype == dtype
        assert torch.equal(moved.dt, dt)
        state, previous = leapfrog(state, dt, GRAVITY, n_steps).state, dt


def test_after_a_step_that_the_guard_cut_the_rule_starts_again():
    state, period = one(0.9)
    seen = []
    record = simulate(
        state, Dynamical(0.2), GRAVITY, period, (1,), step_rule="reversible", guard=2e-3, observer=seen.append
    ).records[0]
    assert record.rejected.item() > 0
    restarted = 0
    for before, cut, after in zip(seen, seen[1:], seen[2:], strict=False):
        tau = Dynamical(0.2).propose(before.state, numbers(0.2)), Dynamical(0.2).propose(cut.state, numbers(0.2))
        # A cut step is half of what was proposed, or less; the rule's own is above half of it.
        if cut.dt < 0.5 * tau[0]:
            halvings = torch.log2(tau[1] / after.dt)
            assert halvings == pytest.approx(halvings.round().item(), abs=1e-12)
            restarted += 1
    assert restarted > 0


def test_systems_that_wait_for_a_horizon_keep_their_past():
    """Two horizons give what one gives, for a history and for the rule."""
    orbits = draw(small(), 5, torch.Generator().manual_seed(2))
    for criterion in (learned(feature_type="rich", history_len=3, dt_scale="pair"), Dynamical(0.1)):
        for rule in RULES:
            ends = [
                simulate(orbits.state, criterion, GRAVITY, orbits.period, horizons, step_rule=rule).records[-1]
                for horizons in ((1, 2), (2,))
            ]
            assert torch.equal(ends[0].time, ends[1].time)
            assert torch.equal(ends[0].state.position, ends[1].state.position)


# Training --------------------------------------------------------------------------------------------


def test_training_takes_the_steps_that_a_simulation_takes():
    """With weights that do not change, phase 1 is a simulation by the network's own steps."""
    config = small(step_rule="reversible", energy_threshold=0.5, lr=FROZEN, steps_per_epoch=60, replay_steps=0)
    trainer = Trainer([config])
    seen, start = [], trainer.collection.own_state(0).map(torch.clone)
    trainer.on_step = lambda lane, step: seen.append(step.dt)
    train(trainer, 1)
    moved = []
    simulate(
        start, trainer.criterion(), GRAVITY, torch.ones(4, dtype=torch.float64), steps=60, step_rule="reversible",
        fail_above=math.inf, observer=moved.append,
    )
    torch.testing.assert_close(torch.stack(seen), torch.stack([one.dt for one in moved[1:]]), rtol=1e-9, atol=0)
    direct = small(energy_threshold=0.5, lr=FROZEN, steps_per_epoch=60, replay_steps=0)
    plain = Trainer([direct])
    others = []
    plain.on_step = lambda lane, step: others.append(step.dt)
    train(plain, 1)
    assert not torch.allclose(torch.stack(seen), torch.stack(others), rtol=1e-3)


def test_a_sample_keeps_what_the_rule_made_of_the_proposal():
    """Replayed with the weights that made it, a sample has the error it was accepted with."""
    config = small(step_rule="reversible", energy_threshold=0.5, lr=FROZEN, steps_per_epoch=30, replay_steps=0)
    trainer = Trainer([config])
    record = train(trainer, 1)[0]
    rows = trainer.buffer.rows(0)
    samples = trainer.shape.unpack(rows.unsqueeze(0))
    assert (samples.stretch - 1).abs().max() > 1e-3
    trainer.judge([0])
    assert trainer.lanes[0].record.replay_rel_dE == pytest.approx(record.rel_dE_train, rel=1e-9)


def test_a_changed_network_starts_the_rule_again():
    """The step before was another network's: the next is the proposal, stretched as the last was."""
    trainer = Trainer([small(step_rule="reversible", energy_threshold=0.5, lr=FROZEN, replay_steps=0)])
    train(trainer, 2)
    assert (trainer.collection.previous == 0).all()
    assert (trainer.collection.stretch != 1).any()


def test_a_step_that_was_learned_from_starts_the_rule_again():
    """After a gradient step in the middle of an epoch the next step is the new proposal, stretched as the last was."""
    settings = {"energy_threshold": 1e-3, "num_orbits": 1, "steps_per_epoch": 60, "replay_steps": 0}
    trainer = Trainer([small(step_rule="reversible", **settings)])
    multiply_proposals(trainer, 3.0)
    held, record = trainer.collection, trainer.lanes[0].record
    before = [held.own_state(0).map(torch.clone), numbers(0.0), held.stretch[0, :1].clone(), 0]
    restarted, followed = [], []

    def check(lane, step):
        state, previous, stretch, rejected = before
        criterion = trainer.criterion()
        tau, learned = criterion.propose(state, criterion.init(state)), record.rejected > rejected
        expected = reversible_step(tau, numbers(0.0) if learned else previous, stretch).dt
        torch.testing.assert_close(step.dt, expected, rtol=1e-9, atol=0)
        unbroken = reversible_step(tau, previous, stretch).dt
        (restarted if learned else followed).append((step.dt / unbroken - 1).abs().item())
        before[:] = step.state, step.dt, held.stretch[0, :1].clone(), record.rejected

    trainer.on_step = check
    train(trainer, 1)
    assert len(followed) > 20
    assert len([change for change in restarted if change > 1e-3]) > 3


def test_orbits_that_were_accepted_start_the_rule_again_too():
    """The gradient step on an orbit's neighbour changes the network that its next step is proposed by."""
    settings = {"energy_threshold": 1e-3, "num_orbits": 4, "steps_per_epoch": 30, "replay_steps": 0}
    trainer = Trainer([small(step_rule="reversible", **settings)])
    multiply_proposals(trainer, 2.0)
    lane, mixed = trainer.lanes[0], 0
    while not lane.epoch:
        accepted, rejected = lane.record.accepted, lane.record.rejected
        if trainer.tick():
            break
        if lane.record.rejected > rejected:
            assert (trainer.collection.previous == 0).all()
            mixed += lane.record.accepted > accepted
    assert mixed > 3


def test_networks_learn_under_the_rule():
    """A start at thrice the right step is mended by the gradient through the rule."""
    settings = {"energy_threshold": 1e-3, "E_upper": 0.3, "steps_per_epoch": 16, "stop_at_period": True}
    trainer = Trainer([small(step_rule="reversible", **settings)])
    multiply_proposals(trainer, 3.0)
    records = train(trainer, 20)
    assert records[0].rejected > 10
    assert sum(record.rejected for record in records[-5:]) < records[0].rejected
    assert records[-1].pass_fraction > 0.98
