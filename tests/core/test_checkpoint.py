"""Checkpoints: a resumed training goes on bit for bit, a loaded model is the trained one, and no file runs code."""

import os
import pickle

import pytest
import torch

from core.checkpoint import load_model, load_state, save_model, save_state
from core.errors import CheckpointError
from core.orbits import draw
from core.trainer import Trainer
from tests.trainings import content, differences, small, train

RESUMED = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "full buffer": {"replay_capacity": 20, "replay_batch_size": 8},
    "cold starts": {"history_len": 3, "replay_batch_size": 16},
    "fresh starts": {"stop_at_period": True, "steps_per_epoch": 30, "energy_threshold": 1e-2, "history_len": 2},
    "scaled inputs": {"normalize_inputs": True, "feature_type": "rich", "history_len": 2},
    "mixed": {"dtype": "mixed"},
    "float32": {"dtype": "float32", "optimizer": "adamw", "weight_decay": 0.01},
    "field in 3-D": {"dim": 3, "external_field_mass": 2.0, "external_field_position": (3.0, 0.0, 1.0)},
    "3 bodies": {"num_particles": 3, "n_steps": 2, "dt_scale": "unit"},
}


@pytest.mark.parametrize("kind", RESUMED)
def test_resumed_training_goes_on_bit_for_bit(kind, tmp_path):
    config = small(**RESUMED[kind])
    unbroken = Trainer([config])
    train(unbroken, 3)
    save_state(tmp_path / "state.pt", unbroken)
    resumed = load_state(tmp_path / "state.pt")
    assert not differences(content(unbroken), content(resumed))
    for _ in range(3):
        assert unbroken.train_epoch() == resumed.train_epoch()
    assert not differences(content(unbroken), content(resumed))
    assert len(resumed.lanes[0].logs) == 6


def test_resume_before_the_first_epoch(tmp_path):
    trainer = Trainer([small()])
    save_state(tmp_path / "state.pt", trainer)
    resumed = load_state(tmp_path / "state.pt")
    assert trainer.train_epoch() == resumed.train_epoch()


def test_resume_keeps_a_seed_that_was_drawn(tmp_path):
    trainer = Trainer([small(seed=None)])
    save_state(tmp_path / "state.pt", trainer)
    assert load_state(tmp_path / "state.pt").lanes[0].config == trainer.lanes[0].config


def test_lane_of_a_pack_resumes_alone(tmp_path):
    """Its file holds it at its own widths, whatever its neighbours needed."""
    configs = [small(), small(seed=2, history_len=2, num_orbits=3), small(seed=3, history_len=6, num_orbits=8)]
    pack = Trainer(configs)
    while pack.lanes[1].epoch < 2:
        pack.tick()
    save_state(tmp_path / "state.pt", pack, lane=1)
    resumed = load_state(tmp_path / "state.pt")
    alone = Trainer([configs[1]])
    train(alone, 2)
    assert not differences(content(resumed), content(alone) | {"logs": resumed.lanes[0].logs})
    assert resumed.train_epoch() == alone.train_epoch()


@pytest.mark.parametrize(
    "settings",
    [
        {"history_len": 3, "dropout": 0.5},
        {"normalize_inputs": True, "feature_type": "rich", "history_len": 2, "dt_scale": "unit"},
        {"hidden_dims": (24, 8, 8), "activation": "silu", "dtype": "float32", "mass": (1.0, 0.5)},
        {"n_steps": 5, "dt_bound": 1e-3},
    ],
    ids=str,
)
def test_loaded_model_is_the_trained_one(settings, tmp_path):
    """Architecture, activation, scales, features, dt_scale, dtype, n_steps: all from the file, no flag needed."""
    config = small(**settings)
    trainer = Trainer([config])
    train(trainer, 2)
    save_model(tmp_path / "model.pt", trainer)
    model = load_model(tmp_path / "model.pt")
    assert model.config == config
    orbits = draw(config, 16, torch.Generator().manual_seed(4))
    ours, theirs = trainer.criterion(), model.criterion
    memories = ours.init(orbits.state), theirs.init(orbits.state)
    dt = ours.propose(orbits.state, memories[0])
    assert dt.dtype == config.torch_dtype
    assert torch.equal(dt, theirs.propose(orbits.state, memories[1]))
    # Moving on (here to where it is already) puts a past into the window, so that history and scales matter.
    memories = ours.advance(memories[0], orbits.state, dt), theirs.advance(memories[1], orbits.state, dt)
    assert torch.equal(ours.propose(orbits.state, memories[0]), theirs.propose(orbits.state, memories[1]))


def test_model_file_has_the_documented_keys(tmp_path):
    trainer = Trainer([small(history_len=2)])
    records = train(trainer, 2)
    save_model(tmp_path / "model.pt", trainer, metrics={"work_gain": 1.2})
    file = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(file) == set(
        "epoch model_state_dict optimizer_state_dict loss info logs extra config config_summary history_len "
        "feature_type dtype".split()
    )
    assert (file["epoch"], file["history_len"], file["feature_type"], file["dtype"]) == (2, 2, "delta_mag", "float64")
    assert file["logs"] == [record.to_dict() for record in records]
    assert file["loss"] == records[-1].loss
    assert file["info"]["work_gain"] == 1.2
    assert file["info"]["convergence_rate"] == records[-1].convergence_rate
    assert set(file["extra"]) == {"train_ic", "scales", "frequencies"}
    assert torch.equal(file["extra"]["train_ic"]["position"], trainer.lanes[0].train_ic.position)
    assert file["config"] == trainer.config.to_dict()
    assert file["model_state_dict"]["0.weight"].shape == (16, 20)  # as torch.nn.Linear has it: (out, in)


def test_criterion_is_a_copy():
    """What is simulated does not change as training goes on."""
    trainer = Trainer([small()])
    criterion, orbits = trainer.criterion(), draw(trainer.config, 4, torch.Generator().manual_seed(4))
    before = criterion.propose(orbits.state, criterion.init(orbits.state))
    train(trainer, 1)
    assert torch.equal(criterion.propose(orbits.state, criterion.init(orbits.state)), before)


def test_model_is_small(tmp_path):
    """Three numbers a weight (itself and two moments); it was 33.7 MB."""
    trainer = Trainer([small(hidden_dims=(64, 64), steps_per_epoch=100)])
    train(trainer, 2)
    save_model(tmp_path / "model.pt", trainer)
    weights = sum(weight.numel() for weight in load_model(tmp_path / "model.pt").content["model_state_dict"].values())
    assert (tmp_path / "model.pt").stat().st_size < 3 * 8 * weights + 20_000


# Files that are not what they should be --------------------------------------------------------------


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.fixture
def files(tmp_path):
    trainer = Trainer([small()])
    train(trainer, 1)
    save_model(tmp_path / "model.pt", trainer)
    save_state(tmp_path / "state.pt", trainer)
    return tmp_path


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [torch.save, write_pickle], ids=["torch.save", "pickle"])
@pytest.mark.parametrize(("name", "load"), [("model.pt", load_model), ("state.pt", load_state)])
def test_evil_pickle_is_refused_and_not_run(files, name, load, write):
    content = torch.load(files / name, weights_only=True) | {"extra": Evil(files / "pwned")}
    if write is torch.save:
        write(content, files / name)
    else:
        write(files / name, content)
    with pytest.raises(CheckpointError, match="more than plain tensors and numbers"):
        load(files / name)
    assert not (files / "pwned").exists()


def broken(change):
    """A model.pt whose content was changed."""

    def write(path):
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return write


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "foreign list": lambda path: torch.save([1, 2], path),
    "foreign tensors": lambda path: torch.save({"weight": torch.zeros(3)}, path),
    "no config": broken(lambda content: content.pop("config")),
    "config of another kind": broken(lambda content: content.update(config=3)),
    "config of a later version": broken(lambda content: content["config"].update(key_of_2030=1)),
    "impossible config": broken(lambda content: content["config"].update(lr=-1.0)),
    "other architecture": broken(lambda content: content["config"].update(hidden_dims=[8, 8])),
    "other history": broken(lambda content: content["config"].update(history_len=2, feature_type="rich")),
}
STATE_DAMAGES = {
    "no weights": broken(lambda content: content.update(weights=None)),
    "no counters": broken(lambda content: content.update(counters=None)),
    "generator of another kind": broken(lambda content: content.update(generator=torch.zeros(3))),
    "fewer orbits": broken(lambda content: content["config"].update(num_orbits=2)),
}
MODEL_DAMAGES = {
    "no weights": broken(lambda content: content.update(model_state_dict=None)),
    "no scales": broken(lambda content: content.update(extra={})),
    "scales of another kind": broken(lambda content: content["extra"].update(scales={"L": "x"})),
}


@pytest.mark.parametrize(
    ("name", "load", "damage"),
    [
        *(("model.pt", load_model, damage) for damage in (DAMAGES | MODEL_DAMAGES).items()),
        *(("state.pt", load_state, damage) for damage in (DAMAGES | STATE_DAMAGES).items()),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_damaged_file_is_one_line_with_its_name(files, name, load, damage):
    damage[1](files / name)
    with pytest.raises(CheckpointError) as caught:
        load(files / name)
    message = str(caught.value)
    assert str(files / name) in message
    assert "\n" not in message


def test_a_model_is_not_a_state_and_the_other_way_round(files):
    with pytest.raises(CheckpointError, match=r"not a state\.pt"):
        load_state(files / "model.pt")
    with pytest.raises(CheckpointError, match=r"not a model\.pt"):
        load_model(files / "state.pt")


@pytest.mark.parametrize("save", [save_model, save_state])
def test_interrupted_write_leaves_the_old_file(files, save, monkeypatch):
    trainer = Trainer([small(seed=2)])
    path = files / ("model.pt" if save is save_model else "state.pt")
    before = path.read_bytes()

    def stop_half_way(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        save(path, trainer)
    assert path.read_bytes() == before
    assert sorted(file.name for file in files.iterdir()) == ["model.pt", "state.pt"]
