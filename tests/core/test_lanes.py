"""Lanes: each training of a pack is what it would be alone."""

import pytest
import torch

from core.errors import ConfigError
from core.lane import Phase
from core.pack import LANE_KEYS
from core.trainer import Trainer
from tests.trainings import content, differences, small

#: Lanes that differ in everything that decides shapes and pace.
LANES = [
    {"lr": 1e-3, "energy_threshold": 2e-4, "feature_type": "basic", "seed": 1, "num_orbits": 4},
    {"lr": 3e-3, "energy_threshold": 1e-4, "feature_type": "delta_mag", "history_len": 5, "seed": 2, "num_orbits": 2},
    {"lr": 5e-3, "energy_threshold": 1e-3, "feature_type": "rich", "history_len": 2, "seed": 3, "num_orbits": 8}
    | {"step_rule": "reversible"},
    {"lr": 2e-3, "energy_threshold": 5e-5, "feature_type": "delta_mag", "history_len": 2, "seed": 4, "num_orbits": 1},
    {"lr": 1e-2, "energy_threshold": 2e-4, "feature_type": "basic", "history_len": 3, "seed": 5, "num_orbits": 5}
    | {"step_rule": "reversible"},
]
TICKS = 300


def assert_same(pack: Trainer, index: int, alone: Trainer) -> None:
    """Bit for bit; but sums over a batch that go into the log may round differently as the batch is wider."""
    ours, theirs = content(pack, index), content(alone)
    records = [*ours.pop("logs"), ours.pop("record")]
    assert not differences(ours, {name: theirs[name] for name in ours}), f"lane {index}"
    for record, expected in zip(records, [*theirs["logs"], theirs["record"]], strict=True):
        for key, value in expected.items():
            assert record[key] == value, key


def alone_like(pack: Trainer, index: int) -> Trainer:
    """Train a lane's config alone up to where the lane stands: in a pack it may wait for the others."""
    lane, alone = pack.lanes[index], Trainer([pack.lanes[index].config])
    for _ in range(TICKS):
        own = alone.lanes[0]
        if (own.epoch, own.phase, own.record) == (lane.epoch, lane.phase, lane.record):
            break
        alone.tick()
    return alone


@pytest.mark.parametrize(
    "shared",
    [
        {},
        {"dropout": 0.3, "normalize_inputs": True, "optimizer": "adamw"},
        {"dt_scale": "unit", "n_steps": 3, "hidden_dims": (24,), "activation": "silu"},
        {"dtype": "mixed"},
    ],
    ids=["plain", "dropout and scales", "other network", "mixed"],
)
def test_a_lane_of_a_pack_equals_the_same_config_alone(shared):
    pack = Trainer([small(**lane, **shared) for lane in LANES])
    phases = [set() for _ in LANES]
    for _ in range(TICKS):
        for index, lane in enumerate(pack.lanes):
            phases[index].add(lane.phase)
        pack.tick()
    assert all(seen == {Phase.COLLECT, Phase.REPLAY} for seen in phases)
    assert all(lane.epoch > 0 for lane in pack.lanes)
    for index in range(len(LANES)):
        assert_same(pack, index, alone_like(pack, index))


def test_lanes_differ_from_each_other():
    """Else the test above would show nothing."""
    pack = Trainer([small(seed=seed) for seed in (1, 2)])
    for _ in range(20):
        pack.tick()
    assert differences(content(pack, 0), content(pack, 1))


def test_a_failed_lane_stays_alone_with_its_failure():
    pack = Trainer([small(seed=seed) for seed in (1, 2, 3)])
    pack.network.flat[1] = torch.nan
    for _ in range(250):
        pack.tick()
    assert "not finite" in pack.lanes[1].failure
    assert "lr" in pack.lanes[1].failure
    assert [lane.failure is None for lane in pack.lanes] == [True, False, True]
    for index in (0, 2):
        assert_same(pack, index, alone_like(pack, index))


#: A second value for each key that all lanes must share.
SHARED = {
    "hidden_dims": (8, 8),
    "activation": "relu",
    "dropout": 0.1,
    "dt_scale": "unit",
    "normalize_inputs": True,
    "optimizer": "adamw",
    "n_steps": 2,
    "dtype": "float32",
    "dim": 3,
    "softening": 0.01,
    "num_particles": 3,
}


@pytest.mark.parametrize("key", SHARED)
def test_a_key_that_lanes_must_share_is_refused_by_name(key):
    with pytest.raises(ConfigError, match=f"The value of `{key}` is .* must be the same"):
        Trainer([small(), small(**{key: SHARED[key]})])
    assert key not in LANE_KEYS


def test_one_epoch_of_several_lanes_is_not_a_thing():
    with pytest.raises(ValueError, match="use tick"):
        Trainer([small(), small()]).train_epoch()


def test_a_pack_needs_a_lane():
    with pytest.raises(ConfigError, match="at least one"):
        Trainer([])
