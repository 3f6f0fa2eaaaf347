"""What is run first, what is never run, and when a search ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tests.tune.searches import load_study_of, only_results, run_search, trials_table
from tests.tune.stand_in import run, scores_at
from tune.duration import seconds
from tune.search import main
from tune.space import Space, load_space
from tune.study import SearchStudy
from tune.warm_start import WarmStart, take_over

GOOD = [
    {"feature_type": "delta_mag", "history_len": 2, "lr": 5e-3, "energy_threshold": 3e-4},
    {"lr": 2e-3},
    {"feature_type": "basic", "history_len": 0},
]


def space_of(write_space: Callable[..., Path], **changes: Any) -> Space:
    return load_space(write_space(lambda values: values.update({"scheduler": "none", **changes})))


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "cmaes"])
def test_what_is_known_to_be_good_is_run_first(sampler: str, write_space: Callable[..., Path], tmp_path: Path) -> None:
    space = space_of(write_space, enqueue=GOOD, sampler=sampler).changed(enqueue=[*GOOD, GOOD[0]])
    settings = run(SearchStudy(space, tmp_path / "journal", "test"), 2)
    settings += run(SearchStudy(space, tmp_path / "journal", "test"), 3)  # goes on with what is left of them
    for entry, own in zip(GOOD, settings, strict=False):
        assert {key: own[key] for key in entry} == entry
    assert settings[3]["lr"] != GOOD[0]["lr"]  # the first one again is not run again
    assert load_space(write_space(lambda values: values.update(enqueue=GOOD))).enqueue == GOOD


def test_a_warm_start_teaches_the_sampler_and_the_pruner_and_is_no_trial(
    write_space: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "older"
    older.mkdir()
    stopping = space_of(write_space, scheduler={"name": "asha", "reduction_factor": 2})
    (older / "space.yaml").write_text(stopping.to_yaml())
    study = SearchStudy(stopping, older / "study.journal", "older")
    run(study, 20)
    study.fail(study.ask().number, 1, "the loss is not finite")
    journal = (older / "study.journal").read_bytes()
    before = {record.number: record for record in study.records()}

    # Another range of lr, a fixed history, and the other objective.
    def change(values: dict[str, Any]) -> None:
        values |= {"objective": "steps_per_orbit", "warm_start": str(older), "sampler": {"name": "tpe"}}
        values["parameters"]["lr"]["float"] = [2e-3, 2e-2]

    file = write_space(change)
    space = load_space(file)
    warm = WarmStart.of(space)
    assert (len(warm.trials), warm.left_out) == (21, 0)
    new = SearchStudy(space, tmp_path / "journal", "test")
    take_over(new, warm)
    assert (older / "study.journal").read_bytes() == journal
    assert new.records() == []
    for trial, (number, record) in zip(load_study_of(tmp_path / "journal").trials, before.items(), strict=True):
        assert trial.user_attrs["origin"] == f"older, trial {number}"
        assert trial.state.name == record.state
        assert trial.params.get("lr") == (record.parameters["lr"] if record.parameters["lr"] >= 2e-3 else None)
        if record.state == "COMPLETE":
            assert trial.value == record.scores["steps_per_orbit"]
        if record.state == "PRUNED":
            assert trial.intermediate_values == {record.epochs: record.scores["steps_per_orbit"]}
    assert any("completed_rung_0" in trial.system_attrs for trial in load_study_of(tmp_path / "journal").trials)
    first_own = new.ask()
    assert first_own.number == 21
    assert main(["--space", str(file), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"# warm start from 21 trials of {older}\n# trial 21, seed {first_own.config.seed}: " in shown
    first = [one["lr"] for one in run(new, 8)]  # ten random trials would come first, had it not been taught
    assert max(first) / min(first) < 10

    loose = WarmStart.of(space.changed(sampler=load_space(write_space(lambda v: v.update(sampler="gp"))).sampler))
    assert loose.left_out == sum(record.parameters["lr"] < 2e-3 for record in before.values())


def test_an_older_search_over_other_systems_is_refused(write_space: Callable[..., Path], tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    other = load_space(write_space(lambda values: values["fixed"].update(e_max=0.7)))
    (older / "space.yaml").write_text(other.to_yaml())
    SearchStudy(other, older / "study.journal", "older").ask()
    with pytest.raises(UserError, match=r"whose `e_max` is 0.7, but must be a search over the same systems"):
        WarmStart.of(space_of(write_space, warm_start=str(older)))
    with pytest.raises(UserError, match=r"The value of `warm_start` cannot be used: .*nowhere"):
        WarmStart.of(space_of(write_space, warm_start=str(tmp_path / "nowhere")))


def test_patience_ends_a_search_and_still_does_when_it_goes_on(
    write_space: Callable[..., Path], tmp_path: Path
) -> None:
    space = space_of(write_space, patience=3, sampler="random")
    study = SearchStudy(space, tmp_path / "journal", "test")
    for gain in (1.0, 1.2, 1.1, 1.15):
        assert study.over is None
        proposal = study.ask()
        study.report(proposal.number, 4, {**scores_at(proposal.config, 4), "work_gain": gain})
        study.finish(proposal.number, 4)
    study.fail(study.ask().number, 1, "it failed")
    assert study.over == "3 trials in a row have brought no better best"
    assert SearchStudy(space, tmp_path / "journal", "test").over == study.over


def test_durations() -> None:
    texts = [90, 1.5, "90s", "30min", " 2 h ", "1.5h", "1d"]
    assert [seconds(text) for text in texts] == [90, 1.5, 90, 1800, 7200, 5400, 86400]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no duration": ({"time_budget": "2 weeks"}, "In `time_budget`: it is 2 weeks, but must be seconds"),
    "no time": ({"time_budget": 0}, "In `time_budget`: it is 0, but must be seconds"),
    "no patience": ({"patience": 0}, "`patience` is 0, but must be"),
    "too many": ({"enqueue": GOOD, "trials": 1}, "`trials` is 1, but must be at least 3, the number of configurations"),
    "an unknown key": ({"enqueue": [{"l": 1e-3}]}, "Number 1 of `enqueue` has `l`, which is no parameter of this"),
    "empty": ({"enqueue": [{}, {"lr": 1}]}, "Number 1 of `enqueue` names no parameter"),
    "outside": ({"enqueue": [{"lr": 1}]}, r"has 1 for `lr`, but must have a value of \[0.001, 0.01\]"),
    "alone": ({"enqueue": [{"history_len": 1}]}, "has `history_len`, which depends on `feature_type`"),
    "twice": (
        {"enqueue": [*GOOD[:2], {**dict(reversed(GOOD[0].items())), "history_len": 2}]},
        "Number 3 of `enqueue` is the same configuration as number 1; remove one of the two",
    ),
    "forbidden": (
        {"enqueue": [{"feature_type": "rich"}], "forbid": [{"feature_type": "rich"}]},
        "Number 1 of `enqueue` is a combination that `forbid` does not allow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_one_line(case: str, write_space: Callable[..., Path]) -> None:
    changes, message = BAD[case]
    with pytest.raises(UserError, match=message) as refusal:
        load_space(write_space(lambda values: values.update(changes)))
    assert "\n" not in str(refusal.value)


def test_a_time_budget_ends_a_search_in_good_order(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """What runs saves and can go on, in a search that has the budget again; it takes over nothing that it has."""

    def change(values: dict[str, Any]) -> None:
        values["fixed"] |= {"hidden_dims": [64, 64], "num_orbits": 8, "epochs": 60, "evaluate_every": 10}
        values |= {"trials": 1000, "scheduler": "none", "time_budget": "4s", "enqueue": [{"lr": 2e-3}]}

    search = run_search("--space", write_space(change), "--max-concurrent", 1, "--no-dashboard", folder=tmp_path)
    assert search.returncode in (0, 1), search.stdout + search.stderr  # 1 if no trial ended on a slow machine
    assert search.stderr == ""
    assert "first       1 configurations that are known to be good" in search.stdout
    assert "ends after  0:04 of time" in search.stdout
    assert "The time budget is over after " in search.stdout
    rows = trials_table(tmp_path)
    assert 1 <= len(rows) < 1000
    assert float(rows[0]["lr"]) == 2e-3
    unfinished = [row["number"] for row in rows if row["state"] == "RUNNING" and int(row["epochs"])]
    saved = only_results(tmp_path) / "checkpoints"
    assert all((saved / f"{int(number):05d}" / "state.pt").exists() for number in unfinished)
