"""Every sampler through the same tests: seeded, resumable at any trial, nothing run twice, conditions respected."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tests.tune.searches import load_study_of
from tests.tune.stand_in import distance, run
from tune.space import Space, load_space
from tune.study import SearchStudy

SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "cmaes": {"popsize": 4},
    "nsga2": {"population_size": 3},
    "random": {},
    "qmc": {},
    "halton": {"name": "qmc", "qmc_type": "halton"},
    "grid": {},
}
GRID = {"energy_threshold": {"float": [1e-4, 1e-3], "log": True, "step": 10**0.5}, "lr": {"choice": [1e-3, 6e-3]}}

Make = Callable[..., Space]


@pytest.fixture
def make_space(write_space: Callable[..., Path]) -> Make:
    def make(name: str, **changes: Any) -> Space:
        def change(values: dict[str, Any]) -> None:
            sampler = {"name": name} | SAMPLERS.get(name, {})
            values |= {"sampler": sampler, "trials": 100, "scheduler": "none", **changes}
            values["fixed"]["evaluate_every"] = 2
            if name == "grid" and "parameters" not in changes:
                values["parameters"] |= GRID

        return load_space(write_space(change))

    return make


def text(settings: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in settings.items() if key != "seed"}, sort_keys=True, default=list)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_seeded_and_goes_on_at_any_trial(name: str, make_space: Make, tmp_path: Path) -> None:
    space = make_space(name, scheduler={"name": "median", "n_startup_trials": 2})
    unbroken = run(SearchStudy(space, None, "test"), 9)
    broken = [one for count in (1, 5, 3) for one in run(SearchStudy(space, tmp_path / "b", "test"), count)]
    assert broken == unbroken
    other = run(SearchStudy(space.changed(seed=4), tmp_path / "c", "test"), 3)
    assert [text(one) for one in other] != [text(one) for one in unbroken[:3]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_trial_that_was_being_proposed_at_a_crash_is_the_same(name: str, make_space: Make, tmp_path: Path) -> None:
    space, journal = make_space(name), tmp_path / "journal"
    unbroken = run(SearchStudy(space, None, "test"), 7)
    run(SearchStudy(space, journal, "test"), 6)
    whole = journal.read_bytes()
    SearchStudy(space, journal, "test").ask()
    lines = journal.read_bytes()[len(whole) :].splitlines(keepends=True)
    for kept in range(1, len(lines), 2):
        journal.write_bytes(whole + b"".join(lines[:kept]))
        study = SearchStudy(space, journal, "test")
        proposals = study.unfinished() or [study.ask()]
        assert [one.config.to_dict() for one in proposals] == [unbroken[6]], lines[kept - 1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_configuration_is_run_twice_and_conditions_are_respected(
    name: str, make_space: Make, tmp_path: Path
) -> None:
    coarse = {
        "history_len": {"int": [0, 2], "when": {"feature_type": {"delta_mag": [1, 2]}}},
        "feature_type": {"choice": ["basic", "delta_mag"]},
        "lr": {"choice": [1e-3, 6e-3]},
    }
    space = make_space(name, parameters=coarse)
    study = SearchStudy(space, tmp_path / "journal", "test")
    settings = run(study, 100)
    assert len(settings) == len(set(map(text, settings))) == 2 * (3 + 2)  # all there are
    assert study.over == "every configuration of the space has been tried"
    assert all(one["history_len"] >= 1 for one in settings if one["feature_type"] == "delta_mag")
    assert [record.state for record in study.records()] == ["COMPLETE"] * len(settings)
    again = [trial for trial in load_study_of(tmp_path / "journal").trials if "skipped" in trial.user_attrs]
    assert all(trial.state.name == "FAIL" and "the same as trial" in trial.user_attrs["skipped"] for trial in again)
    assert not again or name not in ("grid",)


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "nsga2"])
def test_a_sampler_learns(name: str, make_space: Make, tmp_path: Path) -> None:
    """What it proposes late is better than what it proposes early, in the mean."""
    space = make_space(name)
    study = SearchStudy(space, tmp_path / "journal", "test")
    run(study, 24)
    away = [distance(study.config(record)) for record in study.records()]
    assert sum(away[16:]) < 0.8 * sum(away[:8])


def test_qmc_fills_the_space_evenly(make_space: Make, tmp_path: Path) -> None:
    study = SearchStudy(make_space("qmc"), tmp_path / "journal", "test")
    run(study, 16)
    places = [math.log10(record.parameters["lr"] / 1e-3) for record in study.records()]  # from 1e-3 to 1e-2
    assert sorted(int(16 * place) for place in places) == list(range(16))  # one in each sixteenth


def test_cmaes_keeps_no_pickle_and_takes_a_limit_as_worse_than_any_score(make_space: Make, tmp_path: Path) -> None:
    study = SearchStudy(make_space("cmaes"), tmp_path / "journal", "test")
    for _ in range(24):  # the best scores are where the error is too large
        proposal = study.ask()
        gain = proposal.config.energy_threshold * 1e3
        study.report(proposal.number, 4, {"work_gain": gain, "rel_dE": 1e-2 if gain > 0.3 else 1e-3})
        study.finish(proposal.number, 4)
    assert b"optimizer" not in (tmp_path / "journal").read_bytes()
    late = [record.parameters["energy_threshold"] for record in study.records()[16:]]
    assert all(value < 4.5e-4 for value in late)  # close to the limit, and not at the upper end, 1e-3


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2", "random", "qmc", "grid"])
def test_several_objectives(name: str, make_space: Make, tmp_path: Path) -> None:
    space = make_space(name, objectives=["work_gain", "steps_per_orbit"])
    study = SearchStudy(space, tmp_path / "journal", "test")
    run(study, 8)
    front = {trial.number for trial in load_study_of(tmp_path / "journal").best_trials}
    assert {record.number for record in study.records() if record.pareto} == front


BAD = {
    "several objectives": (
        {"objectives": ["work_gain", "rel_dE"]},
        "cmaes",
        "`sampler` is cmaes, but must be one that",
    ),
    "a grid without steps": (
        {"parameters": {"lr": {"float": [1e-3, 1e-2]}}},
        "grid",
        "`parameters.lr` has too many values for `sampler: grid`",
    ),
    "an unknown option": ({"sampler": {"name": "gp", "kernel": "rbf"}}, "gp", "The key `sampler.kernel` is unknown"),
    "two kinds of covariance": (
        {"sampler": {"name": "cmaes", "use_separable_cma": True, "lr_adapt": True}},
        "cmaes",
        "`use_separable_cma` and `lr_adapt` are both true",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_sampler_cannot_do_is_refused(case: str, write_space: Callable[..., Path]) -> None:
    changes, name, message = BAD[case]
    with pytest.raises(UserError, match=message):
        load_space(write_space(lambda values: values.update({"sampler": name} | changes)))


def test_the_space_says_what_is_drawn_at_random(make_space: Make) -> None:
    assert make_space("tpe").drawn_at_random == []
    assert make_space("gp").drawn_at_random == ["history_len"]
    assert make_space("cmaes").drawn_at_random == ["history_len", "feature_type"]
