"""Signals to the whole process group, as terminals, `timeout` and srun send them: Ray's processes survive them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.programs import wait_for
from tests.tune.searches import ONE_WORKER, finish, only_results, trials_table, wait_for_file, workers

Search = subprocess.Popen[str]


def slower(values: dict[str, Any]) -> None:
    values["fixed"] |= {"epochs": 400, "evaluate_every": 20, "num_orbits": 8}
    values["scheduler"] = "none"


def start(space: Path, folder: Path, *options: str) -> Search:
    """A search that leads a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "tune.search", "--space", str(space), "--no-dashboard", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def test_a_signal_while_ray_starts_is_one_line(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """Ray would take this one for itself; the next but one test interrupts a start by SIGINT."""
    search = start(write_space(), tmp_path)
    wait_for(lambda: workers(search, "gcs_server"))
    os.killpg(search.pid, signal.SIGTERM)
    run = finish(search)
    assert (run.returncode, run.stderr) == (130, "\ntune.search: interrupted.\n"), run.stdout + run.stderr
    assert not (tmp_path / "results").exists()
    assert not workers(search, "gcs_server")


def test_a_signal_to_all_ends_a_search_in_good_order(write_space: Callable[..., Path], tmp_path: Path) -> None:
    search = start(write_space(slower), tmp_path)
    wait_for_file(search, tmp_path, "results/*/checkpoints/*/state.pt")
    os.killpg(search.pid, signal.SIGHUP)
    run = finish(search)
    assert (run.returncode, run.stderr) == (130, ""), run.stdout + run.stderr
    assert "ending: what is running saves first" in run.stdout
    assert "The search was interrupted; it goes on with:" in run.stdout
    assert {row["state"] for row in trials_table(tmp_path)} == {"RUNNING"}
    saved = list(only_results(tmp_path).glob("checkpoints/*/state.pt"))
    assert len(saved) == len(trials_table(tmp_path))


def test_the_second_signal_ends_a_search_without_a_report_and_it_goes_on(
    write_space: Callable[..., Path], tmp_path: Path
) -> None:
    """However early the next run is interrupted, it says so again."""
    search = start(write_space(slower), tmp_path, *ONE_WORKER)
    wait_for_file(search, tmp_path, "results/*/checkpoints/*/state.pt")
    for _ in range(2):
        search.send_signal(signal.SIGINT)
        time.sleep(0.2)
    run = finish(search)
    assert run.returncode == 130, run.stdout + run.stderr
    assert "The search was interrupted; it goes on with:" in run.stdout
    results = only_results(tmp_path)
    assert not (results / "report").exists()
    command = [sys.executable, "-m", "tune.search", "--resume", str(results), "--no-dashboard"]
    again = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    wait_for(lambda: workers(again, "gcs_server"))
    again.send_signal(signal.SIGINT)
    run = finish(again)
    assert (run.returncode, run.stderr) == (130, "\ntune.search: interrupted.\n"), run.stdout + run.stderr
    assert not workers(again, "gcs_server")
    said = run.stdout.splitlines()[-1]
    assert said.startswith("The search was interrupted; it goes on with:")
    assert said.endswith(f" -m tune.search --resume {results}")
