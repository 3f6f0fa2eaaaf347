"""Weights in float32 beside states in float64."""

import pytest
import torch

from core.held_out import held_out
from core.network import FullyConnectedNN
from core.scores import References, evaluate
from core.timestep import Learned, network_of
from core.trainer import Trainer
from tests.trainings import small, train


def rounded(network: FullyConnectedNN, into: FullyConnectedNN) -> FullyConnectedNN:
    into.flat.copy_(network.flat)
    return into


def test_states_and_energies_stay_float64():
    trainer = Trainer([small(dtype="mixed", num_orbits=8)])
    train(trainer, 3)
    held = trainer.collection
    assert trainer.network.flat.dtype == trainer.optimizer.moments["exp_avg"].dtype == torch.float32
    assert {tensor.dtype for tensor in (*held.state, held.energy, trainer.buffer.data)} == {torch.float64}
    energy, _ = trainer.forces.energy(held.state)
    torch.testing.assert_close(held.energy, energy, rtol=1e-14, atol=0)


@pytest.mark.parametrize("step_rule", ["direct", "reversible"])
def test_a_model_has_the_same_scores_in_both(step_rule):
    """Rounding its weights and activations to float32 moves its steps by a part in a million, and its scores too."""
    double = small(num_orbits=8, step_rule=step_rule, eval_periods=(1,))
    trainer = Trainer([double])
    train(trainer, 15)
    mixed = double.model_copy(update={"dtype": "mixed"})
    model = trainer.criterion()
    models = (model, Learned(mixed, model.scales, rounded(model.network, network_of(mixed))))
    expected, scores = (evaluate(one, one.config, References(held_out(one.config), {})) for one in models)
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert scores["rel_dE"] != expected["rel_dE"]


def test_mixed_trainings_reach_what_those_in_float64_reach():
    """Each goes its own way after a while; what they come to differs by less than from seed to seed."""
    errors = {}
    for dtype in ("float64", "mixed"):
        configs = [small(dtype=dtype, seed=seed, num_orbits=8, eval_periods=(1,)) for seed in range(8)]
        trainer = Trainer(configs)
        while min(lane.epoch for lane in trainer.lanes) < 20:
            for lane in trainer.lanes:
                lane.waiting = lane.epoch >= 20
            trainer.tick()
        against = References(held_out(configs[0]), {})
        own = [evaluate(trainer.criterion(lane), configs[lane], against)["rel_dE"] for lane in range(8)]
        errors[dtype] = torch.tensor(own).log()
    (double, mixed), spread = errors.values(), errors["float64"].std()
    assert abs(double.mean() - mixed.mean()) < spread
