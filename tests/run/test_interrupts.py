"""Ctrl-C and SIGTERM: a line, status 130, and what was done is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.checkpoint import load_model, load_state
from tests.run.runs import RUNNER, TINY, command
from tests.run.test_train import SLOW

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])


@contextmanager
def running(folder, arguments) -> Iterator["subprocess.Popen[str]"]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, cwd=folder, **pipes) as program:
        try:
            yield program
        finally:
            program.kill()


def ended(program) -> tuple[str, str]:
    out, err = program.communicate(timeout=20)
    assert program.returncode == 130, err
    assert "Traceback" not in err
    return out, err


@SIGNALS
def test_a_training_ends_with_the_epoch_and_saves_it(number, tmp_path):
    with running(tmp_path, command("train", *TINY, "--steps-per-epoch", "20", "-n", "100000")) as training:
        while not (tmp_path / "data/run_nbody/state.pt").exists() and training.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3)
        training.send_signal(number)
        out, err = ended(training)
    report = json.loads(out)
    assert report["stopped_by"] == "interrupted"
    assert report["scores"] is None
    assert "stopping after this epoch, with a checkpoint" in err
    assert load_state(tmp_path / report["state"]).lanes[0].epoch == report["epochs"]
    assert load_model(tmp_path / report["last_checkpoint"]).content["epoch"] == report["epochs"]


def test_the_second_ctrl_c_ends_a_training_at_once(tmp_path):
    with running(tmp_path, command("train", *SLOW, "--replay-steps", "1000000", "--debug")) as training:
        said = iter(training.stderr)
        assert any("replay update" in line for line in said)
        training.send_signal(signal.SIGINT)
        assert any(line.startswith("interrupted: stopping after this epoch") for line in said)
        training.send_signal(signal.SIGINT)
        report = json.loads(ended(training)[0])
    assert (report["epochs"], report["state"], report["last_checkpoint"]) == (0, None, None)
    assert not list(tmp_path.iterdir())


@SIGNALS
def test_a_simulation_leaves_nothing_half_written(number, tmp_path):
    with running(tmp_path, command("simulate", "--duration", "1e6", "--save-trajectory", "run.npz")) as simulation:
        assert simulation.stderr.readline().startswith("simulating")
        while not list(tmp_path.glob(".run.npz.*")):
            time.sleep(0.01)
        simulation.send_signal(number)
        out, err = ended(simulation)
    assert out == ""
    assert err.strip() == "runner: interrupted."
    assert not list(tmp_path.iterdir())


@SIGNALS
def test_both_keeps_the_report_of_its_training(number, tmp_path):
    arguments = command("both", *TINY, "--num-particles", "3", "--Nperiod", "1e6", "--softening", "0.1")
    with running(tmp_path, arguments) as both:
        for line in both.stderr:
            if line.startswith("simulating"):
                break
        time.sleep(0.1)
        both.send_signal(number)
        out, err = ended(both)
    report = json.loads(out)
    assert list(report) == ["train"]
    assert report["train"]["stopped_by"] == "epochs"
    assert "the simulation was interrupted" in err


@SIGNALS
@pytest.mark.parametrize(
    "program",
    [[RUNNER, "simulate"], ["-m", "tune.search", "--space", "quick"], ["-m", "core.evaluation", "--model-path", "x"]],
    ids=["runner", "search", "evaluation"],
)
def test_while_it_imports_its_modules(program, number, tmp_path):
    """A module that takes ten seconds stands in for torch."""
    (tmp_path / "torch.py").write_text("import time; print('importing', flush=True); time.sleep(10)\n")
    path = os.pathsep.join([str(tmp_path), str(RUNNER.parent.parent), os.environ.get("PYTHONPATH", "")])
    arguments = ["env", f"PYTHONPATH={path}", sys.executable, "-P", *map(str, program)]
    if program[0] == RUNNER:  # the folder of a script comes first: torch is found behind it
        arguments.remove("-P")
    with running(tmp_path, arguments) as starting:
        assert starting.stdout.readline() == "importing\n"
        starting.send_signal(number)
        _, err = ended(starting)
    assert err.endswith(": interrupted.\n")
    assert err.count("\n") == 1
