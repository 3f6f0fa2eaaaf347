"""Weights & Biases on disk, without a login, and with a server that is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune.wandb_runs import read_runs

#: Two trainings side by side, one of which fails and one is interrupted, and a repeat with scores on the test set.
PROGRAM = """
import sys
from pathlib import Path
from tune.monitoring.monitor import Training
from tune.monitoring.wandb_log import WandbLog

log = WandbLog("project", "search", Path())
print(log.hint)
trials = [Training(f"trial-0000{number}", number, 0, {"lr": 0.5}, {"lr": 0.5, "hidden_dims": [8]}) for number in (1, 2)]
repeat = Training("trial-00001-1", 1, 1, {"lr": 0.5}, {"lr": 0.5, "hidden_dims": [8]})
for training in (*trials, repeat):
    log.started(training)
for epoch in (5, 10):
    for training in (*trials, repeat):
        log.reported(training, epoch, {"work_gain": epoch / 10})
log.ended(trials[0], "FAIL", 12, "loss not finite", {})
log.ended(repeat, "COMPLETE", 20, "", {"work_gain": 0.75})
log.close()
"""


def log(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    held = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    env = {**held, "HOME": str(folder), "NETRC": str(folder / "netrc"), **environment}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("environment", [{"WANDB_MODE": "offline"}, {}], ids=["offline", "no login"])
def test_runs_are_kept_on_disk(tmp_path: Path, environment: dict[str, str]) -> None:
    done = log(tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("no login" in done.stdout) == (not environment)
    assert "wandb sync" in done.stdout
    runs = {run.name: run for run in sorted(read_runs(tmp_path), key=lambda run: run.name)}
    assert list(runs) == ["trial-00001", "trial-00001-1", "trial-00002"]
    for run in runs.values():
        assert (run.project, run.group) == ("project", "search")
        assert run.config["lr"] == 0.5
        assert run.config["parameters"] == {"lr": 0.5}
        assert [(entry["_step"], entry["work_gain"]) for entry in run.history] == [(5, 0.5), (10, 1.0)]
    failed, repeat, interrupted = runs.values()
    assert (failed.summary["state"], failed.summary["reason"]) == ("FAIL", "loss not finite")
    assert (failed.job_type, failed.exit_code) == ("trial", 1)
    assert (repeat.summary["state"], repeat.summary["test/work_gain"]) == ("COMPLETE", 0.75)
    assert (repeat.job_type, repeat.exit_code) == ("repeat", 0)
    assert interrupted.summary["state"] == "RUNNING"


def test_a_server_that_is_not_there_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    done = log(tmp_path, WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:1")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("wandb: ")
    assert "; runs are kept offline; upload with " in line
    runs = read_runs(tmp_path)
    assert sorted(run.name for run in runs) == ["trial-00001", "trial-00001-1", "trial-00002"]
    assert all(len(run.history) == 2 for run in runs)
