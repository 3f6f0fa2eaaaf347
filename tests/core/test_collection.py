"""Input scales, which are fitted to the orbits that a lane collects from."""

import pytest
import torch

from core.errors import ConfigError
from core.forces import Forces
from core.orbits import Orbits
from core.trainer import Trainer
from tests.trainings import small


@pytest.mark.parametrize("dt_scale", ["unit", "pair"])
def test_systems_that_fly_apart_leave_scales_of_systems(dt_scale):
    """Softening unbinds orbits that start at pericentre. Their flight ends in infinity, and says nothing of inputs."""
    keys = {"normalize_inputs": True, "dt_scale": dt_scale, "num_orbits": 8, "e_min": 0.6, "e_max": 0.95, "seed": 2}
    hard, soft = (Trainer([small(**keys, softening=length)]) for length in (0.0, 0.2))
    unbound = soft.forces.energy(soft.collection.own_state(0))[0] > 0
    assert unbound.sum() >= 4
    for fitted, other in zip(soft.lanes[0].scales, hard.lanes[0].scales, strict=True):
        assert 0.2 < fitted / other < 5


def test_systems_without_a_scale_are_refused_in_one_line():
    """Bodies at rest, too far apart to pull."""
    position = torch.tensor([[[-1e170, 0], [1e170, 0]]], dtype=torch.float64)
    state = Forces().state(position, torch.zeros_like(position), torch.ones(1, 2, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"`normalize_inputs` is true, but .*; set it to false") as refusal:
        Trainer([small(normalize_inputs=True, num_orbits=1)], Orbits(state, torch.ones(1, dtype=torch.float64)))
    assert "\n" not in str(refusal.value)
