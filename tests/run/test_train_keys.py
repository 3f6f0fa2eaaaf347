"""Every key that a training acts on, and what changing it changes. A key without a row fails the last test."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from core import held_out, scores, work_precision
from run import encoders, train
from run.keys import ACTS_ON, FIELDS, HALF_FLAGS
from tests.run.runs import TINY, Row, Seen, all_of, becomes, differs, grows, run, shrinks


def other_weights(one: Seen, two: Seen) -> bool:
    return one.weights.shape == two.weights.shape and not torch.equal(one.weights, two.weights)


def other_start(one: Seen, two: Seen) -> bool:
    """The systems are others; their number, bodies and dimensions are not."""
    places, other = (seen.start["position"] for seen in (one, two))
    return places.shape == other.shape and not torch.equal(places, other)


def axis(seen: Seen) -> torch.Tensor:
    """Semi-major axes, by the vis-viva equation."""
    distance, speed = ((seen.start[name][:, 1] - seen.start[name][:, 0]).norm(dim=-1) for name in MOTION)
    return 1 / (2 / distance - speed**2 / 2)


def eccentricity(seen: Seen) -> torch.Tensor:
    """All orbits start at pericentre."""
    return 1 - (seen.start["position"][:, 1] - seen.start["position"][:, 0]).norm(dim=-1) / axis(seen)


def models(seen: Seen) -> int:
    return sum("model_epoch" in name for name in seen.files)


def parameters(seen: Seen) -> int:
    return seen.weights.numel()


def frequencies(seen: Seen) -> int:
    return seen.model["extra"]["frequencies"].numel()


MOTION = ("position", "velocity")
MOVIE = "data/movie/nbody_movie_run_nbody_train.gif"
MANY = "--num-particles 3 --softening 0.05"
FIELD = "--external-field-mass 1 --external-field-position 3 1"
TORQUE = f"{FIELD} --angular-momentum-weight 1"
#: A verdict that no network passes.
NEVER = "--timid-fraction 0 --E_lower 0.9 --E_upper 0.95 --rel-loss-bound 0"
#: Steps that all pass, of nearly circular orbits.
CIRCLES = "--energy-threshold 1 --dt-bound 0.2 --steps-per-epoch 40 --e-min 0 --e-max 0.05"

ROWS: dict[str, Row] = {
    # training
    "optimizer": Row(
        "--optimizer sgd",
        becomes(lambda run: "momentum_buffer" in run.model["optimizer_state_dict"], before=False, after=True),
    ),
    "epochs": Row("-n 3", becomes(lambda run: (run["epochs"], len(run.model["logs"])), (2, 2), (3, 3))),
    "lr": Row("--lr 1e-3", other_weights),
    "weight_decay": Row("--weight-decay 10", shrinks(lambda run: run.weights.norm(), 0.99)),
    "momentum": Row("--momentum 0.1", other_weights, "--optimizer sgd"),
    "step_rule": Row("--step-rule reversible", differs("dt_mean"), "--energy-threshold 1 --steps-per-epoch 6"),
    "n_steps": Row("--n-steps 3", shrinks("dt_mean", 0.8)),
    "dt_bound": Row(
        "--dt-bound 0.03", becomes(lambda run: run.first("dt_mean") >= 0.03, False, True), "--energy-threshold 1"
    ),
    "rel_loss_bound": Row(
        "--rel-loss-bound 1e9",
        becomes(lambda run: (run["stalled"], run["replay_updates"]), (False, 110), (True, 100)),
        f"{NEVER} --replay-steps 110",
    ),
    "energy_threshold": Row("--energy-threshold 2e-6", lambda a, b: a["rel_dE_train"] > 2e-6 > b["rel_dE_train"]),
    "steps_per_epoch": Row("--steps-per-epoch 6", becomes("accepted", 16, 24)),
    "max_retrain_steps": Row(
        "--max-retrain-steps 0",
        becomes(lambda run: run.first("stuck_orbits") > 0, True, False),
        "--max-retrain-steps 2 --energy-threshold 1e-5",
    ),
    "replay_steps": Row("--replay-steps 20", becomes("replay_updates", 30, 20), NEVER),
    "replay_batch_size": Row("--replay-batch-size 8", other_weights),
    "min_replay_size": Row(
        "--min-replay-size 100", lambda a, b: a["replay_updates"] > 0 == b["replay_updates"] and not b["converged"]
    ),
    "replay_capacity": Row("--replay-capacity 5", becomes("samples", 32, 5)),
    "timid_fraction": Row(
        "--timid-fraction 1", lambda a, b: a["convergence_rate"] == 0 < b["convergence_rate"], "--timid-fraction 0 -n 4"
    ),
    "keep_checkpoints": Row("--keep-checkpoints 1", shrinks(models), "-n 30 --steps-per-epoch 1"),
    "E_lower": Row("--E_lower 0.4", other_weights),
    "E_upper": Row("--E_upper 0.1", other_weights),
    "L_lower": Row("--L_lower 1e-7", other_weights, TORQUE),
    "L_upper": Row("--L_upper 1e-9", other_weights, f"{TORQUE} --L_lower 1e-11"),
    "bounds_relative": Row(
        "--no-bounds-relative", becomes(lambda run: (run["E_lower"], run["E_upper"]), (0.05, 0.5), (1e-6, 1e-4))
    ),
    "angular_momentum_weight": Row("--angular-momentum-weight 2", other_weights, FIELD),
    # network
    "hidden_dims": Row("--hidden-dims 8 4", shrinks(parameters)),
    "activation": Row("--activation silu", other_weights),
    "dropout": Row("--dropout 0.3", other_weights),
    "dt_scale": Row("--dt-scale unit", other_weights),
    "fourier_scale": Row("--fourier-scale 0.5", all_of(grows(frequencies), grows(parameters))),
    "fourier_dim": Row("--fourier-dim 32", grows(frequencies, 1.99), "--fourier-scale 0.5 --fourier-dim 16"),
    "normalize_inputs": Row(
        "--normalize-inputs", becomes(lambda run: run.model["extra"]["scales"]["L"] == 1, True, False)
    ),
    "history_len": Row(
        "--history-len 3", lambda a, b: parameters(b) == parameters(a) + 16 * 33, "--feature-type basic"
    ),
    "feature_type": Row("--feature-type rich", lambda a, b: parameters(b) == parameters(a) + 16 * 12),
    "history_warmup": Row(
        "--history-warmup analytic --eps 1e-3", shrinks(lambda run: run.first("dt_mean"), 0.8), "--history-len 8"
    ),
    # systems
    "eps": Row("--eps 0.01", shrinks(lambda run: run.first("rejected"))),
    "num_particles": Row("--num-particles 3", becomes(lambda run: run.start["mass"].shape, (4, 2), (4, 3))),
    "dim": Row("--dim 3", becomes(lambda run: run.start["position"].shape, (4, 2, 2), (4, 2, 3))),
    "mass": Row("--mass 1 0.25", becomes(lambda run: run.start["mass"][0].tolist(), [1, 1], [1, 0.25])),
    "pos_scale": Row("--pos-scale 0.2", lambda a, b: b.start["position"].allclose(2 * a.start["position"]), MANY),
    "vel_scale": Row("--vel-scale 0.5", lambda a, b: b.start["velocity"].allclose(0.5 * a.start["velocity"]), MANY),
    "softening": Row("--softening 0.2", grows("E0", 1)),
    "external_field_mass": Row("--external-field-mass 2", differs("E0"), FIELD),
    "external_field_position": Row("--external-field-position -2 1", differs("E0"), FIELD),
    "num_orbits": Row("--num-orbits 3", becomes(lambda run: len(run.start["mass"]), 4, 3)),
    "stop_at_period": Row("--stop-at-period", lambda a, b: a["accepted"] == 160 > b["accepted"], CIRCLES),
    "e_min": Row("--e-min 0.9", becomes(lambda run: bool((eccentricity(run) >= 0.9).all()), False, True)),
    "e_max": Row("--e-max 0.61", becomes(lambda run: bool((eccentricity(run) <= 0.61).all()), False, True)),
    "a_min": Row("--a-min 1.1", becomes(lambda run: bool((axis(run) >= 1.1).all()), False, True)),
    "a_max": Row("--a-max 0.9", becomes(lambda run: bool((axis(run) <= 0.9).all()), False, True)),
    "eval_periods": Row(
        "--eval-periods 1 2", becomes(lambda run: "work_gain_2" in run["scores"], False, True), "--eval-periods 1"
    ),
    "evaluate_every": Row(
        "--evaluate-every 1", becomes(lambda run: run.lines("scores after"), 1, 2), "--eval-periods 1"
    ),
    # device
    "device": Row("--device auto", becomes("device", "cpu", "auto")),
    "dtype": Row("--dtype float32", becomes(lambda run: run.weights.dtype, torch.float64, torch.float32)),
    "tf32": Row("--tf32", lambda a, b: torch.get_float32_matmul_precision() == "high", "--dtype float32"),
    "compile": Row("--compile", becomes(lambda run: "compiled" in run.err, False, True)),
    "detect_anomaly": Row(
        "--detect-anomaly",
        becomes(lambda run: (run.status, run["failure"].startswith("detect_anomaly")), (1, False), (1, True)),
        "--lr 1e250",
    ),
    "seed": Row("--seed 2", other_start),
    "duration": Row(
        "--duration 1e-9", becomes(lambda run: (run["epochs"], run["stopped_by"]), (2, "epochs"), (1, "duration"))
    ),
    # logging
    "save_name": Row("-s other", becomes("folder", "data/run_nbody", "data/other")),
    "debug": Row(
        "--debug",
        becomes(lambda run: (run.lines("debug: epoch="), run.lines("replay update 10 ")), (0, 0), (2, 2)),
    ),
    "debug_every": Row("--debug-every 2", becomes(lambda run: run.lines("debug: epoch="), 2, 1), "--debug"),
    "debug_replay_every": Row(
        "--debug-replay-every 5", becomes(lambda run: run.lines("replay update"), 6, 12), f"--debug {NEVER}"
    ),
    # pictures
    "movie": Row("--movie", becomes(lambda run: MOVIE in run.files, False, True)),
    "movie_dir": Row(
        "--movie-dir films",
        becomes(lambda run: run["files"]["movie"], MOVIE, MOVIE.replace("data/movie", "films")),
        "--movie",
    ),
    "movie_max_frames": Row("--movie-max-frames 3", becomes(lambda run: run.gif(MOVIE)["frames"], 9, 3), "--movie"),
    "movie_fps": Row("--movie-fps 10", becomes(lambda run: run.gif(MOVIE)["pause"], 30, 100), "--movie"),
    "movie_dpi": Row("--movie-dpi 50", shrinks(lambda run: run.gif(MOVIE)["size"][0], 0.5), "--movie"),
    "plot": Row(
        "--plot still.png", becomes(lambda run: {"still.png", "still.config.toml"} <= set(run.files), False, True)
    ),
    # the runner's own
    "config": Row("--config {folder}/three.toml", becomes("epochs", 2, 3)),
    "ic_path": Row(
        "--ic-path {folder}/systems.npy",
        becomes(lambda run: run.start["position"][:, 1, 0].tolist() == [0.5] * 4, False, True),
    ),
    "wandb": Row("--wandb", becomes(lambda run: "wandb AITimeStepper runner_train epochs 1 2" in run.err, False, True)),
    "wandb_project": Row(
        "--wandb-project mine", becomes(lambda run: "wandb mine runner_train" in run.err, False, True), "--wandb"
    ),
    "wandb_name": Row(
        "--wandb-name this", becomes(lambda run: "wandb AITimeStepper this" in run.err, False, True), "--wandb -s mine"
    ),
    "resume": Row(
        "--resume {state} -n 3", lambda a, b: a.model["logs"] == b.model["logs"][:2] and len(b.model["logs"]) == 3
    ),
}


@pytest.fixture(autouse=True)
def quick_scores(monkeypatch, tmp_path_factory):
    """Scores on two orbits with a coarse curve, kept in a folder of this session."""
    coarse = replace(work_precision.BASELINES["dynamical"], constants=np.geomspace(0.3, 0.03, 4))
    monkeypatch.setitem(work_precision.BASELINES, "dynamical", coarse)
    monkeypatch.setattr(scores, "SCORED_AGAINST", ("dynamical",))
    monkeypatch.setattr(held_out, "_DRAWS", {"validation": (2, 2**40 + 1)})
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
