"""Whole trainings: what they leave in their folder."""

from pathlib import Path

import pytest
import torch

from core.checkpoint import load_model, load_state, save_state
from core.errors import ConfigError
from core.lane import EpochRecord
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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_that_has_not_saved_leaves_those_of_another_alone_and_does_not_name_them(tmp_path):
    train(small(epochs=3, seed=1), tmp_path)
    before = contents(tmp_path)

    def interrupt(trainer: Trainer, record: object) -> None:
        raise KeyboardInterrupt

    summary = train(small(epochs=30, seed=2), tmp_path, on_epoch=interrupt)
    assert (summary.stopped_by, summary.state, summary.last_checkpoint) == ("interrupted", None, None)
    assert contents(tmp_path) == before


def test_what_another_training_left_goes_before_anything_is_written(tmp_path):
    """Broken off between the two: no state is there to go on from, rather than one that does not fit."""
    train(small(epochs=3, seed=1), tmp_path)

    def interrupt() -> None:
        assert contents(tmp_path) == {}
        raise KeyboardInterrupt

    summary = train(small(epochs=1, seed=2), tmp_path, before_saving=interrupt)
    assert (summary.state, summary.last_checkpoint) == (None, None)


def test_a_training_that_is_to_stop_saves_its_last_epoch(tmp_path):
    epochs = []
    summary = train(
        small(epochs=30), tmp_path, on_epoch=lambda _, record: epochs.append(record), stopping=lambda: len(epochs) == 13
    )
    assert (summary.epochs, summary.stopped_by) == (13, "interrupted")
    assert summary.last_checkpoint == tmp_path / "model/model_epoch_0012.pt"
    assert load_state(summary.state).lanes[0].epoch == 13


def best_epoch(folder: Path, verdicts: list[tuple[float, int]], scores: dict[int, float]) -> int:
    """The best of trainings that end every ten epochs with these pass fractions and samples; some are scored."""

    def on_epoch(trainer: Trainer, record: EpochRecord) -> dict[str, float]:
        log = trainer.lanes[0].logs[-1]
        log["pass_fraction"], log["samples"] = verdicts[(record.epoch - 1) // 10]
        log["timid_share"] = 0.0
        return {"work_gain": scores[record.epoch]} if record.epoch in scores else {}

    config = small(epochs=10 * len(verdicts), keep_checkpoints=1, replay_steps=1, steps_per_epoch=1, num_orbits=1)
    best = train(config, folder, on_epoch=on_epoch).best_checkpoint
    assert best is not None
    assert best.exists()
    return int(best.stem[-4:])


@pytest.mark.parametrize(
    ("verdicts", "scores", "best"),
    [
        ([(1.0, 100), (0.8, 150), (0.9, 190)], {}, 9),
        ([(1.0, 100), (0.8, 200), (0.7, 300)], {}, 19),  # twice the samples: another verdict
        ([(1.0, 100), (0.995, 150), (0.9, 190)], {}, 19),  # as good as equal
        ([(0.5, 100), (1.0, 150), (1.0, 160)], {13: 1.1, 17: 1.0}, 12),
        ([(0.5, 100), (1.0, 150), (1.0, 160)], {13: 1.1, 25: 1.2}, 24),
    ],
)
def test_the_best_is_by_scores_or_else_by_verdicts_on_comparable_buffers(verdicts, scores, best, tmp_path):
    assert best_epoch(tmp_path, verdicts, scores) == best


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
