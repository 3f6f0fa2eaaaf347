"""Forbidden combinations are never run, and limits on results count wherever trials are compared."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from core.errors import UserError
from tune.confirmation import Confirmation
from tune.constraints import Constraint
from tune.folder import SearchFolder
from tune.proposals import SKIPPED
from tune.ranking import Ranking
from tune.report.write import write_report
from tune.space import Space, load_space
from tune.study import SearchStudy
from tune.tables import trials_table

FORBID = [{"feature_type": ["basic", "rich"], "history_len": [1, 3]}, {"energy_threshold": [2e-4, 1e-3]}]


def with_entries(write_space: Callable[..., Path], **entries: Any) -> Space:
    return load_space(write_space(lambda values: values.update(entries)))


def read_back(journal: Path) -> optuna.Study:
    return optuna.load_study(study_name="test", storage=JournalStorage(JournalFileBackend(str(journal))))


def run(study: SearchStudy, count: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        proposal = study.ask()
        found.append(proposal.config.to_dict())
        study.report(proposal.number, 4, {"work_gain": proposal.config.lr, "rel_dE": 1e-3})
        study.finish(proposal.number, 4)
    return found


def test_what_is_forbidden_is_not_run_and_samplers_learn_it(
    write_space: Callable[..., Path], tmp_path: Path
) -> None:
    space = with_entries(write_space, forbid=FORBID)
    study = SearchStudy(space, tmp_path / "journal", "test")
    configs = run(study, 25)
    assert all(config["energy_threshold"] < 2e-4 for config in configs)
    assert all(config["feature_type"] == "delta_mag" or config["history_len"] == 0 for config in configs)
    records = study.records()
    assert len(records) == 25
    assert {record.state for record in records} == {"COMPLETE"}
    trials = read_back(tmp_path / "journal").trials
    skipped = [trial for trial in trials if SKIPPED in trial.user_attrs]
    assert [trial.number for trial in trials if trial not in skipped] == [record.number for record in records]
    assert all(trial.state == TrialState.PRUNED and trial.constraints["forbidden"] > 0 for trial in skipped)
    # About one random draw in ten is allowed: the sampler has learnt to keep away.
    assert len([trial for trial in skipped if trial.number > trials[-1].number // 2]) < len(skipped) / 2
    # Nothing depends on when the search was opened.
    again = SearchStudy(space, tmp_path / "again", "test")
    assert run(again, 10) + run(SearchStudy(space, tmp_path / "again", "test"), 15) == configs


def test_a_needle_in_the_haystack_is_found(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """All but one choice, and all but a thousandth of a range, are forbidden: no sampler finds that by itself."""
    rules = [{"feature_type": ["rich", "basic"]}, {"lr": [1e-3, 9.9999e-3]}]
    space = with_entries(write_space, forbid=rules, sampler="random")
    study = SearchStudy(space, tmp_path / "journal", "test")
    configs = run(study, 3)
    assert all(config["feature_type"] == "delta_mag" and config["lr"] > 9.9999e-3 for config in configs)
    assert len(read_back(tmp_path / "journal").trials) <= 3 * 11


def test_forbidding_what_cannot_be_makes_a_space_valid(write_space: Callable[..., Path]) -> None:
    def change(values: dict[str, Any]) -> None:
        del values["parameters"]["history_len"]["when"]
        values["forbid"] = [{"feature_type": "delta_mag", "history_len": 0}]

    assert load_space(write_space(change)).forbid


def test_lists_may_be_choices_themselves(write_space: Callable[..., Path]) -> None:
    def change(values: dict[str, Any]) -> None:
        del values["fixed"]["hidden_dims"]
        values["parameters"]["hidden_dims"] = {"choice": [[8], [8, 8], [16]]}
        values["forbid"] = [{"hidden_dims": [8, 8], "feature_type": "rich"}, {"hidden_dims": [[8]]}]

    space = load_space(write_space(change))
    assert space.forbids({"hidden_dims": [8, 8], "feature_type": "rich"})
    assert space.forbids({"hidden_dims": [8], "feature_type": "basic"})
    assert not space.forbids({"hidden_dims": [8, 8], "feature_type": "basic"})
    assert not space.forbids({"feature_type": "rich"})  # what is not drawn is not forbidden


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "everything forbidden": (
        {"forbid": [{"feature_type": ["basic", "rich"]}, {"history_len": [1, 3]}]},
        "The rules of `forbid` leave no configuration to try",
    ),
    "everything forbidden in pieces": (
        {"forbid": [{"lr": [1e-3, 4e-3]}, {"lr": [4e-3, 1e-2]}]},
        "leave no configuration",
    ),
    "forbidden key": ({"forbid": [{"n_steps": 1}]}, "Number 1 of `forbid` names `n_steps`, but must name parameters"),
    "forbidden choice": (
        {"forbid": [{"lr": 2e-3}, {"feature_type": "plain"}]},
        "Number 2 of `forbid` has plain for `feature_type`, but must have one of basic, rich, delta_mag, or a list",
    ),
    "forbidden range": ({"forbid": [{"lr": [1, 2]}]}, r"has \[1, 2\] for `lr`, but .* that meets \[0.001, 0.01\]"),
    "forbidden three": ({"forbid": [{"history_len": [1, 2, 3]}]}, "a number or an interval"),
    "forbidden nothing": ({"forbid": [{}]}, "Number 1 of `forbid` names no parameter"),
    "forbid is a mapping": ({"forbid": {"lr": 1e-3}}, "`forbid` is .*, but must be a list"),
    "no relation": ({"constraints": ["steps_per_orbit < 400"]}, "`constraints` has 'steps_per_orbit < 400', but must"),
    "no number": ({"constraints": ["steps_per_orbit <= e"]}, "but must have a score, `<=` or `>=`, and a number"),
    "unknown score": ({"constraints": ["step_per_orbit <= 4"]}, "`step_per_orbit` is unknown; did you mean `steps_per"),
    "contradiction": (
        {"constraints": ["violations <= 0.1", "violations >= 0.5"]},
        "No result can keep both `violations <= 0.1` and `violations >= 0.5`",
    ),
    "no such horizon": ({"constraints": ["rel_dE_100 <= 1e-2"]}, "`rel_dE_100` is not scored: `fixed.eval_periods`"),
    "log of nothing": ({"constraints": ["rel_dE <= 0"]}, "limit of `rel_dE <= 0` in `constraints` must be above 0"),
    "a number for a constraint": ({"constraints": [400]}, "`constraints.0` is 400, but must be text"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(case: str, write_space: Callable[..., Path]) -> None:
    entries, message = BAD[case]
    file = write_space(lambda values: values.update(entries))
    with pytest.raises(UserError, match=message) as refusal:
        load_space(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert "\n" not in str(refusal.value)


LIMITS = ["steps_per_orbit <= 400", "violations <= 0.02", "failed_orbits <= 0"]


def scores(gain: float, steps: float = 300, rel_dE: float = 1e-3, **others: float) -> dict[str, float]:
    found = {"work_gain": gain, "steps_per_orbit": steps, "rel_dE": rel_dE, "violations": 0.01, "failed_orbits": 0.0}
    return found | {"convergence_rate": 0.5} | others


def test_a_trial_beyond_a_limit_ranks_below_all_within_by_how_far_it_is(write_space: Callable[..., Path]) -> None:
    ranking = with_entries(write_space, constraints=LIMITS).ranking
    ordered = [
        scores(1.2),
        scores(1.1, 400, violations=0.02),
        scores(0.1),
        scores(2.0, 410),
        scores(3.0, 410, violations=0.03),
        scores(2.0, 500, rel_dE=6e-3, failed_orbits=1),
        scores(9.0, math.inf),
    ]
    merits = [ranking.merit(one) for one in ordered]
    assert merits == sorted(merits, reverse=True)
    assert len(set(merits)) == len(merits)
    assert [ranking.excess(one) <= 0 for one in ordered] == [True, True, True, False, False, False, False]
    assert ranking.broken(ordered[5]) == ["rel_dE <= 0.005", "steps_per_orbit <= 400", "failed_orbits <= 0"]
    assert ranking.excess(ordered[3]) == pytest.approx(math.log(410 / 400))
    assert ranking.excesses(scores(1, violations=0.03))["violations <= 0.02"] == pytest.approx(0.5)
    assert math.isnan(ranking.value(scores(1.0, violations=math.nan)))
    assert ranking.missing({"work_gain": 1.0, "rel_dE": 1e-3}) == "steps_per_orbit"


def test_a_lower_limit_is_one_too() -> None:
    ranking = Ranking(("rel_dE",), 1.0, (Constraint.parse("convergence_rate>=0.5"),))
    kept, broken = ({"rel_dE": 1e-3, "convergence_rate": rate} for rate in (0.5, 0.4))
    assert ranking.excess(kept) <= 0 < ranking.excess(broken)
    assert ranking.merit(kept) > ranking.merit(broken)


def test_limits_reach_optuna_the_tables_and_the_repeats(write_space: Callable[..., Path], tmp_path: Path) -> None:
    space = with_entries(write_space, constraints=LIMITS, confirm={"top": 3, "seeds": 2})
    study = SearchStudy(space, tmp_path / "journal", "test")
    for one in (scores(1.1), scores(2.0, 500), scores(1.0), {**scores(1.0), "violations": math.nan}):
        number = study.ask().number
        study.report(number, 4, one)
        study.finish(number, 4)
    trials = read_back(tmp_path / "journal").trials
    assert set(trials[1].constraints) == {"max_rel_dE", *LIMITS}
    assert trials[1].constraints["steps_per_orbit <= 400"] == pytest.approx(math.log(500 / 400))
    assert read_back(tmp_path / "journal").best_trial.number == 0
    assert study.records()[3].reason == "violations is NaN"
    assert [record.number for record in study.best(5)] == [0, 2, 1]
    lines = trials_table(study.best(5), study.ranking).splitlines()
    assert {"steps_per_orbit", "violations", "failed_orbits"} <= set(lines[0].split())
    assert [line.endswith("beyond steps_per_orbit <= 400") for line in lines[1::2]] == [False, False, True]
    confirmation = Confirmation(study)
    assert confirmation.due() == [(0, 1), (2, 1)]
    confirmation.end(0, 1, 4, scores(1.1, 600), scores(1.1))
    confirmation.end(2, 1, 4, scores(1.0), scores(1.0))
    assert confirmation.survivors() == [2]


def test_the_sampler_keeps_away_from_what_breaks_a_limit(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """Trials with too many steps are best in all else."""
    space = with_entries(write_space, constraints=["steps_per_orbit <= 400"])
    study = SearchStudy(space, tmp_path / "journal", "test")
    for _ in range(40):
        proposal = study.ask()
        many = proposal.config.energy_threshold > 4e-4
        distance = abs(math.log10(proposal.config.energy_threshold) + 3.6)
        study.report(proposal.number, 4, scores(5.0 if many else 2 - distance, 900 if many else 300))
        study.finish(proposal.number, 4)
    assert sum(record.scores["steps_per_orbit"] > 400 for record in study.records()[20:]) <= 6


def test_a_report_shows_limits_gaps_and_no_skipped_proposal(write_space: Callable[..., Path], tmp_path: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["fixed"]["eval_periods"] = [10]  # its curves come with the package
        values["parameters"]["optimizer"] = {"choice": ["adam", "sgd"]}
        values["parameters"]["momentum"] = {"float": [0.5, 0.9], "step": 0.1, "only": {"optimizer": "sgd"}}
        values |= {"constraints": LIMITS, "forbid": [{"feature_type": ["basic", "rich"]}], "sampler": "random"}

    folder = SearchFolder(tmp_path / "results" / "invented")
    folder.create(load_space(write_space(change)))
    study = SearchStudy(load_space(folder.path / "space.yaml"), folder.journal, "test")
    for gain, steps in ((1.0, 300), (1.1, 300), (1.2, 300), (1.5, 300), (1.4, 300), (1.3, 300), (9.0, 500)):
        number = study.ask().number
        study.report(number, 4, scores(gain, steps))
        study.finish(number, 4)
    records = study.records()
    assert records[-1].number > len(records) - 1 == 6
    assert {"momentum" in record.parameters for record in records} == {True, False}
    folder.write_trials(records)
    rows = list(csv.DictReader((folder.path / "trials.csv").read_text().splitlines()))
    assert [row["momentum"] == "" for row in rows] == ["momentum" not in record.parameters for record in records]
    page = write_report(folder.path).read_text()
    assert f"<dd>{records[3].number}</dd>" in page
    assert "7 of 6 trials: 7 done. Ranked by work_gain with rel_dE &lt;= 0.005, steps_per_orbit &lt;= 400" in page
    assert "Traceback" not in page
    drawn = {path.stem for path in (folder.path / "report").glob("*.png")}
    assert {"parallel_coordinates", "slice", "importances", "timeline", "history"} <= drawn
