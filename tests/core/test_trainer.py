"""Training: the same seed, every kind of system and network, and that nothing that goes wrong loses the run."""

import math

import numpy as np
import pytest
import torch

from core.lane import MOST_SKIPS
from core.trainer import Trainer, TrainingFailed
from tests.trainings import FROZEN, content, differences, multiply_proposals, propose_constant, small, train

#: Minibatches smaller than the buffer, dropout, a history, restarts: everything that draws random numbers.
RANDOM = {
    "dropout": 0.3,
    "history_len": 2,
    "replay_batch_size": 8,
    "stop_at_period": True,
    "energy_threshold": 1e-2,
    "steps_per_epoch": 40,
}


@pytest.mark.parametrize("settings", [{}, RANDOM], ids=["plain", "everything random"])
def test_same_seed_same_training_bit_for_bit(settings):
    """Minibatches and masks come from the lane's own generator; the global one plays no part."""
    results = []
    for other_seed in (5, 6):
        torch.manual_seed(other_seed)
        trainer = Trainer([small(**settings)])
        train(trainer, 4)
        results.append(content(trainer))
    assert not differences(*results)
    other = Trainer([small(**settings, seed=2)])
    train(other, 4)
    assert {"logs", "weights 0.weight", "orbits position"} <= set(differences(content(other), results[0]))


def test_unset_seed_is_drawn_and_kept():
    configs = [Trainer([small(seed=None)]).lanes[0].config for _ in range(2)]
    assert configs[0].seed is not None
    assert configs[0].seed != configs[1].seed


KINDS = {
    "float32": {"dtype": "float32"},
    "3-D": {"dim": 3},
    "3 bodies": {"num_particles": 3, "lr": 1e-2},
    "4 bodies in 3-D, steps in time units": {"num_particles": 4, "dim": 3, "dt_scale": "unit", "lr": 1e-2},
    "n_steps": {"n_steps": 5},
    "unequal masses": {"mass": (1.0, 0.01)},
    "test particle": {"num_particles": 3, "mass": (1.0, 1.0, 0.0), "lr": 1e-2},
    "softening": {"softening": 0.01},
    "external field": {"external_field_mass": 5.0, "external_field_position": (4.0, 3.0)},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-2},
    "relu": {"activation": "relu"},
    "silu": {"activation": "silu"},
    "dropout": {"dropout": 0.2},
    "scaled inputs": {"normalize_inputs": True, "history_len": 2},
    "absolute band": {"bounds_relative": False, "energy_threshold": 1e-3, "E_lower": 1e-6, "E_upper": 5e-4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_trains(kind):
    config = small(**KINDS[kind])
    trainer = Trainer([config])
    start = trainer.network.flat.clone()
    records = train(trainer, 4)
    for record in records:
        assert record.accepted == 16 + 8 * (record.epoch == 1 and config.history_len == 2)
        assert record.rel_dE_train < config.energy_threshold
        assert record.dt_mean > 0
        assert record.stuck_orbits == 0
        assert record.skipped_updates == 0
        assert record.replay_updates > 0
    weights = trainer.network.flat
    assert weights.dtype == trainer.collection.state.position.dtype == config.torch_dtype
    assert torch.isfinite(weights).all()
    assert not torch.equal(weights, start)


@pytest.mark.parametrize("dt_scale", ["pair", "unit"])
@pytest.mark.parametrize(("feature_type", "history_len"), [("basic", 4), ("rich", 0), ("rich", 4), ("delta_mag", 4)])
def test_history_trains_without_nan(feature_type, history_len, dt_scale):
    trainer = Trainer([small(feature_type=feature_type, history_len=history_len, dt_scale=dt_scale, lr=1e-2)])
    for record in train(trainer, 4):
        assert record.skipped_updates == 0
        assert math.isfinite(record.loss)
        assert record.rel_dE_train < trainer.config.energy_threshold
    assert torch.isfinite(trainer.network.flat).all()
    assert torch.isfinite(trainer.buffer.rows(0)).all()


def test_masses_keep_the_centre_of_mass_at_rest():
    trainer = Trainer([small(mass=(1.0, 0.1), steps_per_epoch=20)])
    train(trainer, 3)
    state = trainer.collection.state
    for vectors in (state.position, state.velocity):
        centre = (state.mass.unsqueeze(-1) * vectors).sum(-2)
        assert centre.abs().max() < 1e-12


def test_external_field_acts_in_training():
    """Stored energies hold the tide's potential (here from its formula, in numpy), and steps conserve their sum."""
    mass, place = 20.0, np.array([4.0, 3.0])
    trainer = Trainer([small(external_field_mass=mass, external_field_position=tuple(place), steps_per_epoch=40)])
    multiply_proposals(trainer, 0.05)
    assert [record.rejected for record in train(trainer, 2)] == [0, 0]  # so all orbits are in every row of the buffer
    samples = trainer.shape.unpack(trainer.buffer.rows(0))
    x, v = samples.state.position.numpy(), samples.state.velocity.numpy()
    kinetic = 0.5 * (v**2).sum((-1, -2))
    own = -1 / np.linalg.norm(x[:, 0] - x[:, 1], axis=-1)
    distance = np.linalg.norm(place)
    tide = -mass * (1 / np.linalg.norm(place - x, axis=-1) - 1 / distance - x @ place / distance**3).sum(-1)
    np.testing.assert_allclose(samples.energy.numpy(), kinetic + own + tide, rtol=1e-12)
    # Along each orbit the sum is conserved as well as the accepted steps say; without the tide it is not.
    orbits = trainer.config.num_orbits
    drift = np.ptp((kinetic + own + tide).reshape(-1, orbits), axis=0)
    assert (drift < 80 * trainer.config.energy_threshold * np.abs(samples.energy.numpy()[:orbits])).all()
    assert (np.ptp((kinetic + own).reshape(-1, orbits), axis=0) > 3 * drift).all()


def test_dropout_is_off_while_accepting():
    """With frozen weights dropout changes nothing: neither the steps taken nor a verdict see it."""
    plain, dropped = (Trainer([small(lr=FROZEN, dropout=dropout)]) for dropout in (0.0, 0.5))
    for trainer in (plain, dropped):
        multiply_proposals(trainer, 0.35)  # none is rejected: with frozen weights it would stay so
    for ours, theirs in zip(train(dropped, 3), train(plain, 3), strict=True):
        for key in ("accepted", "rejected", "rel_dE_train", "dt_mean", "pass_fraction", "timid_share", "converged"):
            assert getattr(ours, key) == getattr(theirs, key)
        assert 0 < ours.timid_share < 1
        assert ours.loss != theirs.loss  # in the pass whose gradient is taken it is on
    assert torch.equal(plain.collection.state.position, dropped.collection.state.position)


# What goes wrong -----------------------------------------------------------------------------------


def test_cap_on_retrains_does_not_lose_the_run():
    """Stuck orbits are counted, the epoch is not converged, they start afresh, and training goes on to its end."""
    trainer = Trainer([small(max_retrain_steps=3, lr=FROZEN)])
    multiply_proposals(trainer, 1e3)
    for epoch in range(1, 6):
        before = trainer.collection.state.position.clone()
        record = trainer.train_epoch()
        assert (record.epoch, record.stuck_orbits, record.retrain_steps) == (epoch, 4, 3)
        assert not record.converged
        moved = (trainer.collection.state.position != before).flatten(2).any(-1)
        assert moved.all()
        assert not trainer.collection.ended.any()


def test_one_stuck_orbit_lets_the_others_go_on():
    """Phase 2 may pass on what was collected; an epoch with a stuck orbit is not converged all the same."""
    trainer = Trainer([small(max_retrain_steps=3, lr=FROZEN, timid_fraction=1.0)])
    propose_constant(trainer, 1e-5)
    trainer.collection.energy[0, 2] *= 2  # whatever step it takes seems wrong
    record = trainer.train_epoch()
    assert (record.accepted, record.stuck_orbits, record.samples) == (12, 1, 12)
    assert record.pass_fraction == 1
    assert not record.converged
    record = trainer.train_epoch()
    assert (record.accepted, record.stuck_orbits) == (16, 0)
    assert record.converged


def test_no_cap_on_retrains():
    trainer = Trainer([small(max_retrain_steps=0, lr=FROZEN)])
    multiply_proposals(trainer, 1e3)
    for _ in range(300):
        assert not trainer.tick()
    assert trainer.lanes[0].record.retrain_steps == 300
    assert trainer.lanes[0].record.stuck_orbits == 0


def test_one_bad_update_is_skipped_and_counted():
    trainer = Trainer([small()])
    energy, before = trainer.collection.energy.clone(), trainer.network.flat.clone()
    trainer.collection.energy[0, 1] = torch.nan
    trainer.tick()
    assert torch.equal(trainer.network.flat, before)
    assert trainer.lanes[0].record.skipped_updates == 1
    trainer.collection.energy.copy_(energy)
    record = trainer.train_epoch()
    assert record.skipped_updates == 1
    assert trainer.lanes[0].skips_in_a_row == 0
    assert not torch.equal(trainer.network.flat, before)
    assert torch.isfinite(trainer.network.flat).all()


def test_bad_updates_in_a_row_fail_the_lane_with_the_reason():
    trainer = Trainer([small(max_retrain_steps=2 * MOST_SKIPS, lr=0.5)])
    trainer.network.flat.fill_(torch.nan)
    with pytest.raises(TrainingFailed, match=rf"{MOST_SKIPS} updates in a row .*epoch 1, collect.*smaller lr \(0.5\)"):
        trainer.train_epoch()
    assert trainer.lanes[0].record.skipped_updates == MOST_SKIPS


# Orbits --------------------------------------------------------------------------------------------


def test_stop_at_period_starts_a_finished_orbit_afresh():
    """An epoch ends when each orbit has its quota or its period is over; none is empty."""
    trainer = Trainer([small(stop_at_period=True, steps_per_epoch=10**6, energy_threshold=1e-2, history_len=2)])
    ends = set()
    for _ in range(3):
        begin = trainer.collection.state.position.clone()
        record = trainer.train_epoch()
        ends.add(record.accepted)
        assert record.accepted > 40
        assert record.samples > 0
        assert (trainer.collection.elapsed == 0).all()
        assert (trainer.collection.age == 0).all()
        assert (trainer.collection.own_window(0) == 0).all()  # a fresh orbit has no past
        assert not torch.equal(trainer.collection.state.position, begin)
    assert len(ends) > 1


def test_an_orbit_goes_on_where_its_last_epoch_left_it():
    trainer = Trainer([small(lr=FROZEN)])
    propose_constant(trainer, 1e-3)
    elapsed = []
    for _ in range(3):
        trainer.train_epoch()
        elapsed.append(trainer.collection.elapsed.clone())
    assert (elapsed[1] > elapsed[0]).all()
    assert (trainer.collection.age == 12).all()
