"""Whole searches, run as a user runs them."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from matplotlib import get_configdir
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tune.search import main

#: Options for a search that needs no two trials at a time: a worker costs some seconds of a core.
ONE_WORKER = ("--max-concurrent", "1")


def start_search(*arguments: object, folder: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start `python -m tune.search` in a folder, its output piped, RAY_ADDRESS pointing to nowhere."""
    return subprocess.Popen(
        [sys.executable, "-m", "tune.search", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_search(*arguments: object, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a search to its end."""
    return finish(start_search(*arguments, folder=folder, **environment))


def finish(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    """Wait for a search."""
    output, errors = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def refusal_of(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line by which a search says, in this process, why it does not begin: a process takes seconds."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("tune.search: ")
    return line


def wait_for_file(process: "subprocess.Popen[str]", folder: Path, pattern: str) -> None:
    """Wait until a search has written a file."""
    while not list(folder.glob(pattern)):
        assert process.poll() is None, "".join(process.communicate())
        time.sleep(0.05)


def workers(process: "subprocess.Popen[str]", kind: str) -> list[int]:
    """The processes of one search that run actors of a class."""
    table = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in table.splitlines()]
    family = {str(process.pid)}
    for _ in range(3):  # search, raylet, worker
        family |= {pid for pid, parent, *_ in rows if parent in family}
    return [int(pid) for pid, _, *args in rows if pid in family and kind in "".join(args)]


def kill_workers(process: "subprocess.Popen[str]", kind: str = "TimeStepTraining") -> None:
    """Kill the processes of one search that train."""
    found = workers(process, kind)
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def only_results(folder: Path) -> Path:
    """The one results folder below `folder`."""
    (path,) = (folder / "results").iterdir()
    return path


def only_search(folder: Path) -> Path:
    """The one search below `folder`, beside what tells Prometheus of running ones."""
    (path,) = (folder / "results").glob("[!.]*")
    return path


def trials_table(folder: Path) -> list[dict[str, str]]:
    """The rows of trials.csv."""
    with (only_results(folder) / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def load_study_of(journal: Path) -> optuna.Study:
    """The only study of a journal, as Optuna reads it."""
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(journal))))


def load_study(results: Path) -> optuna.Study:
    """The study of a search, as Optuna reads it."""
    backend = JournalFileBackend(str(results / "study.journal"))
    return optuna.load_study(study_name=results.name, storage=JournalStorage(backend))


def own_home(home: Path) -> dict[str, str]:
    """The environment of a user with a home of their own. What is slow to make again stays where it is."""
    home.mkdir(exist_ok=True)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {"HOME": str(home), "XDG_CACHE_HOME": str(cache), "MPLCONFIGDIR": get_configdir()}
