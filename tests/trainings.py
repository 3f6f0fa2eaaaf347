"""Small trainings that tests run, and ways to put their networks where a test wants them."""

import math
from typing import Any

import torch
from torch import Tensor

from core.config import Config
from core.forces import State
from core.history import input_width
from core.lane import EpochRecord
from core.leapfrog import leapfrog
from core.timestep import Learned
from core.trainer import Trainer


def small(**settings: Any) -> Config:
    """A config whose epochs take some hundredths of a second."""
    defaults = {
        "hidden_dims": (16, 16),
        "n_steps": 1,
        "dropout": 0.0,
        "dt_scale": "pair",
        "bounds_relative": True,
        "lr": 3e-3,
        "weight_decay": 0.0,
        "num_orbits": 4,
        "steps_per_epoch": 4,
        "replay_steps": 30,
        "replay_batch_size": 32,
        "max_retrain_steps": 200,
        "seed": 1,
        "device": "cpu",
    }
    return Config(**defaults | settings)


#: A learning rate at which weights do not change: what a network proposes can then be followed exactly.
FROZEN = 1e-30


def train(trainer: Trainer, epochs: int) -> list[EpochRecord]:
    """Run some epochs of a single lane."""
    return [trainer.train_epoch() for _ in range(epochs)]


def multiply_proposals(trainer: Trainer, factor: float, lane: int = 0) -> None:
    """Make a lane propose ``factor`` times its steps."""
    trainer.network.layers[-1][1][lane, :, 0] += math.log(factor)


def propose_constant(trainer: Trainer, output: float) -> None:
    """Make every lane propose ``output`` whatever it sees (times the pair time with dt_scale pair)."""
    weight, bias = trainer.network.layers[-1]
    weight.zero_()
    bias[..., 0] = math.log(output)


def content(trainer: Trainer, lane: int = 0) -> dict[str, Any]:
    """All that a lane's training has come to, by name and at the lane's own sizes: equal content goes on equally."""
    held = trainer.lanes[lane]
    buffer = trainer.buffer.lane_state(lane, input_width(held.config))
    weights = trainer.network.named(trainer.network.flat[lane], lane)
    return {
        "logs": held.logs,
        "record": held.record.to_dict(),
        "generator": held.generator.get_state(),
        "window": trainer.collection.own_window(lane).clone(),
        **{f"weights {name}": tensor for name, tensor in weights.items()},
        **{f"orbits {name}": tensor for name, tensor in trainer.collection.orbit_tensors(lane).items()},
        **{f"buffer {name}": part for name, part in buffer.items()},
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not bit for bit the same."""
    assert one.keys() == other.keys()
    return [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name])
    ]


class Watched:
    """A step criterion's network that remembers the inputs it is given."""

    def __init__(self, criterion: Learned):
        self._network = criterion.network
        self.inputs: list[Tensor] = []
        criterion.network = self  # type: ignore[assignment]

    def embed(self, inputs: Tensor) -> Tensor:
        """Remember ``inputs`` (1, B, F)."""
        self.inputs.append(inputs[0].clone())
        return self._network.embed(inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        return self._network(inputs)


def errors_of_first_steps(criterion: Learned, state: State, trainer: Trainer, count: int) -> Tensor:
    """Own rel_dE (count, B) of the first steps that a simulation takes from a cold start."""
    memory, errors = criterion.init(state), []
    n_steps = criterion.config.n_steps
    for _ in range(count):
        dt = criterion.propose(state, memory)
        block = leapfrog(state, dt, trainer.forces, n_steps)
        energy = trainer.forces.energy(state)[0]
        errors.append((block.energy - energy).abs() / energy.abs())
        memory = criterion.advance(memory, block.state, dt * n_steps)
        state = block.state
    return torch.stack(errors)
