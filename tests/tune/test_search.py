"""Whole searches as a user runs them: what they print, leave behind, and survive."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib import get_configdir

from core.checkpoint import load_model
from core.config import Config
from core.errors import UserError
from core.scores import evaluate, references
from core.trainer import Trainer
from core.work_precision import BASELINES
from tests.programs import needed
from tests.tune.conftest import load_values
from tests.tune.searches import (
    ONE_WORKER,
    finish,
    kill_workers,
    load_study,
    only_results,
    refusal_of,
    run_search,
    start_search,
    trials_table,
    wait_for_file,
)
from tune.folder import SearchFolder
from tune.ranking import Ranking
from tune.ray_session import Node, RaySession
from tune.search import fit_to_machine
from tune.space import Space, load_space


@dataclass(frozen=True)
class Finished:
    folder: Path
    results: Path
    temporary: Path
    lines: list[str]
    errors: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One search, run to its end with a home, a temporary folder and a results folder of its own."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(load_values(), sort_keys=False))
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # a short name: Ray's sockets lie below it
    # Curves that are measured once stay where they are.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    run = run_search(
        *("--space", "tiny.yaml", "--max-concurrent", 2),
        folder=folder,
        HOME=str(folder),
        TMPDIR=str(temporary),
        XDG_CACHE_HOME=str(cache),
        MPLCONFIGDIR=get_configdir(),  # matplotlib says so when it has to look for the fonts
    )
    assert run.returncode == 0, run.stdout + run.stderr
    yield Finished(folder, only_results(folder), temporary, run.stdout.splitlines(), run.stderr)
    shutil.rmtree(temporary)


def test_the_plan_comes_first_and_the_simulate_command_last(finished: Finished) -> None:
    plan = dict(line.split(maxsplit=1) for line in finished.lines[: finished.lines.index("")] if line[0] != " ")
    assert plan["space"] == str(finished.folder / "tiny.yaml")
    assert plan["question"] == "Does the search work?"
    assert plan["trials"] == "6 of 4 epochs, scored after every epoch; early stopping: asha"
    assert plan["results"] == f"results/{finished.results.name}"
    assert plan["dashboard"].startswith("http://127.0.0.1:")
    assert "1 CPU a trial" in plan["resources"]
    model = f"results/{finished.results.name}/best/model.pt"
    runner = shlex.split(finished.lines[-1])[1:3]
    assert shutil.which(runner[0], path=os.environ["PATH"]) or (finished.folder / runner[0]).samefile(sys.executable)
    assert finished.lines[-2] == f"best model  {model}"
    assert finished.lines[-1] == (
        f"simulate    {shlex.join(runner)} simulate --model-path {model} --num-orbits 8 --multi-orbit-sim --Nperiod 10"
    )
    assert (finished.folder / runner[1]).samefile("run/runner.py")


def test_progress_is_plain_lines_and_nothing_else_is_printed(finished: Finished) -> None:
    assert finished.errors == ""
    lines = [line for line in finished.lines if line.startswith("[")]
    assert len(lines) == 6
    assert all(" running, " in line and "of 6 | best: " in line and " left" in line for line in lines)
    assert "0 running" in lines[-1]


def test_every_trial_is_in_the_study_once_as_optuna_means_it(finished: Finished) -> None:
    study = load_study(finished.results)
    rows = trials_table(finished.folder)
    assert [trial.number for trial in study.trials] == [int(row["number"]) for row in rows] == list(range(6))
    for trial, row in zip(study.trials, rows, strict=True):
        assert trial.state.name == row["state"]
        assert list(trial.intermediate_values) == list(range(1, int(row["epochs"]) + 1))
        assert (trial.state.name == "COMPLETE") == (int(row["epochs"]) == 4)
        assert trial.params["lr"] == float(row["lr"])
        name = "history_len.delta_mag" if row["feature_type"] == "delta_mag" else "history_len"
        assert trial.params[name] == int(row["history_len"])
        assert (trial.constraints["max_rel_dE"] <= 0) == (float(row["rel_dE"]) <= 5e-3)
        if trial.state.name == "COMPLETE":
            assert trial.value == float(row["work_gain"])
    assert {"COMPLETE", "PRUNED"} == {row["state"] for row in rows}


def test_best_is_the_first_of_the_table_and_can_be_loaded(finished: Finished) -> None:
    best = finished.results / "best"
    metrics = json.loads((best / "metrics.json").read_text())
    header = next(index for index, line in enumerate(finished.lines) if line.startswith("trial  work_gain"))
    assert finished.lines[header + 1].split()[0] == str(metrics["trial"])
    row = trials_table(finished.folder)[metrics["trial"]]
    within = [
        row for row in trials_table(finished.folder) if row["state"] == "COMPLETE" and float(row["rel_dE"]) <= 5e-3
    ]
    assert float(row["work_gain"]) == max(float(row["work_gain"]) for row in within)
    for key in ("work_gain", "rel_dE", "steps_per_orbit", "convergence_rate", "failed_orbits", "violations"):
        assert metrics[key] == float(row[key])
    config = Config.from_mapping(tomllib.loads((best / "config.toml").read_text()))
    model = load_model(best / "model.pt")
    assert model.config == config
    assert (config.seed, config.lr) == (int(row["seed"]), float(row["lr"]))
    assert config.hidden_dims == (16,)


def test_baselines_stand_beside_the_best_trial_at_its_error(finished: Finished) -> None:
    metrics = json.loads((finished.results / "best" / "metrics.json").read_text())
    written = json.loads((finished.results / "baselines.json").read_text())
    assert written == load_study(finished.results).user_attrs["baselines"]
    assert (written["trial"], written["set"]) == (metrics["trial"], "validation")
    header = next(i for i, line in enumerate(finished.lines) if line.startswith("validation set, 1 period, baselines"))
    printed = {row[:21].strip(): row[21:].split() for row in finished.lines[header + 2 : header + 9]}
    assert printed.pop(f"trial {metrics['trial']}")[2] == f"{metrics['work_gain']:.3f}"
    assert list(printed) == list(written["baselines"]) == list(BASELINES)
    for name, scores in written["baselines"].items():
        assert printed[name][2] == f"{scores['work_gain']:.3f}"
        assert scores["rel_dE"] == pytest.approx(metrics["rel_dE"], rel=0.05)
    gains = {name: scores["work_gain"] for name, scores in written["baselines"].items()}
    assert gains["dynamical"] == pytest.approx(1, abs=0.05)
    assert max(gains, key=gains.__getitem__) == "oracle"


def test_only_the_best_models_and_our_own_files_are_left(finished: Finished) -> None:
    complete = {row["number"] for row in trials_table(finished.folder) if row["state"] == "COMPLETE"}
    files = {str(path.relative_to(finished.results)) for path in finished.results.rglob("*") if path.is_file()}
    figures = {name for name in files if name.startswith("report/") and name.endswith(".png")}
    assert len(figures) >= 5
    events = {name for name in files if name.startswith("tensorboard/trial-0000")}
    assert len(events) == 6
    assert files - figures - events == {
        *("space.yaml", "study.journal", "trials.csv", "baselines.json", "report/index.html"),
        *("best/model.pt", "best/config.toml", "best/metrics.json"),
        *(f"checkpoints/{int(number):05d}/model.pt" for number in complete),
    }
    assert load_space(finished.results / "space.yaml").fixed["device"] == "cpu"


def test_ray_leaves_nothing_behind_and_its_token_is_the_owners(finished: Finished) -> None:
    assert list(finished.temporary.iterdir()) == []
    token = finished.folder / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600


def slower(values: dict[str, Any]) -> None:
    values["fixed"] |= {"hidden_dims": [64, 64], "num_orbits": 8, "epochs": 60, "evaluate_every": 10}
    values |= {"trials": 2, "scheduler": "none"}


def test_a_killed_worker_changes_no_result(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """Every trial of a search gives, bit for bit, what a plain training does, also if its worker died in the middle."""
    search = start_search("--space", write_space(slower), "--max-concurrent", 1, "--no-dashboard", folder=tmp_path)
    wait_for_file(search, tmp_path, "results/*/checkpoints/*/state.pt")
    kill_workers(search)
    run = finish(search)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("goes on from its last checkpoint") == 1
    space = load_space(only_results(tmp_path) / "space.yaml")
    trials = load_study(only_results(tmp_path)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    for trial, row in zip(trials, trials_table(tmp_path), strict=True):
        config = space.config(trial.user_attrs["parameters"], trial.user_attrs["seed"])
        trainer = Trainer([config])
        curves = references(config)
        for epoch in range(1, 61):
            record = trainer.train_epoch()
            if epoch % 10 == 0:
                scores = evaluate(trainer.criterion(0), config, curves)
                assert trial.intermediate_values[epoch] == Ranking(("work_gain",), 5e-3).value(scores)
        assert {key: float(row[key]) for key in scores} == scores
        assert float(row["convergence_rate"]) == record.convergence_rate


def test_an_interrupted_search_keeps_what_has_ended(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """SIGHUP and SIGTERM are passed on as the SIGINT of a Ctrl-C, so this is all three."""

    def endless(values: dict[str, Any]) -> None:
        slower(values)
        values["trials"] = 1000

    search = start_search("--space", write_space(endless), "--no-dashboard", folder=tmp_path)
    wait_for_file(search, tmp_path, "results/*/trials.csv")
    search.send_signal(signal.SIGHUP)
    run = finish(search)
    assert run.returncode == 130, run.stdout + run.stderr
    assert run.stderr == ""
    assert "trial  work_gain" in run.stdout
    assert "The search was interrupted" in run.stdout
    states = [row["state"] for row in trials_table(tmp_path)]
    assert states.count("COMPLETE") >= 1
    assert set(states) == {"COMPLETE", "RUNNING"}
    load_model(only_results(tmp_path) / "best" / "model.pt")


MOUNT = """\
mkdir results && mount -t tmpfs -o size=28k tmpfs results || exit 77
"$@"; code=$?; find results -type f; exit $code
"""


def test_a_full_disk_is_one_line(write_space: Callable[..., Path], tmp_path: Path) -> None:
    needed("unshare", "util-linux")
    search = [sys.executable, "-m", "tune.search", "--space", str(write_space()), *ONE_WORKER, "--no-dashboard"]
    run = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", MOUNT, "sh", *search],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    if run.returncode in (1, 77) and "tune.search" not in run.stderr:
        pytest.skip(f"a small disk cannot be made here: {run.stderr}")
    assert run.returncode == 2, run.stdout + run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("tune.search: results folder results/tiny-")
    assert "cannot be written (No space left on device); free space or give --results" in line
    assert ".part" not in run.stdout
    assert "/trials.csv" in run.stdout


def test_a_refused_search_leaves_no_folder(write_space: Callable[..., Path], tmp_path: Path) -> None:
    large = write_space(lambda values: values.update(resources={"cpu": 9999}))
    run = run_search("--space", large, "--results", "new/r1", "--no-dashboard", folder=tmp_path)
    assert run.returncode == 2
    assert "`resources` is cpu 9999" in run.stderr
    assert not (tmp_path / "new").exists()


def test_when_every_trial_fails_the_reason_is_said(write_space: Callable[..., Path], tmp_path: Path) -> None:
    def hopeless(values: dict[str, Any]) -> None:
        values["parameters"]["lr"] = {"choice": [1e300]}
        values["fixed"] |= {"epochs": 200, "evaluate_every": 100}
        values["trials"] = 2

    run = run_search("--space", write_space(hopeless), *ONE_WORKER, "--no-dashboard", folder=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "2 trials: 2 failed\n  failed " in run.stdout
    assert "there is no best model" in run.stdout
    assert "simulate" not in run.stdout
    assert "goes on from" not in run.stdout  # a training that fails is not tried again
    rows = trials_table(tmp_path)
    assert [row["state"] for row in rows] == ["FAIL", "FAIL"]
    assert all("not finite" in row["reason"] for row in rows)
    assert not (only_results(tmp_path) / "best").exists()


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, ["--space", "nowhere.yaml"], "There is no search space nowhere.yaml: no such file"),
        ("parameters: [1, 2", ["--space", "bad.yaml"], "bad.yaml: line 1: not valid YAML"),
        ("trails: 3", ["--space", "bad.yaml"], "bad.yaml: The key `trails` is unknown; did you mean `trials`?"),
        (None, ["--space", "quick", "--trials", "0"], "argument --trials: the value is 0, but must be"),
        (None, ["--space", "quick", "--results", "/dev/null"], "The value of `--results` is /dev/null, but must be"),
        (None, ["--spaec", "quick"], "unrecognized arguments: --spaec quick"),
        (
            "question: q\ntrials: 1\nparameters: {feature_type: {choice: [delta_mag]}, history_len: {int: [0, 2]}}",
            ["--space", "bad.yaml"],
            "The value of `history_len` is 0, but feature_type delta_mag needs history_len >= 1",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_results(
    content: str | None, arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (here / "bad.yaml").write_text(content)
    assert message in refusal_of(arguments, capsys)
    assert not list(here.glob("results/*"))


def session(cpus: float, gpus: float) -> RaySession:
    return RaySession((Node(cpus, gpus),), None, Path())


def test_trials_share_the_machine_as_the_space_says(tiny_space: Space) -> None:
    fitted, concurrent, _ = fit_to_machine(tiny_space.changed(trials=100), session(16, 1))
    assert (fitted.resources.gpu, fitted.fixed["device"], concurrent) == (0.25, "cuda", 4)
    fitted, concurrent, _ = fit_to_machine(tiny_space.changed(trials=100), session(16, 0))
    assert (fitted.resources.gpu, fitted.fixed["device"], concurrent) == (0, "cpu", 16)
    assert fit_to_machine(tiny_space.changed(max_concurrent=3), session(16, 0))[1] == 3
    assert fit_to_machine(tiny_space, session(16, 8))[1] == tiny_space.trials


def test_a_trial_that_does_not_fit_the_machine_is_refused(write_space: Callable[..., Path]) -> None:
    large = load_space(write_space(lambda values: values.update(resources={"cpu": 64})))
    with pytest.raises(UserError, match=r"`resources` is cpu 64 and gpu 0, but must fit this machine: 2 CPUs"):
        fit_to_machine(large, session(2, 0))
    cuda = load_space(write_space(lambda values: values["fixed"].update(device="cuda")))
    with pytest.raises(UserError, match=r"`fixed.device` is cuda, but trials get no GPU here"):
        fit_to_machine(cuda, session(2, 0))


def test_searches_of_the_same_second_have_a_folder_each(tiny_space: Space, tmp_path: Path) -> None:
    results = tmp_path / "new" / "results"
    folders = [SearchFolder(results / "tiny-20260131T120000Z") for _ in range(3)]
    for folder in folders:
        folder.create(tiny_space)
        folder.lock()
    names = ["tiny-20260131T120000Z", "tiny-20260131T120000Z-2", "tiny-20260131T120000Z-3"]
    assert [folder.path.name for folder in folders] == sorted(path.name for path in results.iterdir()) == names
    for folder in reversed(folders):
        folder.remove()
    assert not (tmp_path / "new").exists()
