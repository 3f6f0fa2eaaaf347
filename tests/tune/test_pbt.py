"""Population-based training: the rules, and a whole search."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import UserError
from tests.tune.searches import load_study, only_results, run_search, trials_table
from tune.population import Population, explored, quantiles
from tune.space import Space, load_space
from tune.study import SearchStudy


def population(values: dict[str, Any]) -> None:
    values["parameters"] = {
        "lr": {"float": [1e-3, 1e-2], "log": True},
        "energy_threshold": {"float": [1e-4, 1e-3], "log": True},
        "replay_batch_size": {"int": [8, 32], "log": True, "step": 2},
        "timid_fraction": {"choice": [0.3, 0.5, 0.7]},
    }
    values["scheduler"] = {"name": "pbt", "perturbation_interval": 2}
    values["fixed"] = {key: one for key, one in values["fixed"].items() if key != "replay_batch_size"}
    values["fixed"] |= {"epochs": 6, "evaluate_every": 1}
    del values["sampler"]


@pytest.fixture
def space(write_space: Callable[..., Path]) -> Space:
    return load_space(write_space(population))


def test_the_worst_share_and_the_best_share() -> None:
    merits = {0: 3.0, 1: 1.0, 2: math.nan, 3: 2.0, 4: 5.0, 5: 4.0}
    assert quantiles(merits, 0.25) == ({2, 1}, [5, 4])
    assert quantiles(merits, 0.5) == ({2, 1, 3}, [0, 5, 4])
    assert quantiles({0: 1.0}, 0.5) == (set(), [])


def test_parameters_move_by_a_fifth_or_to_the_next_choice_or_anew(space: Space) -> None:
    start = {"lr": 2e-3, "energy_threshold": 9e-4, "replay_batch_size": 16, "timid_fraction": 0.3}
    moved = [explored(space, start, 0.0, np.random.default_rng(seed)) for seed in range(40)]
    assert {round(one["lr"], 10) for one in moved} == {2.4e-3, 1.6e-3}
    assert {round(one["energy_threshold"], 10) for one in moved} == {1e-3, 7.2e-4}  # within its range
    assert {one["replay_batch_size"] for one in moved} == {16}  # the nearest of 8, 16 and 32
    assert {one["timid_fraction"] for one in moved} == {0.3, 0.5}
    anew = [explored(space, start, 1.0, np.random.default_rng(seed)) for seed in range(40)]
    assert len({one["lr"] for one in anew}) == 40
    assert {one["replay_batch_size"] for one in anew} == {8, 16, 32}


def test_a_trial_among_the_worst_takes_over_one_of_the_best(space: Space, tmp_path: Path) -> None:
    study = SearchStudy(space, tmp_path / "journal", "test")
    rules = Population(study)
    members = [study.ask().number for _ in range(4)]
    first = [study.record(number).parameters for number in members]
    for gain, number in zip((1.0, 1.3, 0.7, 1.1), members, strict=True):
        for epoch in (1, 2):
            study.report(number, epoch, {"work_gain": gain, "rel_dE": 1e-3})
            assert not study.should_prune(number)
    assert [rules.is_turn(0, epoch) for epoch in (1, 2, 3, 8)] == [False, True, False, False]
    assert [rules.donor(number, 2) for number in members] == [None, None, 1, None]
    config = rules.adopt(2, 1, 2)
    steps = study.schedule(2)
    assert [(step["epoch"], step["from"]) for step in steps] == [(0, None), (2, 1)]
    assert [step["parameters"] for step in steps] == [first[2], study.record(2).parameters]
    assert config.lr == study.record(2).parameters["lr"] != first[2]["lr"]
    study.finish(1, 2)  # a trial that has ended has no training to be taken over
    assert rules.donor(2, 2) is None
    again = SearchStudy(space, tmp_path / "journal", "test")
    assert {proposal.number: proposal.config for proposal in again.unfinished()}[2] == config


def test_a_population_is_trained(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """All members advance in turn on two cores, and every one stays one trial to its end."""
    search = run_search("--space", write_space(population), "--no-dashboard", "--quiet", folder=tmp_path)
    assert search.returncode == 0, search.stdout + search.stderr
    assert search.stderr == ""
    lines = search.stdout.strip().splitlines()  # the result alone
    assert lines[0].startswith("6 trials: ")
    assert lines[-1].startswith("simulate ")
    assert not any(line.startswith(("[", "space", "question")) for line in lines)
    assert "drawing the figures" not in search.stdout
    rows, trials = trials_table(tmp_path), load_study(only_results(tmp_path)).trials
    assert [row["state"] for row in rows] == [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    changed = [trial for trial in trials if "schedule" in trial.user_attrs]
    assert changed
    for trial, row in zip(trials, rows, strict=True):
        assert list(trial.intermediate_values)[-1] == 6
        assert trial.user_attrs["parameters"]["lr"] == float(row["lr"])
    for trial in changed:
        first, *steps = trial.user_attrs["schedule"]
        assert first["parameters"]["lr"] == trial.params["lr"]
        assert steps[-1]["parameters"] == trial.user_attrs["parameters"]
        assert all(step["epoch"] in (2, 4) and step["from"] != trial.number for step in steps)


def put(**entries: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        population(values)
        values |= entries

    return change


LR = {"float": [1e-3, 1e-2]}
BAD = {
    "a sampler": (put(sampler="tpe"), "`sampler` is tpe, but must be left out with `scheduler: pbt`"),
    "an architecture": (
        put(parameters={"lr": LR, "activation": {"choice": ["tanh", "silu"]}}),
        "`parameters.activation` cannot be searched with `scheduler: pbt`",
    ),
    "a repeat": (put(confirm={}), "`confirm` cannot stand beside `scheduler: pbt`"),
    "some at a time": (put(max_concurrent=2), "`max_concurrent` cannot stand beside `scheduler: pbt`"),
    "between scores": (
        lambda values: [population(values), values["fixed"].update(evaluate_every=4)],
        r"`scheduler.perturbation_interval` is 2, but must be a multiple of evaluate_every \(4\)",
    ),
    "one trial": (put(trials=1), "`trials` is 1, but must be at least 2 with `scheduler: pbt`"),
    "an interval as long as a trial": (
        put(scheduler={"name": "pbt", "perturbation_interval": 100}),
        r"is 100, but it must be below epochs \(6\), or no trial ever takes over another's training",
    ),
    "no interval": (put(scheduler="pbt"), "`scheduler.perturbation_interval` is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_population_cannot_do_is_refused(case: str, write_space: Callable[..., Path]) -> None:
    change, message = BAD[case]
    with pytest.raises(UserError, match=message):
        load_space(write_space(change))
