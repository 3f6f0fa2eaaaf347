"""A search that is interrupted, in whatever way, and goes on: what comes out is what an unbroken one gives."""

import json
import math
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml

from tests.tune.conftest import load_values
from tests.tune.searches import (
    finish,
    load_study,
    only_results,
    refusal_of,
    run_search,
    start_search,
    trials_table,
    wait_for_file,
)
from tune.space import load_space
from tune.study import SearchStudy


def several_at_a_time(values: dict[str, Any]) -> None:
    """Trials that are stopped early and a confirmation, one training after the other."""
    values["fixed"] |= {"hidden_dims": [64, 64], "num_orbits": 8, "epochs": 24, "evaluate_every": 6}
    values |= {"trials": 4, "seed": 2, "max_concurrent": 1, "max_rel_dE": 1.0, "confirm": {"top": 1, "seeds": 3}}
    values["scheduler"] = {"name": "asha", "min_resource": 12, "reduction_factor": 2}


def run_module(name: str, *arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a program of this package to its end."""
    return subprocess.run(
        [sys.executable, "-m", name, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@dataclass(frozen=True)
class Broken:
    """A search that was killed, torn, ended by a signal, and went on to its end, beside one that was left alone."""

    folder: Path
    whole: Path
    refused: "subprocess.CompletedProcess[str]"
    ended: "subprocess.CompletedProcess[str]"
    last: "subprocess.CompletedProcess[str]"
    #: The trials that had ended when the search was killed.
    before: list[optuna.trial.FrozenTrial]

    @property
    def results(self) -> Path:
        return only_results(self.folder)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    folder, whole = tmp_path_factory.mktemp("broken"), tmp_path_factory.mktemp("whole")
    values = load_values()
    several_at_a_time(values)
    for place in (folder, whole):
        (place / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    unbroken = run_search("--space", "tiny.yaml", "--no-dashboard", folder=whole)
    assert unbroken.returncode == 0, unbroken.stdout + unbroken.stderr

    # Killed in the middle of a trial, one of which has ended; the power is cut while a line is written.
    search = start_search("--space", "tiny.yaml", "--no-dashboard", folder=folder)
    wait_for_file(search, folder, "results/*/trials.csv")
    wait_for_file(search, folder, "results/*/checkpoints/*/state.pt")
    search.kill()
    finish(search)
    results = only_results(folder)
    before = [trial for trial in load_study(results).trials if trial.state.is_finished()]
    with (results / "study.journal").open("a") as journal:
        journal.write('{"op_code":6,"worker_id":"a", "trial')
    (results / "best").mkdir()
    (results / "best" / "model.pt.part").write_text("half a model")

    # It goes on; another one is refused meanwhile; SLURM says that the time is over, in the confirmation.
    search = start_search("--resume", results.relative_to(folder), "--no-dashboard", folder=folder)
    wait_for_file(search, folder, "results/*/study.journal.torn-1")
    second = start_search("--resume", results, "--no-dashboard", folder=folder)
    wait_for_file(search, folder, "results/*/confirmation.json")
    search.send_signal(signal.SIGUSR1)
    refused = finish(second)
    ended = finish(search)

    # It goes on as it says that it does.
    command = shlex.split(ended.stdout.splitlines()[-1].split("goes on with: ")[-1])
    assert command[1:3] == ["-m", "tune.search"], ended.stdout + ended.stderr
    last = run_search(*command[3:], "--no-dashboard", folder=folder)
    return Broken(folder, only_results(whole), refused, ended, last, before)


def test_a_search_that_was_broken_equals_an_unbroken_one(broken: Broken) -> None:
    assert broken.ended.returncode == 130, broken.ended.stdout + broken.ended.stderr
    assert broken.last.returncode == 0, broken.last.stdout + broken.last.stderr
    assert broken.ended.stderr == broken.last.stderr == ""
    assert (broken.results / "trials.csv").read_text() == (broken.whole / "trials.csv").read_text()
    trials, expected = load_study(broken.results).trials, load_study(broken.whole).trials
    for trial, other in zip(trials, expected, strict=True):
        assert (trial.state, trial.params, trial.values) == (other.state, other.params, other.values)
        assert trial.intermediate_values == other.intermediate_values
        assert trial.user_attrs == other.user_attrs
        assert trial.system_attrs == other.system_attrs
    for name in ("confirmation.json", "baselines.json", "best/metrics.json", "best/config.toml", "space.yaml"):
        assert (broken.results / name).read_text() == (broken.whole / name).read_text(), name
    model, other = (torch.load(folder / "best/model.pt") for folder in (broken.results, broken.whole))
    assert model["logs"] == other["logs"]
    assert all(torch.equal(weight, other["model_state_dict"][key]) for key, weight in model["model_state_dict"].items())


def test_what_had_ended_is_not_run_again(broken: Broken) -> None:
    assert broken.before
    after = {trial.number: trial for trial in load_study(broken.results).trials}
    assert [after[trial.number] for trial in broken.before] == broken.before
    counts = f"{len(broken.before)} trials have ended, 1 had started, {3 - len(broken.before)} to come"
    assert counts in broken.ended.stdout
    ran = [line.split()[2] for line in broken.ended.stdout.splitlines() if line.startswith("[") and " trial " in line]
    assert not {str(trial.number) for trial in broken.before} & set(ran)


def test_a_second_search_in_the_folder_is_refused(broken: Broken) -> None:
    assert broken.refused.returncode == 2
    (line,) = broken.refused.stderr.splitlines()
    assert line.startswith("tune.search: ")
    assert "a search is running in this folder" in line


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_study_that_is_lost_does_not_begin_anew(
    broken: Broken, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    results = tmp_path / "results"
    shutil.copytree(broken.whole, results)
    (results / "study.journal").unlink()
    if damage == "empty":
        (results / "study.journal").touch()
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    line = refusal_of(["--resume", str(results)], capsys)
    assert f"study.journal: is {damage}, though there is trials.csv; restore it from a copy" in line
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_the_folder_is_as_tidy_as_that_of_an_unbroken_search(broken: Broken) -> None:
    def files(folder: Path) -> set[str]:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith("tensorboard/")}

    assert files(broken.results) - {"study.journal.torn-1"} == files(broken.whole)
    size = sum(path.stat().st_size for path in broken.results.rglob("*") if path.is_file())
    (disk,) = (line for line in broken.last.stdout.splitlines() if line.startswith("disk "))
    assert float(disk.split()[1]) == pytest.approx(size / 1e6, abs=0.1)


def test_a_finished_search_is_only_written_down_again(broken: Broken) -> None:
    for name in ("trials.csv", "best/metrics.json", "report/index.html", "confirmation.json"):
        (broken.whole / name).unlink()
    run = run_search("--resume", broken.whole, folder=broken.folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "dashboard" not in run.stdout  # nor Ray at all
    for name in ("trials.csv", "best/metrics.json", "confirmation.json"):
        assert (broken.whole / name).read_text() == (broken.results / name).read_text()


def test_a_trial_and_a_repeat_are_repeated_bit_for_bit(broken: Broken) -> None:
    rows = {row["state"]: row for row in trials_table(broken.folder)}
    (confirmed,) = json.loads((broken.results / "confirmation.json").read_text())["candidates"]
    for arguments, count in (
        ((rows["PRUNED"]["number"],), "2 values of its curve"),
        ((confirmed["trial"], "--repeat", 2), "identical"),
    ):
        run = run_module("tune.rerun", broken.results, "--trial", *arguments, folder=broken.folder)
        assert run.returncode == 0, run.stdout + run.stderr
        assert count in run.stdout.splitlines()[-1]


def test_more_trials_extend_a_search_and_its_confirmation(broken: Broken, tmp_path: Path) -> None:
    shutil.copytree(broken.results, tmp_path / "results" / broken.results.name)
    results = only_results(tmp_path)
    before = json.loads((results / "confirmation.json").read_text())
    run = run_search("--resume", results, "--add-trials", 2, "--no-dashboard", folder=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 trials have ended, 0 had started, 2 to come" in run.stdout
    assert yaml.safe_load((results / "space.yaml").read_text())["trials"] == 6
    rows = trials_table(tmp_path)
    assert [row["number"] for row in rows] == [str(number) for number in range(6)]
    assert rows[:4] == trials_table(broken.folder)
    after = json.loads((results / "confirmation.json").read_text())
    best = max((row for row in rows if row["state"] == "COMPLETE"), key=lambda row: float(row["work_gain"]))
    # The best of all now, and who held out before.
    candidates = list(dict.fromkeys([int(best["number"]), before["winner"]]))
    assert [candidate["trial"] for candidate in after["candidates"]] == candidates
    if len(candidates) == 1:
        assert after["candidates"] == before["candidates"]  # nothing was run again


#: The number of a trial that is to fail.
FAILS = 2


def drive(study: SearchStudy) -> None:
    """Run a study to its end on analytic learning curves, one trial after the other, as a search does."""
    waiting = study.unfinished()
    while waiting or len(study.records()) < study.space.trials:
        proposal = waiting.pop(0) if waiting else study.ask()
        if proposal.number == FAILS:
            study.fail(proposal.number, 2, "it raised")
            continue
        for epoch in (1, 2, 3, 4):
            gain = epoch / 4 - abs(math.log10(proposal.config.lr) + 2.5)
            study.report(proposal.number, epoch, {"work_gain": gain, "rel_dE": 1e-3})
            if study.should_prune(proposal.number):
                break
        study.finish(proposal.number, epoch)


@pytest.mark.parametrize("several", [False, True], ids=["one objective", "two"])
def test_a_study_may_be_cut_after_any_line(write_space: Callable[..., Path], tmp_path: Path, several: bool) -> None:
    """Killed between any two entries of its journal, a study ends as if it had not been."""

    def change(values: dict[str, Any]) -> None:
        values["trials"] = 4
        values["forbid"] = [{"feature_type": "rich"}]
        if several:
            values["objectives"] = ["work_gain", "rel_dE"]

    space = load_space(write_space(change))
    whole = tmp_path / "whole"
    drive(SearchStudy(space, whole, "test"))
    expected = SearchStudy(space, whole, "test", reading=True)
    assert {"COMPLETE", "PRUNED", "FAIL"} == {record.state for record in expected.records()}
    lines = whole.read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        cut = tmp_path / f"cut-{count}"
        cut.write_bytes(b"".join(lines[:count]))
        study = SearchStudy(space, cut, "test")
        drive(study)
        assert study.records() == expected.records(), lines[count]
        for one, other in zip(study.trials, expected.trials, strict=True):
            assert (one.params, one.values, one.system_attrs) == (other.params, other.values, other.system_attrs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "nowhere: not the results of a search (there is no space.yaml in it)"),
        (["--resume", "x" * 5000], "not the results of a search (File name too long); give a folder such as"),
        (["--resume", "x", "--space", "quick"], "--space cannot be given with --resume"),
        (["--resume", "x", "--trials", "9"], "--trials cannot be given with --resume, which runs"),
        (["--resume", "x", "--seed", "9"], "--seed cannot be given with --resume"),
        (["--space", "quick", "--trials", "9" * 5000], "9..., but must be a whole number >= 1, of at most 18 digits"),
        (["--space", "quick", "--trials", ""], "--trials: the value is empty, but must be a whole number >= 1"),
        (["--space", "quick", "--add-trials", "2"], "--add-trials is for a search that has been"),
        ([], "the following arguments are required: --space, or --resume"),
    ],
)
def test_what_contradicts_a_resumed_search_is_refused(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal_of(arguments, capsys)
    assert list(here.iterdir()) == []
