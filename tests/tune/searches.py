"""Whole searches, run as a user runs them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def start_search(*arguments: object, folder: Path) -> "subprocess.Popen[str]":
    """Start `python -m tune.search` in a folder, its output piped, RAY_ADDRESS pointing to nowhere."""
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tune.search", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_search(*arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a search to its end."""
    process = start_search(*arguments, folder=folder)
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def only_results(folder: Path) -> Path:
    """The one results folder below `folder`."""
    (path,) = (folder / "results").iterdir()
    return path


def trials_table(folder: Path) -> list[dict[str, str]]:
    """The rows of trials.csv."""
    with (only_results(folder) / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def load_study(results: Path) -> optuna.Study:
    """The study of a search, as Optuna reads it."""
    backend = JournalFileBackend(str(results / "study.journal"))
    return optuna.load_study(study_name=results.name, storage=JournalStorage(backend))
