"""What cannot be written, because the disk is full or the pipe is closed, is one line and status 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.runs import RUNNER, TINY


def run_in_shell(folder: Path, before: str, flags: str, after: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the runner as ``before; runner flags after``; its last words are one line, and no traceback."""
    command = f"{before} exec {sys.executable} {RUNNER} {flags} {after}"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    return done


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    *before, last = done.stderr.splitlines()
    assert last.startswith("runner: ")
    assert not any(line.startswith("runner: ") for line in before)
    return last


def left(folder: Path) -> list[str]:
    """Files and folders, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_trajectory(tmp_path):
    (tmp_path / "run.npz").write_text("older")
    done = run_in_shell(tmp_path, "ulimit -f 32;", "simulate --save-trajectory run.npz --Nperiod 20")
    assert done.returncode == 2
    assert "run.npz: cannot be written (File too large); free space or give another place" in last_line(done)
    assert left(tmp_path) == ["run.npz"]
    assert (tmp_path / "run.npz").read_text() == "older"


def test_a_trajectory_while_it_is_put_together(tmp_path):
    """The rows of each of three orbits have room, and the archive of all of them has not."""
    flags = "simulate --save-trajectory run.npz --steps 150 --multi-orbit-sim --num-orbits 3"
    done = run_in_shell(tmp_path, "ulimit -f 32;", flags)
    assert done.returncode == 2
    assert "run.npz: cannot be written" in last_line(done)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "name", "before"),
    [
        ("--plot run.png", "plot", ""),
        ("--movie --movie-dir .", "movie", ""),
        ("--movie --movie-dir .", "movie", "export PATH=/nowhere;"),
    ],
    ids=["still", "movie", "gif"],
)
def test_a_picture_does_not_take_the_run_with_it(flags, name, before, tmp_path):
    done = run_in_shell(tmp_path, f"ulimit -f 24; {before}", f"simulate --steps 40 {flags}")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["steps"] == 40
    assert report["files"] == {name: None}
    assert [line for line in done.stderr.splitlines() if line.startswith("runner: ")]
    assert left(tmp_path) == []


def test_a_checkpoint(tmp_path):
    done = run_in_shell(tmp_path, "ulimit -f 8;", f"train {' '.join(TINY)}")
    assert done.returncode == 2
    assert "model_epoch_0001.pt: cannot be written (File too large)" in last_line(done)
    assert left(tmp_path) == ["data", "data/run_nbody", "data/run_nbody/config.toml", "data/run_nbody/model"]


def test_a_state_beside_which_the_older_one_stays(tmp_path):
    """A disk that fills up in the middle: the state of ten epochs before can be resumed."""
    flags = f"train {' '.join(TINY)} --steps-per-epoch 40"
    run_in_shell(tmp_path, "", f"{flags} -n 1")
    state = tmp_path / "data/run_nbody/state.pt"
    before = state.read_bytes()
    done = run_in_shell(tmp_path, f"ulimit -f {len(before) // 1024 + 2};", f"train --resume {state} -n 30")
    assert done.returncode == 2
    assert "state.pt: cannot be written" in last_line(done)
    assert state.read_bytes() == before
    assert not [name for name in left(tmp_path) if "/." in name]


def test_the_report(tmp_path):
    done = run_in_shell(tmp_path, "", "simulate --steps 3", "> /dev/full")
    assert done.returncode == 2
    assert "standard output: the report cannot be written (No space left on device)" in last_line(done)


def test_standard_output_that_is_closed(tmp_path):
    done = run_in_shell(tmp_path, "", "simulate --steps 3 --plot run.png", ">&-")
    assert done.returncode == 2
    assert "Standard output is closed" in last_line(done)
    assert left(tmp_path) == []


def test_standard_error_that_is_closed_does_not_get_into_the_report(tmp_path):
    done = run_in_shell(tmp_path, "", "simulate --steps 3", "2>&-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] == 3
