"""What phase 2 replays: each sample with its own window, cold starts among them, drawn with the lane's own numbers."""

import pytest
import torch

from core.features import InputScales
from core.history import input_width
from core.leapfrog import leapfrog
from core.replay import draw_minibatch
from core.trainer import Trainer
from tests.trainings import (
    FROZEN,
    Watched,
    errors_of_first_steps,
    multiply_proposals,
    small,
    train,
)

HISTORIES = [
    {"feature_type": "delta_mag", "history_len": 4},
    {"feature_type": "basic", "history_len": 3},
    {"feature_type": "rich", "history_len": 2, "normalize_inputs": True},
    {"feature_type": "delta_mag", "history_len": 3, "dt_scale": "unit", "n_steps": 3},
    {"feature_type": "rich", "history_len": 0},
]


@pytest.mark.parametrize("settings", HISTORIES, ids=str)
def test_samples_keep_the_windows_that_a_simulation_has(settings):
    """Fly the trained criterion from the same starts: same steps, same states, same inputs, the cold start included."""
    trainer = Trainer([small(**settings, lr=FROZEN)])
    multiply_proposals(trainer, 0.1)
    assert [record.rejected for record in train(trainer, 2)] == [0, 0]
    lane, criterion = trainer.lanes[0], trainer.criterion()
    watched = Watched(criterion)
    state, n_steps, states = lane.train_ic, lane.config.n_steps, []
    memory = criterion.init(state)
    for _ in range(lane.config.history_len + 2 * lane.config.steps_per_epoch):
        dt = criterion.propose(state, memory)
        states.append(state.position)
        state = leapfrog(state, dt, trainer.forces, n_steps).state
        memory = criterion.advance(memory, state, dt * n_steps)
    samples = trainer.shape.unpack(trainer.buffer.rows(0))
    torch.testing.assert_close(samples.state.position, torch.cat(states), rtol=1e-12, atol=0)
    torch.testing.assert_close(samples.inputs, torch.cat(watched.inputs), rtol=1e-12, atol=1e-12)
    assert trainer.buffer.cold_count(0) == lane.config.history_len * lane.config.num_orbits


@pytest.mark.parametrize("settings", HISTORIES[:4], ids=str)
def test_rejected_steps_leave_no_trace_in_a_window(settings):
    """A real training, retrains and all: fly its accepted steps again, and compare every input and the next step."""
    trainer = Trainer([small(**settings, num_orbits=1, steps_per_epoch=10)])
    collection, taken = trainer.collection, []
    move = collection.move

    def remember(picked, accepted, block, elapsed, stretch):
        taken.append(float(elapsed[0, 0]) if accepted[0, 0] else None)
        move(picked, accepted, block, elapsed, stretch)

    collection.move = remember
    records = train(trainer, 3)
    assert records[0].rejected > 0
    lane, criterion = trainer.lanes[0], trainer.criterion()
    watched, n_steps = Watched(criterion), lane.config.n_steps
    state, memory = lane.train_ic, criterion.init(lane.train_ic)
    for elapsed in (dt for dt in taken if dt is not None):
        criterion.propose(state, memory)
        dt = torch.tensor([elapsed / n_steps], dtype=torch.float64)
        state = leapfrog(state, dt, trainer.forces, n_steps).state
        memory = criterion.advance(memory, state, dt * n_steps)
    samples = trainer.shape.unpack(trainer.buffer.rows(0))
    torch.testing.assert_close(samples.inputs, torch.cat(watched.inputs), rtol=1e-9, atol=1e-9)
    expected = criterion.propose(state, memory) * n_steps
    taken.clear()
    trainer.tick()
    torch.testing.assert_close(torch.tensor(taken, dtype=torch.float64), expected, rtol=1e-9, atol=0)


def test_windows_differ_from_sample_to_sample():
    """A replay that borrowed one window for all would pass for a history; it must not."""
    trainer = Trainer([small(history_len=3, num_orbits=1, steps_per_epoch=20)])
    train(trainer, 1)
    inputs = trainer.shape.unpack(trainer.buffer.rows(0)).inputs
    assert torch.cdist(inputs, inputs).fill_diagonal_(1).min() > 1e-6


def test_a_missing_past_is_zeros():
    config = small(history_len=3, num_orbits=2)
    trainer = Trainer([config])
    train(trainer, 1)
    rows = trainer.shape.unpack(trainer.buffer.data[0, : trainer.buffer.cold_count(0)]).inputs
    windows = rows.unflatten(-1, (3, input_width(config) // 3))
    known = windows.ne(0).any(-1).sum(-1)  # transitions in each cold window
    assert known.tolist() == [0, 0, 1, 1, 2, 2]
    assert windows[-1].ne(0).any(-1).tolist() == [False, True, True]  # oldest first


# Cold starts ---------------------------------------------------------------------------------------


def test_an_eighth_of_a_minibatch_is_cold():
    config = small(history_len=3, steps_per_epoch=30)
    trainer = Trainer([config])
    train(trainer, 1)
    lane, buffer = trainer.lanes[0], trainer.buffer
    lane.order = lane.order[:0]
    drawn = [draw_minibatch(lane, buffer, 0) for _ in range(4)]
    assert [int((places < 0).sum()) for places in drawn[:4]] == [4, 4, 4, 4]
    assert [len(places) for places in drawn] == [32, 32, 32, 32]
    assert {-1 - int(place) for places in drawn for place in places if place < 0} <= set(range(12))


def test_minibatches_are_drawn_without_replacement():
    """One pass takes every sample once, in another order each time."""
    trainer = Trainer([small(steps_per_epoch=25)])
    train(trainer, 1)
    lane, buffer = trainer.lanes[0], trainer.buffer
    lane.order, passes = lane.order[:0], []
    for _ in range(2):
        drawn = torch.cat([draw_minibatch(lane, buffer, 0) for _ in range(4)])
        assert drawn.sort().values.tolist() == list(range(100))
        passes.append(drawn)
    assert not torch.equal(*passes)


def test_cold_samples_take_part_in_the_verdict():
    trainer = Trainer([small(history_len=3)])
    (record,) = train(trainer, 1)
    cold, main = trainer.buffer.cold_count(0), trainer.buffer.count(0)
    assert (cold, main) == (12, 16)
    assert record.converged
    trainer.shape.unpack(trainer.buffer.data).energy[0, 0] += 1  # a cold start's step now seems to miss by far
    trainer.judge([0])
    assert trainer.lanes[0].record.pass_fraction == 1 - 1 / (cold + main)
    assert not trainer.lanes[0].record.converged


def test_warm_up_steps_do_not_count_and_are_not_samples():
    records = train(Trainer([small(history_len=5, num_orbits=2, steps_per_epoch=3)]), 2)
    assert [record.accepted for record in records] == [2 * (5 + 3), 2 * 3]
    assert [record.samples for record in records] == [6, 12]


@pytest.mark.parametrize(
    ("feature_type", "history_len", "epochs"), [("delta_mag", 4, 6), ("basic", 3, 12), ("rich", 3, 12)]
)
def test_the_cold_start_is_learned(feature_type, history_len, epochs):
    """A simulation's first steps, over an empty window, end in the band as others do.

    Without cold starts in the minibatches they end at up to 17 thresholds (delta_mag), or at 1e-5 of it.
    """
    config = small(
        feature_type=feature_type,
        history_len=history_len,
        dt_scale="unit",
        e_min=0.8,
        e_max=0.8,
        lr=1e-2,
        steps_per_epoch=20,
        replay_steps=60,
    )
    trainer = Trainer([config])
    train(trainer, epochs)
    errors = errors_of_first_steps(trainer.criterion(), trainer.lanes[0].train_ic, trainer, history_len)
    assert errors.max() < 2 * config.energy_threshold
    assert errors.min() > 0.01 * config.energy_threshold


# The buffer ----------------------------------------------------------------------------------------


def test_full_buffer_drops_the_oldest():
    trainer = Trainer([small(num_orbits=1, steps_per_epoch=10, replay_capacity=16, lr=FROZEN)])
    multiply_proposals(trainer, 0.1)
    unbounded = Trainer([small(num_orbits=1, steps_per_epoch=10, lr=FROZEN)])
    multiply_proposals(unbounded, 0.1)
    train(trainer, 3)
    train(unbounded, 3)
    assert (trainer.buffer.count(0), unbounded.buffer.count(0)) == (16, 30)
    kept = {tuple(row) for row in trainer.buffer.rows(0).tolist()}
    assert kept == {tuple(row) for row in unbounded.buffer.rows(0)[-16:].tolist()}


def test_cold_buffer_keeps_the_newest_eight_starts():
    """num_orbits x history_len x 8, however often orbits start afresh."""
    trainer = Trainer(
        [small(history_len=2, num_orbits=2, stop_at_period=True, energy_threshold=2e-2, steps_per_epoch=10**6)]
    )
    train(trainer, 10)
    assert trainer.buffer.cold_written[0] == 40
    assert trainer.buffer.cold_count(0) == 32


def test_replay_borrows_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    train(Trainer([small(dropout=0.3, history_len=2, replay_batch_size=8)]), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_input_scales_are_fitted_to_the_lane_and_kept():
    """Typical L, V, A and T of its orbits, and no others: a lane's scales do not depend on its neighbours."""
    small_orbits, large_orbits = (
        {"a_min": a, "a_max": a, "dt_scale": "unit", "normalize_inputs": True} for a in (1, 4)
    )
    pack = Trainer([small(**small_orbits), small(**large_orbits)])
    scales = [lane.scales for lane in pack.lanes]
    assert scales[0] == Trainer([small(**small_orbits)]).lanes[0].scales
    # Kepler: lengths x 4, speeds / 2, accelerations / 16, times x 8 for the same eccentricities and phases.
    expected = (4 * scales[0].L, scales[0].V / 2, scales[0].A / 16, 8 * scales[0].T)
    assert scales[1] == pytest.approx(expected, rel=1e-9)
    assert Trainer([small()]).lanes[0].scales == InputScales()
