"""Trainings that come and go in a pack: each is what it would be alone, bit for bit, whatever the others do."""

import pytest
import torch

from core.checkpoint import load_model, load_state, save_state
from core.errors import ConfigError
from core.pack import check_pack, pack_key
from core.scores import evaluate, references
from core.trainer import Trainer
from core.training_pack import TrainingPack
from tests.core.test_lanes import LANES
from tests.trainings import content, differences, small
from tests.work_precision import short_baselines


def alone(epochs: int, **settings) -> Trainer:
    """The same training by itself."""
    trainer = Trainer([small(**settings)])
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer


def run(pack: TrainingPack, ticks: int | None = None) -> list:
    """Advance for so many ticks, or until there is nothing to do."""
    events = []
    while pack.is_busy and ticks != 0:
        events += pack.advance()
        ticks = None if ticks is None else ticks - 1
    return events


def assert_as_alone(path, epochs: int, **settings) -> None:
    """What a pack has saved of a training is what the training comes to alone."""
    found, expected = content(load_state(path)), content(alone(epochs, **settings))
    for logs in (found["logs"], expected["logs"]):
        for record in logs:
            record.pop("epoch_time")
    assert not differences(found, expected), path.name


def saved(pack: TrainingPack, folder, key: str, metrics=()):
    pack.save(key, folder / f"{key}.model.pt", folder / f"{key}.pt", dict(metrics))
    return folder / f"{key}.pt"


@pytest.mark.parametrize(
    "shared",
    [
        {},
        {"dropout": 0.3, "normalize_inputs": True, "optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "sgd", "step_rule": "reversible", "lr": 1e-3},
    ],
    ids=["plain", "dropout and scales", "reversible"],
)
def test_trainings_come_and_go_and_are_what_they_are_alone(tmp_path, shared):
    """Neighbours attach in the middle of an epoch, leave, fail, are resumed, need wider networks, more orbits."""
    settings = {str(number): {**lane, **shared} for number, lane in enumerate(LANES)}
    pack = TrainingPack(slots=3)
    pack.attach("0", small(**settings["0"]))
    pack.train_until("0", 6)
    run(pack, 37)
    pack.attach("1", small(**settings["1"]))
    pack.train_until("1", 4)
    run(pack, 61)
    pack.attach("broken", small(**settings["2"]))
    pack.train_until("broken", 4)
    pack._members["broken"].trainer.network.flat.fill_(torch.nan)
    with pytest.raises(ConfigError, match="3 slots"):
        pack.attach("2", small(**settings["2"]))
    events = run(pack)
    assert [event.key for event in events if event.failure is not None] == ["broken"]
    assert "not finite" in pack.failure("broken")
    assert pack.failure("0") is None
    assert [(event.key, event.record.epoch) for event in events if event.record is not None][-1][1] in (4, 6)
    assert (pack.epoch("0"), pack.epoch("1")) == (6, 4)
    state = saved(pack, tmp_path, "1")
    assert_as_alone(saved(pack, tmp_path, "0"), 6, **settings["0"])
    assert_as_alone(state, 4, **settings["1"])
    for key in ("broken", "1"):
        pack.release(key)
    pack.attach("2", small(**settings["2"]))
    pack.attach("1 again", state)
    pack.train_until("1 again", 7)
    pack.train_until("2", 3)
    run(pack, 23)
    pack.train_until("0", 8)  # the others are in the middle of their epochs
    run(pack)
    assert_as_alone(saved(pack, tmp_path, "0"), 8, **settings["0"])
    assert_as_alone(saved(pack, tmp_path, "1 again"), 7, **settings["1"])
    pack.release("0")  # the pack becomes narrower in the middle of lane 2's next epoch
    pack.train_until("2", 5)
    run(pack, 11)
    pack.release("1 again")
    pack.attach("3", small(**settings["3"]))
    pack.train_until("3", 2)
    run(pack)
    assert_as_alone(saved(pack, tmp_path, "2"), 5, **settings["2"])
    assert_as_alone(saved(pack, tmp_path, "3"), 2, **settings["3"])


def test_scores_are_those_of_the_trained_model_alone(tmp_path, monkeypatch):
    """Of several lanes at once, while others train on; they are in the file that is saved with them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    short_baselines(monkeypatch)
    configs = [small(**lane, eval_periods=(1,), steps_per_epoch=12) for lane in LANES]
    against = references(configs[0])
    pack = TrainingPack(slots=len(configs))
    for number, config in enumerate(configs):
        pack.attach(str(number), config)
        pack.train_until(str(number), 2 if number else 4)
    scores, epochs = {}, {}
    while pack.is_busy:
        for event in pack.advance():
            if event.record is not None and event.key != "0" and event.record.epoch == 2:
                pack.evaluate(event.key, against)
            if event.scores is not None:
                scores[event.key], epochs[event.key] = event.scores, pack.epoch(event.key)
    assert scores.keys() == {"1", "2", "3", "4"}
    assert set(epochs.values()) == {2}
    for key, found in scores.items():
        trainer = alone(2, **LANES[int(key)], eval_periods=(1,), steps_per_epoch=12)
        assert found == evaluate(trainer.criterion(), configs[int(key)], against)
        saved(pack, tmp_path, key, found)
        model = load_model(tmp_path / f"{key}.model.pt")
        assert model.content["info"]["work_gain"] == found["work_gain"]


def test_a_training_goes_on_from_a_state_with_changes(tmp_path):
    trainer = alone(2, **LANES[0])
    save_state(tmp_path / "state.pt", trainer)
    pack = TrainingPack(slots=2)
    pack.attach("a", tmp_path / "state.pt", lr=5e-3)
    pack.train_until("a", 4)
    events = run(pack)
    assert [event.record.epoch for event in events] == [3, 4]
    assert load_state(saved(pack, tmp_path, "a")).config.lr == 5e-3
    assert pack.convergence_rate("a") == events[-1].record.convergence_rate


def test_what_does_not_fit_is_refused_and_changes_nothing():
    pack = TrainingPack(slots=4)
    pack.attach("a", small())
    with pytest.raises(ConfigError, match="hidden_dims"):
        pack.attach("b", small(hidden_dims=(8, 8)))
    with pytest.raises(ConfigError, match="optimizer"):
        pack.attach("b", small(optimizer="lbfgs"))
    assert len(pack) == 1
    pack.train_until("a", 1)
    assert [event.record.epoch for event in run(pack)] == [1]


@pytest.mark.parametrize("settings", [{"optimizer": "lbfgs", "lr": 0.1}, {"hidden_dims": (8, 1)}])
def test_what_trains_alone_is_a_pack_of_its_own(tmp_path, settings):
    with pytest.raises(ConfigError, match="train it alone"):
        check_pack([small(**settings), small(**settings)])
    pack = TrainingPack(slots=1)
    pack.attach("a", small(**settings))
    pack.train_until("a", 2)
    run(pack)
    assert_as_alone(saved(pack, tmp_path, "a"), 2, **settings)


@pytest.mark.parametrize(
    "change", [{"lr": 1.0}, {"step_rule": "reversible"}, {"seed": 9, "num_orbits": 2}, {"save_name": "x"}]
)
def test_configs_that_fit_have_one_key(change):
    assert pack_key(small()) == pack_key(small(**change))


@pytest.mark.parametrize(
    "change", [{"hidden_dims": (8, 8)}, {"dtype": "float32"}, {"dtype": "mixed"}, {"optimizer": "adamw"}]
)
def test_configs_that_do_not_fit_have_others(change):
    assert pack_key(small()) != pack_key(small(**change))
