"""Every scheduler on learning curves that are formulas, read back with Optuna itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tests.tune.searches import load_study_of
from tests.tune.stand_in import epochs_run, run
from tune.space import Space, load_space
from tune.study import SearchStudy

SCHEDULERS: dict[str, dict[str, Any]] = {
    "asha": {"reduction_factor": 2},
    "hyperband": {"reduction_factor": 2},
    "median": {"n_startup_trials": 3, "n_warmup_steps": 2},
    "none": {},
}

Make = Callable[..., Space]


@pytest.fixture
def make_space(write_space: Callable[..., Path]) -> Make:
    def make(name: str, **changes: Any) -> Space:
        def change(values: dict[str, Any]) -> None:
            values |= {"scheduler": {"name": name} | SCHEDULERS[name], "sampler": "random", **changes}
            values["fixed"] |= {"epochs": 8, "evaluate_every": 1}

        return load_space(write_space(change))

    return make


@pytest.mark.parametrize("objectives", [["work_gain"], ["work_gain", "steps_per_orbit"]], ids=["one", "several"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_stopped_trials_are_pruned_with_their_curves(
    name: str, objectives: list[str], make_space: Make, tmp_path: Path
) -> None:
    """The first objective decides, however many there are; a search that goes on decides as an unbroken one."""
    space = make_space(name, objectives=objectives)
    study = SearchStudy(space, tmp_path / "journal", "test")
    run(study, 24)
    states = [record.state for record in study.records()]
    assert states.count("COMPLETE") + states.count("PRUNED") == 24
    assert (states.count("PRUNED") >= 6) == (name != "none")
    for trial, record in zip(load_study_of(tmp_path / "journal").trials, study.records(), strict=True):
        curve = trial.intermediate_values if len(objectives) == 1 else trial.user_attrs["curve"]
        assert [int(epoch) for epoch in curve] == list(range(1, record.epochs + 1))
        assert (trial.state.name == "COMPLETE") == (record.epochs == 8)
        assert record.epochs >= (2 if name == "median" else 1)
    broken = tmp_path / "broken"
    for count in (9, 15):
        run(SearchStudy(space, broken, "another name"), count)  # the name has the date in it
    assert [record.epochs for record in SearchStudy(space, broken, "").records()] == [
        record.epochs for record in study.records()
    ]


def test_the_stopped_ones_are_the_worse_ones(make_space: Make) -> None:
    for name in ("asha", "hyperband", "median"):
        study = SearchStudy(make_space(name), None, "test")
        run(study, 24)
        full = SearchStudy(make_space("none"), None, "test")
        run(full, 24)
        assert study.best(1)[0].parameters == full.best(1)[0].parameters, name
        assert epochs_run(study) < 0.75 * epochs_run(full), name


BAD = {
    "hyperband that stops nothing": (
        {"name": "hyperband", "min_resource": 8},
        "`scheduler.min_resource` is 8, but it must be below epochs",
    ),
    "hyperband of more epochs": (
        {"name": "hyperband", "max_resource": 9},
        r"`scheduler.max_resource` is 9, but must be at most epochs \(8\); or leave",
    ),
    "hyperband that begins after its end": (
        {"name": "hyperband", "min_resource": 5, "max_resource": 4},
        r"`scheduler.min_resource` is 5, but must be at most max_resource \(4\)",
    ),
    "median that stops nothing": (
        {"name": "median", "n_warmup_steps": 8},
        "`scheduler.n_warmup_steps` is 8, but it must be below epochs",
    ),
    "an option of another one": ({"name": "median", "reduction_factor": 2}, "`scheduler.reduction_factor` is unknown"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_stops_nothing_is_refused(case: str, make_space: Make) -> None:
    scheduler, message = BAD[case]
    with pytest.raises(UserError, match=message):
        make_space("asha", scheduler=scheduler)
