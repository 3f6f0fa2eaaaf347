"""`run/runner.py train` and `both`: interrupted and resumed trainings, limits, and what they show and log."""

import json
import os
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from core.checkpoint import load_model, load_state
from run import training_track
from tests.run.runs import TINY, command, on_a_terminal, refusal, run


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A training of 40 epochs, to compare with."""
    return run(tmp_path_factory.mktemp("unbroken"), "train", *TINY, "--seed", "3", "--history-len", "2", "-n", "40")


@pytest.mark.parametrize("try_number", range(3))
def test_killed_at_any_moment_and_resumed_it_ends_where_an_unbroken_one_does(try_number, unbroken, tmp_path):
    """Killed after the first checkpoint: the newest ones can be read, and going on gives the same weights."""
    flags = [*TINY, "--seed", "3", "--history-len", "2", "-n", "40"]
    state = tmp_path / "data/run_nbody/state.pt"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command("train", *flags), cwd=tmp_path, **quiet) as training:
        while not state.exists() and training.poll() is None:
            time.sleep(0.005)
        time.sleep(random.Random(try_number).uniform(0, 0.4))
        training.kill()
    for path in sorted((tmp_path / "data/run_nbody/model").glob("model_epoch_*.pt")):
        load_model(path)
    if load_state(state).lanes[0].epoch < 40:
        seen = run(tmp_path, "train", "--resume", state)
        assert seen.status == 0, seen.err
        assert seen.weights.equal(unbroken.weights)
        assert [log["loss"] for log in seen.model["logs"]] == [log["loss"] for log in unbroken.model["logs"]]


#: Epochs of a second: the first checkpoint is far.
SLOW = [*TINY, "-n", "100", "--replay-steps", "2000", "--timid-fraction", "0", "--rel-loss-bound", "0"]


@pytest.mark.parametrize("older", [False, True], ids=["of its own", "where another training was"])
def test_killed_before_its_first_checkpoint_it_leaves_the_folder_as_it_was(older, tmp_path):
    if older:
        run(tmp_path, "train", *TINY, "--hidden-dims", "8")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with subprocess.Popen(command("train", *SLOW), cwd=tmp_path, stdout=-1, stderr=-1, text=True) as training:
        assert training.stderr.readline().startswith("training 100 epochs")
        time.sleep(1)
        training.kill()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    if not older:
        line = refusal(tmp_path, "train", "--resume", "data/run_nbody/state.pt")
        assert line == "data/run_nbody/state.pt: there is no such file; give the path of a state.pt."


def test_more_epochs_by_resuming(unbroken, tmp_path):
    flags = [*TINY, "--seed", "3", "--history-len", "2"]
    run(tmp_path, "train", *flags, "-n", "7")
    seen = run(tmp_path, "train", "--resume", "data/run_nbody/state.pt", "-n", "40", "--debug")
    assert seen.weights.equal(unbroken.weights)
    assert "going on after epoch 7" in seen.err


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ("-n 9 --lr 1e-2", "--lr is 0.01, but the training in data/run_nbody/state.pt has 0.003"),
        ("-n 9 --seed 4", "--seed is 4"),
        ("-n 9 --ic-path two.npy", "--ic-path holds other systems"),
        ("", "has run 2 epochs already, of 2; give a larger --epochs"),
        ("-n 1", "has run 2 epochs already"),
        ("--resume data/run_nbody/model/model_epoch_0001.pt", "not a state.pt"),
        ("--resume nowhere.pt", "there is no such file"),
        ("--resume data", "data: it is a folder; give the path of a state.pt, such as data/run_nbody/state.pt."),
    ],
)
def test_what_contradicts_a_training_is_refused(flags, part, tmp_path):
    np.save(tmp_path / "two.npy", [[[1, -0.5, 0, 0, -0.5], [1, 0.5, 0, 0, 0.5]]] * 4)
    run(tmp_path, "train", *TINY)
    resume = [] if "--resume" in flags else ["--resume", "data/run_nbody/state.pt"]
    assert part in refusal(tmp_path, "train", *resume, *flags.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is the device that must be missing")
def test_a_training_from_a_machine_with_a_gpu_goes_on_without(unbroken, tmp_path):
    flags = [*TINY, "--seed", "3", "--history-len", "2"]
    run(tmp_path, "train", *flags, "-n", "7")
    state = tmp_path / "data/run_nbody/state.pt"
    content = torch.load(state, weights_only=True)
    content["config"]["device"] = "cuda"
    torch.save(content, state)
    resume = ["train", "--resume", "data/run_nbody/state.pt", "-n", "12"]
    line = refusal(tmp_path, *resume)
    assert line == (
        "data/run_nbody/state.pt: The value of `device` is cuda, but torch sees no CUDA device here; use auto or cpu."
    )
    assert "The value of `device` is 'gpu'" in refusal(tmp_path, *resume, "--device", "gpu")
    seen = run(tmp_path, *resume, "--device", "auto")
    assert (seen.status, seen.config["device"]) == (0, "auto")
    seen = run(tmp_path, "train", "--resume", "data/run_nbody/state.pt", "-n", "40", "--device", "cpu")
    assert (seen.status, seen.config["device"]) == (0, "cpu")
    assert seen.weights.equal(unbroken.weights)


def test_given_systems_are_those_of_a_resumed_training(tmp_path):
    np.save(tmp_path / "four.npy", [[[1, -0.5, 0, 0, -0.5], [1, 0.5, 0, 0, 0.5 + 0.01 * k]] for k in range(4)])
    flags = [*TINY, "--seed", "1", "--ic-path", "four.npy"]
    whole = run(tmp_path / "..", "train", *flags[:-1], tmp_path / "four.npy", "-n", "5", "-s", "whole")
    run(tmp_path, "train", *flags)
    again = run(tmp_path, "train", "--resume", "data/run_nbody/state.pt", "--ic-path", "four.npy", "-n", "5")
    assert again.weights.equal(whole.weights)


def test_both_simulates_the_last_model_after_a_stop_by_duration(tmp_path):
    (tmp_path / "run.toml").write_text("[train]\nduration = 1e-9\n[simulate]\nsteps = 2\n")
    seen = run(tmp_path, "both", "--config", "run.toml", *TINY, "-n", "50")
    assert seen.status == 0, seen.err
    assert seen.report["train"]["stopped_by"] == "duration"
    assert seen.report["simulate"]["model_path"] == "data/run_nbody/model/model_epoch_0000.pt"
    assert "1 epochs completed" in seen.err
    assert "stopped by duration" in seen.err


def test_a_failed_training_says_why_and_is_not_simulated(tmp_path):
    seen = run(tmp_path, "both", *TINY, "--lr", "1e250", "--steps", "3")
    assert seen.status == 1
    assert list(seen.report) == ["train"]
    assert "not finite" in seen.report["train"]["failure"]
    assert "failed:" in seen.err


def test_lines_where_there_is_no_terminal(tmp_path):
    seen = run(tmp_path, "train", *TINY, "-n", "25", "--steps-per-epoch", "1")
    lines = [line for line in seen.err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["10/25", "20/25"]
    assert re.search(r"converged \d+ %  dt [\d.e-]+  rel_dE [\d.e-]+", lines[0])
    assert re.search(r"25 epochs completed, convergence rate \d+ %, [\d.]+ s", seen.err)


def test_a_bar_on_a_terminal(tmp_path):
    """Standard error is a terminal, standard output a file: the bar never gets into the JSON."""
    out, text = on_a_terminal(tmp_path, "train", *TINY, "-n", "12")
    assert json.loads(out)["epochs"] == 12
    assert "12/12" in text
    assert "converged" in text
    assert "12 epochs completed" in text


def test_picture_of_a_training_shows_all_steps_with_warm_up_and_fresh_starts(tmp_path, monkeypatch):
    tracks = []
    monkeypatch.setattr(
        training_track.TrainingTrack,
        "trajectories",
        lambda self, original=training_track.TrainingTrack.trajectories: tracks.append(self) or original(self),
    )
    flags = "--energy-threshold 1 --dt-bound 0.3 --steps-per-epoch 40 --e-min 0 --e-max 0.05 --history-len 2"
    seen = run(tmp_path, "train", *TINY, *flags.split(), "--stop-at-period", "--plot", "still.png")
    (track,) = tracks
    orbits, warm = training_track.TrainingTrack.trajectories(track), track.warm_up()
    assert len(orbits) == 4
    steps = sum(int((orbit.dt > 0).sum()) for orbit in orbits)
    assert steps == sum(log["accepted"] for log in seen.model["logs"])
    for index, (orbit, mask) in enumerate(zip(orbits, warm, strict=True)):
        assert np.array_equal(orbit.position[0], seen.start["position"][index])
        gaps = np.isnan(orbit.position).all((1, 2))
        assert gaps.sum() == 2  # it starts afresh after each epoch: its period is over
        assert np.isnan(orbit.energy[gaps]).all()
        assert (np.diff(orbit.time) >= 0).all()
        assert mask.sum() == 4  # two steps after each start
        assert mask[1:3].all()


# Weights & Biases -------------------------------------------------------------------------------------


def wandb_run(folder, flags, **environment):
    held = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    env = {**held, "HOME": str(folder), "NETRC": str(folder / "netrc"), **environment}
    return subprocess.run(
        command("train", *TINY, "--wandb", *flags), cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_wandb_offline(tmp_path):
    done = wandb_run(tmp_path, ["-s", "mine"], WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 2
    (file,) = (tmp_path / "data/mine").rglob("run-*.wandb")
    logged = file.read_bytes()
    names = "loss dt E0 rel_dE rel_dE_mean rel_dL_mean epoch_time part1/acceptance_rate part1/trajectory_length "
    names += "part1/retrain_iterations part2/converged part2/iterations part2/pass_fraction part2/timid_share norm/L"
    for name in names.split():
        assert name.encode() in logged, name
    assert b"AITimeStepper" in logged
    assert b"weight_decay" in logged


def test_wandb_without_a_login_is_a_sentence(tmp_path):
    done = wandb_run(tmp_path, [])
    assert done.returncode == 0, done.stderr
    assert "Weights & Biases: there is no login" in done.stderr
    assert "Traceback" not in done.stderr
    assert "2 epochs completed" in done.stderr


def test_wandb_without_the_package_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    seen = run(tmp_path, "train", *TINY, "--wandb")
    assert seen.status == 0
    assert "Weights & Biases: the package is not installed (pip install wandb)" in seen.err
