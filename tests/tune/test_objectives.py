"""Objectives: their directions, what is best among several, and early stopping by the first."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from core.scores import evaluate, references
from core.timestep import Dynamical
from tests.trainings import small
from tune.objectives import SCORES, score
from tune.ranking import Ranking
from tune.space import Space, load_space
from tune.study import SearchStudy

GOALS = ["work_gain", "steps_per_orbit", "rel_dE"]


@pytest.fixture
def space(write_space: Callable[..., Path]) -> Space:
    return load_space(write_space(lambda values: values.update(objectives=GOALS)))


def scores(work_gain: float, steps: float, rel_dE: float) -> dict[str, float]:
    return {"work_gain": work_gain, "steps_per_orbit": steps, "rel_dE": rel_dE}


def run(study: SearchStudy, *given: dict[str, float], epoch: int = 4) -> None:
    for one in given:
        number = study.ask().number
        study.report(number, epoch, one)
        study.finish(number, epoch)


def read_back(journal: Path) -> optuna.Study:
    return optuna.load_study(study_name="test", storage=JournalStorage(JournalFileBackend(str(journal))))


def test_every_score_of_an_evaluation_has_a_direction() -> None:
    config = small(eval_periods=(1,))
    found = evaluate(Dynamical(0.1), config, references(config))
    assert set(found) == {name for name, about in SCORES.items() if about.over_periods}


@pytest.mark.parametrize("name", SCORES)
def test_a_better_score_ranks_first_and_a_loose_error_last(name: str) -> None:
    ranking = Ranking((f"{name}_100" if score(name).over_periods else name,), max_rel_dE=1e-2)
    better, worse = (0.9, 0.2) if score(name).direction == "maximize" else (0.2, 0.9)
    if name == "rel_dE":
        better, worse = 1e-3, 2e-3
    error = ranking.error
    ranked = [
        {error: 1e-3, "rel_dE": 1.0, ranking.first: better} | ({"rel_dE": 1e-3} if error == "rel_dE" else {}),
        {error: 1e-3, "rel_dE": 1.0, ranking.first: worse} | ({"rel_dE": 1e-3} if error == "rel_dE" else {}),
    ]
    if name == "rel_dE":
        ranked[1][error] = worse
    loose = [{**ranked[0], error: excess} for excess in (0.5, 2.0)]
    merits = [ranking.merit(one) for one in (*ranked, *loose)]
    assert merits == sorted(merits, reverse=True)
    assert len(set(merits)) == 4
    assert ranking.value(ranked[0]) == ranked[0][ranking.first]
    assert math.isnan(ranking.merit({**ranked[0], error: math.nan}))


def test_the_error_is_limited_over_the_first_objectives_own_periods() -> None:
    drifting = {"rel_dE": 1e-3, "rel_dE_100": 1e-1, "work_gain": 1.2, "work_gain_100": 2.0}
    assert Ranking(("work_gain", "work_gain_100"), 5e-3).excess(drifting) < 0
    assert Ranking(("work_gain_100", "work_gain"), 5e-3).excess(drifting) > 0


def test_several_objectives_are_optunas_and_the_first_picks_the_best(space: Space, tmp_path: Path) -> None:
    study = SearchStudy(space, tmp_path / "journal", "test")
    best, cheap, poor, loose = (
        scores(1.3, 400, 1e-3),
        scores(1.1, 200, 2e-3),
        scores(1.0, 500, 3e-3),
        scores(3.0, 100, 5e-2),
    )
    run(study, cheap, poor, loose, best)
    run(study, scores(9.0, 1, 1e-9), epoch=1)
    run(study, scores(1.0, math.nan, 1e-3))
    trials = read_back(tmp_path / "journal").trials
    assert read_back(tmp_path / "journal").directions == [
        StudyDirection.MAXIMIZE,
        StudyDirection.MINIMIZE,
        StudyDirection.MINIMIZE,
    ]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4 + ["PRUNED", "FAIL"]
    assert trials[0].values == list(cheap.values())
    assert trials[0].user_attrs["curve"] == {"4": 1.1}
    assert trials[2].constraints["max_rel_dE"] > 0 > trials[0].constraints["max_rel_dE"]
    assert trials[5].user_attrs["reason"] == "steps_per_orbit is NaN"
    assert [record.number for record in study.best(5)] == [3, 0, 1, 2]
    # The pruned trial is no member, the loose one is not within the limit, the poor one is dominated by the best.
    assert [record.pareto for record in study.records()] == [True, False, False, True, False, False]
    assert [record.epochs for record in study.records()] == [4, 4, 4, 4, 1, 4]


def test_a_minimised_objective_alone_is_minimised(write_space: Callable[..., Path], tmp_path: Path) -> None:
    space = load_space(write_space(lambda values: values.update(objective="steps_per_orbit")))
    study = SearchStudy(space, tmp_path / "journal", "test")
    run(study, scores(1.0, 300, 1e-3), scores(1.0, 200, 1e-3), scores(1.0, 1, 1e-1))
    assert read_back(tmp_path / "journal").best_trial.number == 1
    assert [record.number for record in study.best(5)] == [1, 0, 2]
    assert [record.pareto for record in study.records()] == [None] * 3
    number = study.ask().number
    study.report(number, 1, scores(1.0, 250, 1e-3))
    assert not study.should_prune(number)
    late = study.ask().number
    study.report(late, 1, scores(1.0, 260, 1e-3))
    assert study.should_prune(late)


def stopped(study: SearchStudy, numbers: list[int], values: list[tuple[float, float]], epoch: int) -> list[bool]:
    found = []
    for number, (gain, error) in zip(numbers, values, strict=True):
        study.report(number, epoch, scores(gain, 100, error))
        found.append(study.should_prune(number))
    return found


def test_stopping_goes_by_the_first_objective_and_survives_a_restart(
    space: Space, tiny_space: Space, tmp_path: Path
) -> None:
    """The same decisions as in a study of the first objective alone, with the rungs in the journal."""
    first = [(1.1, 1e-3), (2.0, 5e-2), (0.8, 1e-3), (1.3, 1e-3)]
    second = [(1.2, 1e-3), (1.0, 1e-3), (1.2, 1e-3), (1.1, 1e-3)]
    decisions: list[list[bool]] = []
    for name, one in (("alone", tiny_space), ("several", space)):
        study = SearchStudy(one, tmp_path / name, "test")
        numbers = [study.ask().number for _ in first]
        found = stopped(study, numbers, first, epoch=1) + stopped(study, numbers, second, epoch=2)
        again = SearchStudy(one, tmp_path / name, "test")
        found += stopped(again, [again.ask().number for _ in range(3)], [(1.05, 1e-3), (1.25, 1e-3), (1.4, 1e-3)], 1)
        decisions.append(found)
    assert decisions[0] == decisions[1]
    assert decisions[1][:4] == [False, True, True, False]
    assert decisions[1][-3:] == [True, False, False]
    rungs: list[dict[str, Any]] = [trial.system_attrs for trial in read_back(tmp_path / "several").trials]
    assert {"completed_rung_0", "completed_rung_1"} <= set(rungs[0])


def test_tpe_takes_several_objectives_with_their_constraint(space: Space, tmp_path: Path) -> None:
    """Trials above the limit of the error, which are best in all else, do not draw the sampler to them."""
    study = SearchStudy(space.changed(trials=40), tmp_path / "journal", "test")
    for _ in range(40):
        proposal = study.ask()
        loose = proposal.config.energy_threshold > 4e-4
        distance = abs(math.log10(proposal.config.energy_threshold) + 3.6)
        study.report(proposal.number, 4, scores(5.0 if loose else 2 - distance, 100, 1e-1 if loose else 1e-3))
        study.finish(proposal.number, 4)
    late = [record.scores["rel_dE"] > 5e-3 for record in study.records()[20:]]
    assert sum(late) <= 6
    assert all(not record.pareto or record.scores["rel_dE"] <= 5e-3 for record in study.records())
