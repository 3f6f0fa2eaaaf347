"""When an epoch counts as converged, and that neither a timid nor an untrained network can say so.

Each test is named after what a predecessor of this trainer got wrong.
"""

import pytest
import torch
from torch import Tensor

from core.config import Config
from core.errors import ConfigError
from core.orbits import draw
from core.trainer import Trainer
from tests.trainings import FROZEN, content, differences, multiply_proposals, propose_constant, small, train


def proposals(trainer: Trainer) -> Tensor:
    """First steps that a lane proposes to orbits it has not seen, in periods."""
    orbits = draw(trainer.config, 64, torch.Generator().manual_seed(99))
    criterion = trainer.criterion()
    return criterion.propose(orbits.state, criterion.init(orbits.state)) / orbits.period


def test_skipped_phase_2_is_not_convergence():
    for record in train(Trainer([small(min_replay_size=10**6)]), 3):
        assert record.replay_updates == 0
        assert record.pass_fraction is None
        assert record.timid_share is None
        assert not record.converged
        assert record.convergence_rate == 0


def test_empty_phase_2_is_not_convergence():
    """All orbits stuck at once: there is nothing to replay."""
    trainer = Trainer([small(max_retrain_steps=2, min_replay_size=1, lr=FROZEN)])
    multiply_proposals(trainer, 1e3)
    (record,) = train(trainer, 1)
    assert record.samples == 0
    assert record.replay_updates == 0
    assert not record.converged


def test_phase_2_runs_with_steps_per_epoch_1():
    for record in train(Trainer([small(steps_per_epoch=1)]), 3):
        assert record.replay_updates >= 10
        assert record.pass_fraction is not None


def test_replay_buffer_lasts_across_epochs():
    """One orbit, one step an epoch: too few in the first epoch, enough from the second on."""
    records = train(Trainer([small(num_orbits=1, steps_per_epoch=1, min_replay_size=2)]), 3)
    assert [record.samples for record in records] == [1, 2, 3]
    assert [record.replay_updates > 0 for record in records] == [False, True, True]
    assert not records[0].converged


def test_convergence_needs_a_pass_over_the_buffer_first():
    """100 samples in minibatches of 4 are 25 updates; at least 10 however few there are."""
    records = train(Trainer([small(steps_per_epoch=25, replay_batch_size=4, replay_steps=100)]), 2)
    assert records[0].replay_updates >= 25
    assert records[1].replay_updates >= 50
    (record,) = train(Trainer([small(steps_per_epoch=1)]), 1)
    assert record.converged
    assert record.replay_updates == 10


def test_replay_steps_end_phase_2():
    (record,) = train(Trainer([small(steps_per_epoch=25, replay_batch_size=4, replay_steps=7)]), 1)
    assert record.replay_updates == 7
    assert record.pass_fraction is not None


@pytest.mark.parametrize(("timid_fraction", "converged"), [(0.5, False), (0.999, False), (1.0, True)])
def test_constant_tiny_dt_is_not_converged(timid_fraction, converged):
    """It conserves energy, passes every sample, and would win for ever; the timid share says no, and nothing else."""
    trainer = Trainer([small(lr=FROZEN, timid_fraction=timid_fraction)])
    propose_constant(trainer, 1e-5)
    for record in train(trainer, 3):
        assert record.rejected == 0
        assert record.pass_fraction == 1
        assert record.timid_share == 1
        assert record.converged is converged


def test_lower_bound_of_the_band_acts():
    """Nothing is rejected, so phase 1 teaches nothing: phase 2 alone makes timid steps grow."""
    trainer = Trainer([small()])
    multiply_proposals(trainer, 1e-2)
    before = proposals(trainer)
    (record,) = train(trainer, 1)
    assert record.rejected == 0
    assert (proposals(trainer) > 1.05 * before).all()


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.2}, {"history_len": 3}, {"dt_scale": "unit"}], ids=str)
def test_a_thousandth_of_the_right_step_is_left_again(settings):
    config = small(replay_steps=200, **settings)
    ordinary, tiny = Trainer([config]), Trainer([config])
    multiply_proposals(tiny, 1e-3)
    train(ordinary, 5)
    (first,) = train(tiny, 1)
    assert first.pass_fraction == 1
    assert first.timid_share > 0.9
    assert not first.converged
    train(tiny, 4)
    ratio = (proposals(tiny) / proposals(ordinary)).median()
    assert 1 / 3 < ratio < 3


def test_every_sample_must_pass():
    """One sample above the threshold among many is not convergence, and the share says how many passed."""
    trainer = Trainer([small()])
    (record,) = train(trainer, 1)
    assert record.converged
    samples = trainer.shape.unpack(trainer.buffer.data)
    samples.energy[0, trainer.buffer.offset] += 1  # its step now seems to miss by far
    trainer.judge([0])
    judged = trainer.lanes[0].record
    assert judged.pass_fraction == 1 - 1 / record.samples
    assert not judged.converged


def test_every_sample_of_many_must_pass():
    """Where 512 of them are judged first: one of 2000 that fails is found wherever it is, and passing needs all."""
    trainer = Trainer([small(steps_per_epoch=500, lr=FROZEN, timid_fraction=1.0, replay_steps=10)])
    propose_constant(trainer, 1e-3)
    (record,) = train(trainer, 1)
    assert (record.samples, record.pass_fraction, record.converged) == (2000, 1, True)
    energy = trainer.shape.unpack(trainer.buffer.data).energy[0, trainer.buffer.offset :]
    judged, shares = trainer.lanes[0].record, set()
    for place in range(0, 2000, 100):
        energy[place] += 1  # its step now seems to miss by far
        trainer.judge([0])
        energy[place] -= 1
        assert not judged.converged
        assert judged.pass_fraction is not None
        shares.add(judged.pass_fraction)
    assert 1 - 1 / 2000 in shares  # not among the first: all were judged
    assert 1 - 1 / 512 in shares
    energy[::2] += 1
    trainer.judge([0])
    assert judged.pass_fraction == pytest.approx(0.5, abs=0.07)


def test_judging_changes_nothing():
    trainer = Trainer([small(dropout=0.5)])
    train(trainer, 1)
    before = content(trainer)
    trainer.judge([0])
    assert differences(before, content(trainer)) == ["record"]


def test_threshold_below_E_upper_is_refused():
    with pytest.raises(ConfigError, match=r"E_upper.*must be <= energy_threshold"):
        Config.from_mapping({"energy_threshold": 1e-5, "E_upper": 1e-4})
    with pytest.raises(ConfigError, match=r"E_upper.*must be <= 1"):
        Config.from_mapping({"bounds_relative": True, "E_upper": 1.5})


def test_every_rejected_step_has_a_gradient():
    """Also with E_upper at the threshold, where a rejected step may be only just above the band."""
    trainer = Trainer([small(num_orbits=1, E_upper=1.0, lr=5e-4, max_retrain_steps=0)])
    multiply_proposals(trainer, 5)
    lane, rejections = trainer.lanes[0], 0
    while lane.record.accepted == 0:
        before, weights = lane.record.rejected, trainer.network.flat.clone()
        trainer.tick()
        if lane.record.rejected > before:
            rejections += 1
            assert lane.record.loss > 0
            assert not torch.equal(trainer.network.flat, weights)
    assert rejections > 20


def test_convergence_rate_is_the_share_of_converged_epochs():
    trainer = Trainer([small(replay_steps=10)])
    records = train(trainer, 8)
    converged = [record.converged for record in records]
    assert 0 < sum(converged) < len(converged)
    for epoch, record in enumerate(records, start=1):
        assert record.epoch == epoch
        assert record.convergence_rate == sum(converged[:epoch]) / epoch
    assert trainer.lanes[0].logs == [record.to_dict() for record in records]
