"""Every key that a training acts on, and what changing it changes. A key without a row fails the last test."""

import sys
import types
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch

import core.evaluation
from run import encoders, train
from run.keys import ACTS_ON, FIELDS, HALF_FLAGS
from tests.run.runs import TINY, Seen, run

Check = Callable[[Seen, Seen], bool]


class Row(NamedTuple):
    """Two runs, and what the flags in ``changed`` must change; ``base`` comes in addition to TINY and a seed."""

    changed: str
    check: Check
    base: str = ""


def other_weights(one: Seen, two: Seen) -> bool:
    return one.weights.shape == two.weights.shape and not torch.equal(one.weights, two.weights)


def other_start(one: Seen, two: Seen) -> bool:
    """The systems are others; everything else about them (their number, bodies, dimensions) is not."""
    places, other = (seen.start["position"] for seen in (one, two))
    return places.shape == other.shape and not torch.equal(places, other)


def distance(seen: Seen) -> torch.Tensor:
    """Distance of two bodies at pericentre, a (1 - e), and their relative speed."""
    return (seen.start["position"][:, 1] - seen.start["position"][:, 0]).norm(dim=-1)


def axis(seen: Seen) -> torch.Tensor:
    speed = (seen.start["velocity"][:, 1] - seen.start["velocity"][:, 0]).norm(dim=-1)
    return 1 / (2 / distance(seen) - speed**2 / 2)


def eccentricity(seen: Seen) -> torch.Tensor:
    return 1 - distance(seen) / axis(seen)


def lines(seen: Seen, part: str) -> int:
    return sum(part in line for line in seen.err.splitlines())


def frames(seen: Seen, name: str) -> tuple[int, tuple[int, int], int]:
    """Frames, size in dots and milliseconds a frame of a GIF."""
    from PIL import Image

    with Image.open(seen.folder / name) as image:
        return image.n_frames, image.size, image.info["duration"]


MOVIE = "data/movie/nbody_movie_run_nbody_train.gif"
MANY = "--num-particles 3 --softening 0.05"
FIELD = "--external-field-mass 1 --external-field-position 3 1"
#: A verdict that no network passes.
NEVER = "--timid-fraction 0 --E_lower 0.9 --E_upper 0.95 --rel-loss-bound 0"

ROWS: dict[str, Row] = {
    # training
    "optimizer": Row("--optimizer sgd", lambda a, b: a.model["optimizer_state_dict"].keys() >= {"exp_avg"} and b.model["optimizer_state_dict"].keys() == {"momentum_buffer"}),
    "epochs": Row("-n 3", lambda a, b: (a.report["epochs"], b.report["epochs"]) == (2, 3) and len(b.model["logs"]) == 3),
    "lr": Row("--lr 1e-3", other_weights),
    "weight_decay": Row("--weight-decay 10", lambda a, b: b.weights.norm() < 0.99 * a.weights.norm()),
    "momentum": Row("--momentum 0.1", other_weights, "--optimizer sgd"),
    "n_steps": Row("--n-steps 3", lambda a, b: b.last["dt_mean"] < 0.8 * a.last["dt_mean"]),
    "dt_bound": Row("--dt-bound 0.03", lambda a, b: a.last["dt_mean"] < 0.03 <= b.last["dt_mean"], "--energy-threshold 1"),
    "rel_loss_bound": Row("--rel-loss-bound 1e9", lambda a, b: not a.last["stalled"] and b.last["stalled"] and b.last["replay_updates"] == 100, f"{NEVER} --replay-steps 110"),
    "energy_threshold": Row("--energy-threshold 2e-6", lambda a, b: a.last["rel_dE_train"] > 2e-6 > b.last["rel_dE_train"]),
    "steps_per_epoch": Row("--steps-per-epoch 6", lambda a, b: (a.last["accepted"], b.last["accepted"]) == (16, 24)),
    "max_retrain_steps": Row("--max-retrain-steps 0", lambda a, b: a.model["logs"][0]["stuck_orbits"] > 0 == b.model["logs"][0]["stuck_orbits"], "--max-retrain-steps 2 --energy-threshold 1e-5"),
    "replay_steps": Row("--replay-steps 20", lambda a, b: (a.last["replay_updates"], b.last["replay_updates"]) == (30, 20), NEVER),
    "replay_batch_size": Row("--replay-batch-size 8", other_weights),
    "min_replay_size": Row("--min-replay-size 100", lambda a, b: a.last["replay_updates"] > 0 == b.last["replay_updates"] and not b.last["converged"]),
    "replay_capacity": Row("--replay-capacity 5", lambda a, b: (a.last["samples"], b.last["samples"]) == (32, 5)),
    "timid_fraction": Row("--timid-fraction 1", lambda a, b: a.last["pass_fraction"] == 1 == b.last["pass_fraction"] and not a.last["converged"] and b.last["converged"], "--timid-fraction 0 --E_lower 0.9 --E_upper 0.95"),
    "keep_checkpoints": Row("--keep-checkpoints 1", lambda a, b: len([f for f in a.files if "epoch" in f]) == 3 and len([f for f in b.files if "epoch" in f]) in (1, 2), "-n 30 --steps-per-epoch 1"),
    "E_lower": Row("--E_lower 0.4", other_weights),
    "E_upper": Row("--E_upper 0.1", other_weights),
    "L_lower": Row("--L_lower 1e-7", other_weights, f"{FIELD} --angular-momentum-weight 1"),
    "L_upper": Row("--L_upper 1e-9", other_weights, f"{FIELD} --angular-momentum-weight 1 --L_lower 1e-11"),
    "bounds_relative": Row("--no-bounds-relative", lambda a, b: (b.config["E_lower"], b.config["E_upper"]) == (1e-6, 1e-4) and a.config["E_upper"] == 0.5),
    "angular_momentum_weight": Row("--angular-momentum-weight 2", other_weights, FIELD),
    # network
    "hidden_dims": Row("--hidden-dims 8 4", lambda a, b: b.model["model_state_dict"]["2.weight"].shape == (4, 8)),
    "activation": Row("--activation silu", other_weights),
    "dropout": Row("--dropout 0.3", other_weights),
    "dt_scale": Row("--dt-scale unit", other_weights),
    "fourier_scale": Row("--fourier-scale 0.5", lambda a, b: b.model["extra"]["frequencies"].numel() > a.model["extra"]["frequencies"].numel() == 0),
    "fourier_dim": Row("--fourier-dim 32", lambda a, b: b.model["extra"]["frequencies"].numel() == 2 * a.model["extra"]["frequencies"].numel(), "--fourier-scale 0.5 --fourier-dim 16"),
    "normalize_inputs": Row("--normalize-inputs", lambda a, b: a.model["extra"]["scales"]["L"] == 1 != b.model["extra"]["scales"]["L"]),
    "history_len": Row("--history-len 3 --feature-type basic", lambda a, b: b.weights.numel() == a.weights.numel() + 16 * 33, "--feature-type basic"),
    "feature_type": Row("--feature-type rich", lambda a, b: b.weights.numel() == a.weights.numel() + 16 * 12),
    "history_warmup": Row("--history-warmup analytic --eps 1e-3", lambda a, b: b.model["logs"][0]["dt_mean"] < 0.8 * a.model["logs"][0]["dt_mean"], "--history-len 8"),
    # systems
    "eps": Row("--eps 0.01", lambda a, b: b.model["logs"][0]["rejected"] < a.model["logs"][0]["rejected"]),
    "num_particles": Row("--num-particles 3", lambda a, b: (a.start["mass"].shape, b.start["mass"].shape) == ((4, 2), (4, 3))),
    "dim": Row("--dim 3", lambda a, b: b.start["position"].shape == (4, 2, 3)),
    "mass": Row("--mass 1 0.25", lambda a, b: b.start["mass"][0].tolist() == [1, 0.25]),
    "pos_scale": Row("--pos-scale 0.2", lambda a, b: torch.allclose(b.start["position"], 2 * a.start["position"]), MANY),
    "vel_scale": Row("--vel-scale 0.5", lambda a, b: torch.allclose(b.start["velocity"], 0.5 * a.start["velocity"]), MANY),
    "softening": Row("--softening 0.2", lambda a, b: b.last["E0"] > a.last["E0"]),
    "external_field_mass": Row("--external-field-mass 2", lambda a, b: b.last["E0"] != a.last["E0"], FIELD),
    "external_field_position": Row("--external-field-position -2 1", lambda a, b: b.last["E0"] != a.last["E0"], FIELD),
    "num_orbits": Row("--num-orbits 3", lambda a, b: (len(a.start["mass"]), len(b.start["mass"])) == (4, 3)),
    "stop_at_period": Row("--stop-at-period", lambda a, b: a.last["accepted"] == 160 > b.last["accepted"], "--energy-threshold 1 --dt-bound 0.2 --steps-per-epoch 40"),
    "e_min": Row("--e-min 0.9", lambda a, b: bool((eccentricity(a) < 0.9).any() and (eccentricity(b) >= 0.9).all())),
    "e_max": Row("--e-max 0.61", lambda a, b: bool((eccentricity(a) > 0.61).any() and (eccentricity(b) <= 0.61).all())),
    "a_min": Row("--a-min 1.1", lambda a, b: bool((axis(a) < 1.1).any() and (axis(b) >= 1.1).all())),
    "a_max": Row("--a-max 0.9", lambda a, b: bool((axis(a) > 0.9).any() and (axis(b) <= 0.9).all())),
    "eval_periods": Row("--eval-periods 1 2", lambda a, b: "work_gain_2" not in a.report["scores"] and "work_gain_2" in b.report["scores"], "--eval-periods 1"),
    "evaluate_every": Row("--evaluate-every 1", lambda a, b: (lines(a, "scores after"), lines(b, "scores after")) == (1, 2) and a.report["scores"] == b.report["scores"], "--eval-periods 1"),
    # device
    "device": Row("--device auto", lambda a, b: (a.config["device"], b.config["device"]) == ("cpu", "auto")),
    "dtype": Row("--dtype float32", lambda a, b: (a.weights.dtype, b.weights.dtype) == (torch.float64, torch.float32)),
    "tf32": Row("--tf32", lambda a, b: torch.get_float32_matmul_precision() == "high", "--dtype float32"),
    "compile": Row("--compile", lambda a, b: "compiled" in b.err and "compiled" not in a.err),
    "detect_anomaly": Row("--detect-anomaly", lambda a, b: a.status == b.status == 1 and "detect_anomaly" in b.report["failure"] and "100 updates" in a.report["failure"], "--lr 1e250"),
    "seed": Row("--seed 2", other_start),
    "duration": Row("--duration 1e-9", lambda a, b: (b.report["epochs"], b.report["stopped_by"], a.report["stopped_by"]) == (1, "duration", "epochs")),
    # logging
    "save_name": Row("-s other", lambda a, b: b.report["last_checkpoint"] == "data/other/model/model_epoch_0001.pt" and "data/run_nbody/model/model_epoch_0001.pt" in a.files and "data/other/config.toml" in b.files),
    "debug": Row("--debug", lambda a, b: lines(a, "debug") == 0 and lines(b, "debug: epoch=") == 2 and lines(b, "replay update 10 loss") == 2),
    "debug_every": Row("--debug-every 2", lambda a, b: (lines(a, "debug: epoch="), lines(b, "debug: epoch=")) == (2, 1), "--debug"),
    "debug_replay_every": Row("--debug-replay-every 5", lambda a, b: 2 * lines(a, "replay update") == lines(b, "replay update") > 0, f"--debug {NEVER}"),
    # pictures
    "movie": Row("--movie", lambda a, b: MOVIE not in a.files and MOVIE in b.files and b.report["files"]["movie"] == MOVIE),
    "movie_dir": Row("--movie-dir films", lambda a, b: "films/nbody_movie_run_nbody_train.gif" in b.files, "--movie"),
    "movie_max_frames": Row("--movie-max-frames 3", lambda a, b: frames(a, MOVIE)[0] > frames(b, MOVIE)[0] == 3, "--movie"),
    "movie_fps": Row("--movie-fps 10", lambda a, b: (frames(a, MOVIE)[2], frames(b, MOVIE)[2]) == (30, 100), "--movie"),
    "movie_dpi": Row("--movie-dpi 50", lambda a, b: frames(b, MOVIE)[1] < frames(a, MOVIE)[1], "--movie"),
    "plot": Row("--plot still.png", lambda a, b: "still.png" in b.files and "still.config.toml" in b.files),
    # the runner's own
    "config": Row("--config {folder}/three.toml", lambda a, b: b.report["epochs"] == 3),
    "ic_path": Row("--ic-path {folder}/systems.npy", lambda a, b: torch.allclose(b.start["position"], torch.tensor([[[-0.5, 0], [0.5, 0.0]]] * 4, dtype=torch.float64))),
    "wandb": Row("--wandb", lambda a, b: "wandb" not in a.err and "wandb AITimeStepper runner_train epochs 1 2" in b.err),
    "wandb_project": Row("--wandb-project mine", lambda a, b: "wandb mine runner_train" in b.err, "--wandb"),
    "wandb_name": Row("--wandb-name this", lambda a, b: "wandb AITimeStepper mine" in a.err and "wandb AITimeStepper this" in b.err, "--wandb -s mine"),
    "resume": Row("--resume {state} -n 3", lambda a, b: b.model["logs"][:2] == a.model["logs"] and len(b.model["logs"]) == 3),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick_scores(monkeypatch, tmp_path_factory):
    """Scores on two orbits with a coarse curve, kept in a folder of this session."""
    monkeypatch.setattr(core.evaluation, "CURVE_EPS", np.geomspace(0.3, 0.03, 4))
    monkeypatch.setattr(core.evaluation, "HELD_OUT", {"validation": (2, 2**40 + 1)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "curves"))


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """No ffmpeg (a GIF tells its frames), a compiler that only says that it was called, and W&B that writes a line."""
    monkeypatch.setattr(train, "find_ffmpeg", lambda: None)
    monkeypatch.setattr(encoders, "find_ffmpeg", lambda: None)

    def compiled(function, **_):
        print("compiled", file=sys.stderr)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    logged: list[int] = []

    def init(project, name, config, **_):
        assert config["epochs"] == 2
        logged.clear()
        finish = lambda: print("wandb", project, name, "epochs", *logged, file=sys.stderr)  # noqa: E731
        return types.SimpleNamespace(log=lambda metrics, step: logged.append(step), finish=finish, summary={})

    settings = types.SimpleNamespace(settings=types.SimpleNamespace(mode="offline"))
    wandb = types.SimpleNamespace(init=init, setup=lambda: settings, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Base runs by their flags: each is made once."""
    made: dict[str, Seen] = {}

    def base(flags: str) -> Seen:
        if flags not in made:
            folder = tmp_path_factory.mktemp("base")
            made[flags] = run(folder, "train", *TINY, "--seed", "1", *flags.split())
        return made[flags]

    return base


@pytest.mark.parametrize("key", ROWS)
def test_changing_a_key_changes_what_it_says(key, bases, tmp_path):
    row = ROWS[key]
    (tmp_path / "three.toml").write_text("epochs = 1\n[train]\nepochs = 3\n")
    np.save(tmp_path / "systems.npy", [[[1, -0.5, 0, 0, -0.5], [1, 0.5, 0, 0, 0.5]]] * 4)
    one = bases(row.base)
    given = row.changed.format(folder=tmp_path, state=one.folder / "data/run_nbody/state.pt").split()
    # The file is to say how many epochs, not TINY.
    plain = TINY[:-2] if key == "config" else TINY
    two = run(tmp_path / "changed", "train", *plain, "--seed", "1", *row.base.split(), *given)
    assert two.status in (0, one.status), two.err
    assert row.check(one, two), (one.report, one.model.get("info"), two.report, two.model.get("info"), two.err)


def test_the_same_flags_train_the_same(bases, tmp_path):
    """Otherwise the rows above would show nothing."""
    again = run(tmp_path, "train", *TINY, "--seed", "1")
    assert torch.equal(again.weights, bases("").weights)


def test_every_key_has_a_row():
    assert set(ROWS) == set(ACTS_ON["train"])
    assert set(FIELDS) == ACTS_ON["train"] | ACTS_ON["simulate"] | set(HALF_FLAGS)
