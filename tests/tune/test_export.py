"""Models are taken out of a search, and nothing that reads a results folder runs what somebody has put there."""

import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint import load_model, save_model
from core.trainer import Trainer
from run.runner import main as runner
from tests.tune.searches import ONE_WORKER, run_search
from tune.export import main as export
from tune.folder import SearchFolder
from tune.report.__main__ import main as report
from tune.rerun import main as rerun
from tune.search import main as search
from tune.space import load_space
from tune.study import SearchStudy

ROOT = Path(__file__).parents[2]


def program(*arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run one of our programs to its end."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=400)


def status_of(main: Callable[[list[str]], int], *arguments: object) -> int:
    """Call one of our programs in this process, which saves the seconds that a start takes; return its exit status."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


def scores(gain: float) -> dict[str, float]:
    return {"work_gain": gain, "rel_dE": 1e-3, "failed_orbits": 0.0, "steps_per_orbit": 99.0, "convergence_rate": 0.5}


@pytest.fixture
def results(write_space: Callable[..., Path], tmp_path: Path) -> Path:
    """What a search leaves that ended early: the best trial and another one with models, a third one without."""
    def on_a_cpu(values: dict[str, Any]) -> None:
        values["fixed"]["device"], values["resources"] = "cpu", {"cpu": 1}

    space = load_space(write_space(on_a_cpu))
    folder = SearchFolder(tmp_path / "results" / "search")
    folder.create(space)
    study = SearchStudy(space, folder.journal, "search")
    for gain in (0.9, 1.2, 0.1):
        number = study.ask().number
        study.report(number, 4, scores(gain))
        study.finish(number, 4)
    for record in study.best(2):
        folder.checkpoint(record.number).mkdir(parents=True)
        trainer = Trainer([study.config(record)])
        save_model(folder.checkpoint(record.number) / "model.pt", trainer, metrics=record.scores)
    best = study.best(1)[0]
    folder.write_best(folder.checkpoint(best.number), study.config(best), {"trial": best.number, **best.scores})
    return folder.path


def test_the_best_model_is_a_file_that_simulates(results: Path, tmp_path: Path) -> None:
    run = program("-m", "tune.export", "results/search", "--out", "new/model.pt", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "new/model.pt").read_bytes() == (results / "best/model.pt").read_bytes()
    printed = tomllib.loads(run.stdout)
    assert (printed["scores"]["trial"], printed["scores"]["work_gain"]) == (1, 1.2)
    assert printed["config"] == tomllib.loads((results / "best/config.toml").read_text())
    command = (ROOT / "run/runner.py", "simulate", "--model-path", "new/model.pt", "--steps", 3)
    simulate = program(*command, folder=tmp_path)
    assert simulate.returncode == 0, simulate.stderr


def test_any_model_that_was_kept_can_be_taken(results: Path, tmp_path: Path) -> None:
    run = program("-m", "tune.export", "results/search", "--trial", 0, "--out", "zero.pt", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    config = load_model(tmp_path / "zero.pt").config
    assert tomllib.loads(run.stdout)["config"]["seed"] == config.seed
    assert tomllib.loads(run.stdout)["scores"]["work_gain"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trial", 2, "--out", "x.pt"], "The model of trial 2 was not kept; this makes it again: "),
        (["--trial", 9, "--out", "x.pt"], "The value of `--trial` is 9, but must be one of 0 to 2"),
        (["--out", "."], "The value of `--out` is ., but must be a file to write"),
        ([], "the following arguments are required: --out"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    arguments: list[object], message: str, results: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(export, "results/search", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"tune.export: {message}")
    assert not (here / "x.pt").exists()


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_no_program_unpickles_what_a_folder_holds(
    results: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = here / "exploded"
    bomb = Bomb(mark)
    pickle.loads(pickle.dumps(bomb))
    assert mark.exists()  # it would work
    mark.unlink()

    for path in (*results.rglob("model.pt"), results / "checkpoints/00002/state.pt"):
        path.parent.mkdir(exist_ok=True)
        torch.save(bomb, path)
    (results / "study.journal.snapshot").write_bytes(pickle.dumps(bomb))
    for main, *arguments in (
        (export, results, "--out", "out.pt"),
        (export, results, "--trial", 1, "--out", "out.pt"),
        (rerun, results, "--trial", 1, "--out", "out.pt"),
        (report, results),
        (runner, "simulate", "--model-path", results / "best/model.pt"),
    ):
        status_of(main, *arguments)
        assert not mark.exists(), (main, arguments)
    capsys.readouterr()
    # A trial that was interrupted goes on, from its start: its state is a bomb.
    study = SearchStudy(load_space(results / "space.yaml"), results / "study.journal", "search")
    number = study.ask().number
    state = results / f"checkpoints/{number:05d}/state.pt"
    state.parent.mkdir()
    torch.save(bomb, state)
    run = run_search("--resume", results, *ONE_WORKER, "--no-dashboard", folder=here)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"trial {number} starts again" in run.stdout
    assert not mark.exists()
    (results / "study.journal").write_bytes(pickle.dumps(bomb))
    for main, *arguments in ((search, "--resume", results), (export, results, "--out", "out.pt")):
        assert status_of(main, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "study.journal: cannot be read" in line or "holds no study" in line
        assert not mark.exists(), main
