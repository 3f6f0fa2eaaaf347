"""When a training is scored on held-out orbits, and over which periods."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from run import scores
from tests.run.runs import RUNNER, TINY, run


@pytest.fixture(autouse=True)
def no_curves_of_earlier_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_training_ends_with_the_scores_whose_curve_is_shipped(tmp_path):
    seen = run(tmp_path / "run", "train", *TINY)
    held = seen.report["scores"]
    assert held["epoch"] == 2
    assert held["work_gain"] > 0
    assert held["steps_per_orbit"] > 20
    assert not any(name.endswith("_100") for name in held)
    assert seen.lines("scores after epoch 2: ") == 1
    (line,) = (line for line in seen.err.splitlines() if "not scored" in line)
    assert "not scored over 100 periods: --eval-periods 10 100 takes" in line
    assert "eval_periods" not in (tmp_path / "run/data/run_nbody/config.toml").read_text()


def test_systems_without_a_curve_are_not_scored_and_nothing_is_measured(tmp_path):
    seen = run(tmp_path / "run", "train", *TINY, "--e-max", "0.9")
    assert seen.report["scores"] is None
    assert "not scored over 10 and 100 periods: --eval-periods 10 100 takes" in seen.err
    assert not (tmp_path / "cache").exists()


def test_what_is_asked_for_is_measured_also_when_the_training_goes_on(tmp_path):
    seen = run(tmp_path / "run", "train", *TINY, "--eval-periods", "1", "--evaluate-every", "1")
    assert seen.report["scores"]["epoch"] == 2
    assert seen.lines("scores after") == 2
    assert "not scored" not in seen.err
    assert list((tmp_path / "cache").rglob("*.npz"))
    again = run(tmp_path / "run", "train", "--resume", "data/run_nbody/state.pt", "-n", "4")
    assert again.report["scores"]["epoch"] == 4
    assert again.lines("scores after") == 2


def test_given_systems_are_not_those_of_the_held_out_set(tmp_path):
    """Nor are they when their training goes on; but who asks for scores has them."""
    tmp_path.joinpath("run").mkdir()
    np.save(tmp_path / "run/four.npy", [[[1, -0.5, 0, 0, -0.5], [1, 0.5, 0, 0, 0.5]]] * 4)
    seen = run(tmp_path / "run", "train", *TINY, "--ic-path", "four.npy")
    again = run(tmp_path / "run", "train", "--resume", "data/run_nbody/state.pt", "-n", "3")
    asked = run(tmp_path / "run", "train", "--resume", "data/run_nbody/state.pt", "-n", "4", "--eval-periods", "10")
    assert seen.report["scores"] is again.report["scores"] is None
    assert "score" not in seen.err + again.err
    assert asked.report["scores"]["epoch"] == 4


def test_more_bodies_have_no_scores(tmp_path):
    seen = run(tmp_path / "run", "train", *TINY, "--num-particles", "3")
    assert seen.report["scores"] is None
    assert "score" not in seen.err


def test_nobody_waits_long_for_scores_that_were_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "PATIENCE", 0.05)
    seen = run(tmp_path / "run", "train", *TINY)
    assert seen.status == 0
    assert seen.report["scores"] is None
    assert "not scored: it takes longer than 0.05 s; --eval-periods 10 100 takes the time that it needs" in seen.err


def test_ctrl_c_while_scores_are_measured_loses_nothing_else(tmp_path):
    """Short steps take their time. In the mode both, nothing is simulated after it."""
    command = [sys.executable, RUNNER, "both", *TINY, "--eps", "0.002"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as training:
        for line in training.stderr:
            if line.startswith("scoring over 10 periods"):
                break
        training.send_signal(signal.SIGINT)
        out, err = training.communicate(timeout=20)
    assert training.returncode == 130
    report = json.loads(out)
    assert list(report) == ["train"]
    assert report["train"]["stopped_by"] == "interrupted"
    assert report["train"]["last_checkpoint"] == "data/run_nbody/model/model_epoch_0001.pt"
    assert report["train"]["scores"] is None
    assert "scoring was interrupted" in err
    assert "Traceback" not in err
