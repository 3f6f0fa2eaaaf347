"""Commands as users type them, at the lengths that they state, and the configs of this repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.checkpoint import load_model
from run.toml_file import read_keys
from tests.run.runs import RUNNER, run

CONFIGS = sorted((Path(RUNNER).parent.parent / "configs").glob("*.toml"))


def runner(folder, command):
    done = subprocess.run(
        [sys.executable, RUNNER, *command.split()], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FOUR = "train --n-steps 5 --num-particles 4 --save-name test"


def test_four_bodies_are_trained_and_simulated(tmp_path):
    report = runner(tmp_path, f"{FOUR} --epochs 4")
    assert report["epochs"] == 4
    assert report["last_checkpoint"] == "data/test/model/model_epoch_0003.pt"
    simulate = "simulate --integrator-mode ml --model-path data/test/model/model_epoch_0003.pt --num-particles 4"
    report = runner(tmp_path, f"{simulate} --steps 100")
    assert report["integrator_mode"] == "ml"
    assert report["until"] == {"steps": 100}
    assert report["force_evaluations"] == 5 * report["steps"]
    # A training of any seed: some of its models fail on the way.
    assert (report["steps"] == 100) != (report["failed_orbits"] == 1)


def test_four_bodies_with_a_history(tmp_path):
    report = runner(tmp_path, f"{FOUR} --epochs 3 --history-len 5 --feature-type delta_mag")
    assert report["epochs"] == 3
    config = load_model(tmp_path / report["last_checkpoint"]).config
    assert (config.num_particles, config.history_len, config.feature_type) == (4, 5, "delta_mag")


def test_eight_orbits(tmp_path):
    report = runner(tmp_path, "train --epochs 5 --num-orbits 8")
    assert (report["epochs"], report["stopped_by"]) == (5, "epochs")
    assert load_model(tmp_path / report["last_checkpoint"]).content["extra"]["train_ic"]["mass"].shape == (8, 2)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_run_by_both(path, tmp_path):
    name = read_keys(str(path)).top["save_name"]
    seen = run(tmp_path, "both", "--config", path, "-n", "3", "--steps", "20", "--replay-steps", "10")
    assert seen.status == 0, seen.err
    assert seen.report["train"]["epochs"] == 3
    assert seen.report["train"]["last_checkpoint"] == f"data/{name}/model/model_epoch_0002.pt"
    simulated = seen.report["simulate"]
    assert simulated["until"] == {"steps": 20}
    assert simulated["integrator_mode"] == (
        "history" if load_model(tmp_path / simulated["model_path"]).config.history_len else "ml"
    )
    assert len(simulated["orbits"]) == read_keys(str(path)).top.get("num_orbits", 8)
    assert simulated["failed_orbits"] == 0


def test_the_three_configs_are_there():
    assert {path.stem for path in CONFIGS} >= {"example", "history", "three_body"}
