"""Whole trainings: what they leave in their folder."""

from pathlib import Path

import pytest
import torch

from core.checkpoint import load_model, save_state
from core.errors import ConfigError
from core.trainer import Trainer
from core.training import train
from tests.trainings import small


def models(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "model").iterdir())


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path).content["model_state_dict"]


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path):
    summary = train(small(epochs=45, keep_checkpoints=2), tmp_path)
    assert summary.last_checkpoint == tmp_path / "model/model_epoch_0044.pt"
    assert summary.best_checkpoint is not None
    assert set(models(tmp_path)) == {"model_epoch_0039.pt", "model_epoch_0044.pt", summary.best_checkpoint.name}
    assert (summary.epochs, summary.stopped_by, summary.failure) == (45, "epochs", None)


def test_a_fresh_training_takes_nothing_over_from_another_in_its_folder(tmp_path):
    train(small(epochs=25, seed=1), tmp_path)
    summary = train(small(epochs=5, seed=2), tmp_path)
    assert models(tmp_path) == ["model_epoch_0004.pt"]
    assert summary.best_checkpoint == summary.last_checkpoint == tmp_path / "model/model_epoch_0004.pt"


@pytest.mark.parametrize(
    "keys", [{"optimizer": "sgd"}, {"optimizer": "lbfgs"}, {"fourier_scale": 0.2, "fourier_dim": 9}]
)
def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(tmp_path, keys):
    keys = {"history_len": 2, "history_warmup": "analytic", **keys}
    whole = train(small(epochs=14, **keys), tmp_path / "whole")
    first = train(small(epochs=10, **keys), tmp_path / "parts")
    rest = train(small(epochs=14, **keys), tmp_path / "parts", resume=first.state)
    ours, theirs = weights(rest.last_checkpoint), weights(whole.last_checkpoint)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rest.convergence_rate == whole.convergence_rate


def test_a_resumed_training_may_not_contradict_what_it_was(tmp_path):
    trainer = Trainer([small(lr=1e-3)])
    save_state(tmp_path / "state.pt", trainer)
    with pytest.raises(ConfigError, match=r"`lr` is 0.01, but the training in .* has 0.001"):
        train(small(lr=1e-2), None, resume=tmp_path / "state.pt")


def test_a_wall_clock_limit_ends_a_training_with_a_checkpoint(tmp_path):
    summary = train(small(epochs=10**6, duration=0.5), tmp_path)
    assert summary.stopped_by == "duration"
    assert summary.last_checkpoint == tmp_path / f"model/model_epoch_{summary.epochs - 1:04d}.pt"


def test_a_stalled_phase_two_stops_and_has_not_converged():
    config = small(replay_steps=2000, rel_loss_bound=0.99, timid_fraction=0.0, E_upper=0.06, steps_per_epoch=9)
    record = Trainer([config]).train_epoch()
    assert record.stalled
    assert record.replay_updates == 100
    assert not record.converged
