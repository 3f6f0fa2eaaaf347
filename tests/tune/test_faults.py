"""What goes wrong while a search runs: nothing is lost, and nothing is run twice."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.scores import evaluate, references
from core.trainer import Trainer
from tests.programs import needed
from tests.tune.clusters import running_cluster
from tests.tune.faulty import IS_NAN, NEEDS_THE_WHOLE_GPU, NEEDS_TOO_MUCH, RAISES
from tests.tune.searches import finish, load_study, only_results, start_search, trials_table, wait_for_file
from tune.opening import open_search
from tune.space import load_space

#: A search with a driver of its own: for faulty trainings, on a machine that says that it has a GPU.
DRIVER = """
import sys
from functools import partial
from pathlib import Path
from tune.ray_session import prepare_environment, ray_session
prepare_environment(None)  # before Ray is imported
import ray
from rich.console import Console
from core.held_out import held_out
from core.scores import references_on
from tests.tune.faulty import FaultyTraining
from tune.driver import Driver
from tune.opening import open_study
from tune.folder import SearchFolder
from tune.progress import Progress
from tune.space import load_space
from tune.storage import Storage

space = load_space(Path(sys.argv[1]))
folder = SearchFolder(Path(sys.argv[2]))
folder.create(space)
space = space.changed(fixed={**space.fixed, "device": "cpu"})  # the GPU is none
study = open_study(space, folder)
ray.init = partial(ray.init, num_cpus=2, num_gpus=1)
with ray_session(None, dashboard=False) as session, Progress("trial", 5, Console()) as progress:
    storage = Storage.find(str(session.folder), "tune")
    driver = Driver(space.resources, 2, storage, trainable=FaultyTraining)
    driver.run_trials(study, folder, progress, references_on(held_out(space.example(), "validation")))
"""


def test_a_faulty_trial_fails_alone(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """One raises, one returns NaN, one needs twice its share of the GPU twice, and one more memory than there is."""

    def change(values: dict[str, Any]) -> None:
        values |= {"trials": 5, "scheduler": "none", "resources": {"cpu": 0.5, "gpu": 0.25}}

    results = tmp_path / "results" / "faults"
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(write_space(change)), str(results)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    _, study = open_search(results)
    records = study.records()
    assert [record.state for record in records] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "FAIL"]
    assert records[RAISES].reason == "ValueError: this one always raises"
    assert records[IS_NAN].reason == "work_gain is NaN"
    assert records[NEEDS_TOO_MUCH].reason.startswith("out of memory (")
    assert "allocate" in records[NEEDS_TOO_MUCH].reason
    assert run.stdout.count("goes on from its last checkpoint after: ValueError") == 2
    record = records[NEEDS_THE_WHOLE_GPU]
    assert list(study.curve(record.number)) == [1, 2, 3, 4]
    config = study.config(record)
    trainer = Trainer([config])
    for _ in range(4):
        trainer.train_epoch()
    scores = evaluate(trainer.criterion(0), config, references(config))
    assert {key: record.scores[key] for key in scores} == scores


#: A disk that is full in the middle of a search, and has room again.
DISK = """\
mkdir results && mount -t tmpfs -o size=60k tmpfs results || exit 77
search="$0 -m tune.search --no-dashboard"
$search --space "$1"; echo "status $?"
mount -o remount,size=20m results || exit 77
$search --resume results/*; echo "status $?"
cp -r results kept
"""


def test_a_full_disk_has_room_again(write_space: Callable[..., Path], tmp_path: Path) -> None:
    needed("unshare", "util-linux")

    def one_at_a_time(values: dict[str, Any]) -> None:
        values |= {"max_concurrent": 1, "trials": 3, "scheduler": "none"}

    space = write_space(one_at_a_time)
    run = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", DISK, sys.executable, str(space)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    if run.returncode in (1, 77):
        pytest.skip(f"a small disk cannot be made here: {run.stderr}")
    first, second = (line for line in run.stdout.splitlines() if line.startswith("status "))
    assert (first, second) == ("status 2", "status 0"), run.stdout + run.stderr
    (line,) = run.stderr.splitlines()
    assert "cannot be written (No space left on device)" in line
    (tmp_path / "results").rmdir()
    (tmp_path / "kept").rename(tmp_path / "results")
    trials = load_study(only_results(tmp_path)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [row["epochs"] for row in trials_table(tmp_path)] == ["4"] * 3
    assert all(list(trial.intermediate_values) == [1, 2, 3, 4] for trial in trials)


def test_a_node_that_dies_takes_no_trial_with_it(write_space: Callable[..., Path], tmp_path: Path) -> None:
    def slow(values: dict[str, Any]) -> None:
        values["fixed"] |= {"hidden_dims": [64, 64], "num_orbits": 8, "epochs": 40, "evaluate_every": 5}
        values |= {"trials": 2, "scheduler": "none"}

    space = write_space(slow)
    with running_cluster(2, tmp_path) as cluster:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        search = start_search(
            *("--space", space, "--address", cluster.address, "--storage", tmp_path / "storage"),
            folder=tmp_path,
            HOME=str(tmp_path),
            XDG_CACHE_HOME=cache,
        )
        for number in range(2):  # both train
            wait_for_file(search, tmp_path, f"results/*/checkpoints/{number:05d}/state.pt")
        assert cluster.nodes_with("TimeStepTraining") == {0, 1}
        cluster.kill_node(1)
        run = finish(search)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("goes on from its last checkpoint") >= 1
    space_again = load_space(only_results(tmp_path) / "space.yaml")
    for trial in load_study(only_results(tmp_path)).trials:
        assert (trial.state.name, list(trial.intermediate_values)) == ("COMPLETE", list(range(5, 41, 5)))
        config = space_again.config(trial.user_attrs["parameters"], trial.user_attrs["seed"])
        trainer = Trainer([config])
        for _ in range(40):
            trainer.train_epoch()
        assert trial.value == evaluate(trainer.criterion(0), config, references(config))["work_gain"]
