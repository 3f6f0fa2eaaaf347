"""Repeats: who is trained again, who drops out, who wins, and whether that can be told from chance."""

import json
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.checkpoint import load_model
from core.scores import evaluate, references
from core.trainer import Trainer
from tests.tune.searches import (
    finish,
    kill_workers,
    load_study,
    only_results,
    start_search,
    trials_table,
    wait_for_file,
)
from tune.confirmation import Confirmation
from tune.objectives import SCORES
from tune.space import Space, load_space
from tune.spread import Sample, mean
from tune.study import SearchStudy


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "study.journal"


@pytest.fixture
def space(write_space: Callable[..., Path]) -> Space:
    return load_space(write_space(lambda values: values.update(confirm={"top": 3, "seeds": 3})))


def scores(gain: float, rel_dE: float = 1e-3, failed: int = 0) -> dict[str, float]:
    return {"work_gain": gain, "rel_dE": rel_dE, "failed_orbits": failed}


def searched(space: Space, journal: Path, *found: dict[str, float]) -> SearchStudy:
    """A study whose trials have ended, with these scores."""
    study = SearchStudy(space, journal, "test")
    for one in found:
        number = study.ask().number
        study.report(number, 4, one)
        study.finish(number, 4)
    return study


def run(confirmation: Confirmation, *, backwards: bool = False, **gains: list[Any]) -> list[tuple[int, int]]:
    """Run all repeats; ``t2=[1.2, (1.3, 9e-3), "reason"]`` are gains (and errors) of trial 2. Return their order."""
    ran = []
    while due := confirmation.due():
        for trial, repeat in reversed(due) if backwards else due:
            came = gains[f"t{trial}"][repeat - 1]
            if isinstance(came, str):
                confirmation.end(trial, repeat, 4, {}, {}, came)
            else:
                validation = scores(*came) if isinstance(came, tuple) else scores(came)
                confirmation.end(trial, repeat, 4, validation, scores(10.0 - trial))
            ran.append((trial, repeat))
    return ran


GOOD = (scores(1.3), scores(1.5), scores(1.4), scores(1.1), scores(9.0, rel_dE=1e-1))


def test_the_best_within_the_limit_are_trained_again_with_fresh_seeds(space: Space, journal: Path) -> None:
    study = searched(space, journal, *GOOD)
    confirmation = Confirmation(study)
    assert confirmation.due() == [(1, 1), (2, 1), (0, 1)]
    seeds = [confirmation.config(trial, repeat).seed for trial in (0, 1, 2) for repeat in (1, 2, 3)]
    assert len({*seeds, *(record.seed for record in study.records())}) == 9 + 5
    config = confirmation.config(1, 2).to_dict()
    own = study.config(study.records()[1]).to_dict()
    assert {key for key in config if config[key] != own[key]} == {"seed"}


def test_the_winner_has_the_best_mean_of_fresh_seeds_not_the_best_trial(space: Space, journal: Path) -> None:
    confirmation = Confirmation(searched(space, journal, *GOOD))
    assert confirmation.most == 9
    ran = run(confirmation, t0=[1.30, 1.31, 1.32], t1=[1.15, 1.30, 1.36], t2=[1.20, 1.35, 1.25])
    assert ran == [(trial, repeat) for repeat in (1, 2, 3) for trial in (1, 2, 0)]
    content = confirmation.to_dict()
    # The test set says the opposite of the validation set: it decides nothing.
    assert [entry["test"]["mean"]["work_gain"] for entry in content["candidates"]] == pytest.approx([9, 8, 10])
    assert (content["winner"], content["separable"]) == (0, False)
    assert [record.number for record in confirmation.order()] == [0, 1, 2]
    best = confirmation.best_repeat(0)
    assert best is not None
    assert (best.repeat, best.validation["work_gain"]) == (3, 1.32)
    summary = content["candidates"][1]["validation"]
    assert summary["mean"]["work_gain"] == pytest.approx(statistics.geometric_mean([1.20, 1.35, 1.25]))
    assert summary["std"]["work_gain"] == pytest.approx(statistics.stdev([1.20, 1.35, 1.25]))
    metrics = confirmation.metrics(best)
    assert metrics["work_gain"] == 1.32
    assert metrics["work_gain_mean"] == pytest.approx(statistics.geometric_mean([1.30, 1.31, 1.32]))
    assert (metrics["test_work_gain"], metrics["test_work_gain_std"]) == (10, 0)
    assert not any(isinstance(value, dict | list) for value in metrics.values())


def test_the_leader_is_separable_or_said_not_to_be(space: Space, journal: Path) -> None:
    confirmation = Confirmation(searched(space, journal, *GOOD))
    run(confirmation, t0=[1.30, 1.31, 1.32], t1=[1.26, 1.27, 1.28], t2=[1.25, 1.24, 1.26])
    winner, separable, sentence = confirmation.verdict()
    assert (winner, separable) == (0, True)
    assert "Trial 0 is the best over 3 fresh seeds, better than trial 1 beyond chance" in sentence


def test_who_is_clearly_behind_gets_no_second_seed(space: Space, journal: Path) -> None:
    confirmation = Confirmation(searched(space, journal, *GOOD))
    ran = run(confirmation, t0=[1.30, 1.31, 1.32], t1=[1.10], t2=[1.18, 1.16])
    assert ran == [(1, 1), (2, 1), (0, 1), (2, 2), (0, 2), (0, 3)]
    content = confirmation.to_dict()
    assert [(entry["trial"], entry["survived"], len(entry["seeds"])) for entry in content["candidates"]] == [
        (1, False, 1),
        (2, False, 2),
        (0, True, 3),
    ]
    assert (content["winner"], content["separable"]) == (0, True)
    assert content["candidates"][0]["validation"]["std"] == {"work_gain": None, "rel_dE": None, "failed_orbits": None}


def test_who_held_out_stays_a_candidate_in_a_longer_search(space: Space, journal: Path) -> None:
    """Whatever single scores the new trials have."""
    run(Confirmation(searched(space, journal, *GOOD)), t0=[1.3] * 3, t1=[1.2, 1.21, 1.19], t2=[1.1, 1.1])
    longer = searched(space.changed(trials=space.trials + 3), journal, *[scores(2.0)] * 3)
    confirmation = Confirmation(longer)
    assert [record.number for record in confirmation.candidates] == [5, 6, 7, 0]
    assert run(confirmation, t5=[1.0], t6=[1.0], t7=[1.0]) == [(5, 1), (6, 1), (7, 1)]
    assert confirmation.verdict()[0] == 0
    assert [record.number for record in Confirmation(longer).candidates] == [5, 6, 7, 0]
    assert confirmation.config(2, 1).seed == longer.seed(2, 1)  # of one that is a candidate no more
    # Extended once more, in the middle of a confirmation.
    longer = searched(longer.space.changed(trials=longer.space.trials + 3), journal, *[scores(3.0)] * 3)
    run_one = Confirmation(longer)
    run_one.end(*run_one.due()[0], 4, scores(1.0), scores(1.0))
    longer = searched(longer.space.changed(trials=longer.space.trials + 3), journal, *[scores(4.0)] * 3)
    assert [record.number for record in Confirmation(longer).candidates] == [11, 12, 13, 0]


def test_rungs_that_run_at_a_time_are_decided_as_one(space: Space, journal: Path) -> None:
    """Room for six: the first two rungs of three candidates; then, of two, all that is left. It is remembered."""
    study = searched(space, journal, *GOOD)
    confirmation = Confirmation(study, at_once=7)
    assert confirmation.due() == [(number, repeat) for repeat in (1, 2) for number in (1, 2, 0)]
    assert run(Confirmation(study, at_once=9), t0=[1.3] * 3, t1=[1.3] * 3, t2=[1.3] * 3) == [
        (number, repeat) for repeat in (1, 2, 3) for number in (1, 2, 0)
    ]
    other = searched(space, journal.with_name("other"), *GOOD)
    ran = run(Confirmation(other, at_once=7), t0=[1.30, 1.31, 1.32], t1=[1.10, 1.12], t2=[1.29, 1.30, 1.28])
    assert ran == [*((number, repeat) for repeat in (1, 2) for number in (1, 2, 0)), (2, 3), (0, 3)]
    assert Confirmation(other).due() == []


def test_a_failed_repeat_and_a_loose_error_drop_out(space: Space, journal: Path) -> None:
    confirmation = Confirmation(searched(space, journal, *GOOD))
    ran = run(confirmation, t0=[1.3, (1.5, 1e-1)], t1=["the loss is not finite"], t2=[1.25, 1.25, 1.25])
    assert ran == [(1, 1), (2, 1), (0, 1), (2, 2), (0, 2), (2, 3)]
    content = confirmation.to_dict()
    assert content["winner"] == 2
    assert content["candidates"][0]["seeds"][0]["reason"] == "the loss is not finite"
    assert content["candidates"][0]["validation"] == {"mean": {}, "std": {}, "sum": {}}


def test_when_nobody_survives_it_is_said(space: Space, journal: Path) -> None:
    confirmation = Confirmation(searched(space, journal, *GOOD))
    run(confirmation, t0=["killed"], t1=["killed"], t2=[(1.5, 1e-1)])
    winner, separable, sentence = confirmation.verdict()
    assert (winner, separable) == (None, False)
    assert confirmation.furthest() == 2  # its best repeat is exported all the same
    assert "No candidate held out with fresh seeds" in sentence
    failed = Confirmation(searched(space, journal.with_name("other"), *GOOD))
    run(failed, t0=["killed"], t1=["killed"], t2=["killed"])
    assert failed.verdict()[0] is None
    assert "Every repeat failed" in failed.verdict()[2]
    loose = Confirmation(searched(space, journal.with_name("third"), scores(2.0, rel_dE=1e-1)))
    assert loose.due() == []
    assert "nothing to confirm" in loose.verdict()[2]


def test_a_lone_candidate_waits_for_nobody(write_space: Callable[..., Path], journal: Path) -> None:
    space = load_space(write_space(lambda values: values.update(confirm={"top": 1, "seeds": 3})))
    confirmation = Confirmation(searched(space, journal, *GOOD))
    assert confirmation.due() == [(1, 1), (1, 2), (1, 3)]


def test_the_outcome_depends_neither_on_the_order_nor_on_a_restart(space: Space, journal: Path) -> None:
    gains: dict[str, list[Any]] = {"t0": [1.30, 1.36, 1.2], "t1": [1.26, 1.18, 1.1], "t2": [1.16, 1.30, 1.4]}
    unbroken = Confirmation(searched(space, journal.with_name("other"), *GOOD))
    run(unbroken, backwards=True, **gains)
    confirmation = Confirmation(searched(space, journal, *GOOD))
    for trial, repeat in [*confirmation.due(), (1, 2)]:
        confirmation.end(trial, repeat, 4, scores(gains[f"t{trial}"][repeat - 1]), scores(10.0 - trial))
    confirmation.end(1, 2, 4, scores(99.0), scores(99.0))  # a second report of one repeat changes nothing
    assert "interrupted after 4 of at most 9 repeats" in confirmation.verdict()[2]
    again = Confirmation(SearchStudy(space, journal, "test"))
    assert again.due() == [(2, 2), (0, 2)]
    run(again, **gains)
    assert again.to_dict() == unbroken.to_dict()
    assert len(SearchStudy(space, journal, "test").records()) == len(GOOD)  # repeats are no trials


def test_welchs_interval() -> None:
    """Five values with variance 1 each: 8 degrees of freedom, 2.306 sqrt(2 / 5) = 1.458."""
    about = SCORES["oracle_share"]

    def around(centre: float) -> Sample:
        return Sample.of(about, [centre + shift for shift in (-1, -1, 0, 1, 1)])

    assert not around(1.45).is_better_than(around(0))
    assert around(1.47).is_better_than(around(0))
    # Against two equal values: 4 degrees of freedom, 2.776 sqrt(1 / 5) = 1.241.
    assert not around(1.23).is_better_than(Sample.of(about, [0, 0]))
    assert around(1.25).is_better_than(Sample.of(about, [0, 0]))
    assert not Sample.of(about, [9]).is_better_than(around(0))


def test_means_are_geometric_for_ratios_and_errors_only() -> None:
    assert mean("work_gain_100", [1, 4]) == pytest.approx(2)
    assert mean("rel_dE", [1e-4, 1e-2]) == pytest.approx(1e-3)
    assert mean("violations", [0, 0.5]) == 0.25
    assert mean("rel_dE_train", [1, 3]) == 2  # no score of an evaluation


def confirmed(values: dict[str, Any]) -> None:
    values["fixed"] |= {"hidden_dims": [64, 64], "num_orbits": 4, "epochs": 12, "evaluate_every": 4}
    values["parameters"]["step_rule"] = {"choice": ["direct", "reversible"]}
    values |= {"trials": 2, "scheduler": "none", "confirm": {"top": 2, "seeds": 2}, "max_rel_dE": 1.0}
    values["objectives"] = ["work_gain", "steps_per_orbit"]


def test_a_confirmed_search_survives_a_killed_worker(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """Each repeat gives, bit for bit, what a plain training with its seed does."""
    search = start_search("--space", write_space(confirmed), "--no-dashboard", folder=tmp_path)
    wait_for_file(search, tmp_path, "results/*/confirmation.json")  # one has ended
    kill_workers(search, "TimeStepTraining.train")
    done = finish(search)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on from its last checkpoint" in done.stdout
    results = only_results(tmp_path)
    content = json.loads((results / "confirmation.json").read_text())
    assert load_study(results).user_attrs["confirmation"]["candidates"] == [c["trial"] for c in content["candidates"]]
    rows = trials_table(tmp_path)
    assert {row["pareto"] for row in rows} <= {"True", "False"}
    assert "True" in {row["pareto"] for row in rows}
    assert len(load_study(results).trials) == 2
    assert done.stdout.count("  pareto") == sum(row["pareto"] == "True" for row in rows)

    space = load_space(results / "space.yaml")
    assert {c["trial"] for c in content["candidates"]} == {0, 1}
    winner = next(c for c in content["candidates"] if c["trial"] == content["winner"])
    assert winner["survived"]
    assert len(winner["seeds"]) == 2
    best = max(winner["seeds"], key=lambda entry: entry["validation"]["work_gain"])
    config = space.config(winner["parameters"], best["seed"])
    trainer = Trainer([config])
    for _ in range(config.epochs):
        trainer.train_epoch()
    for name in ("validation", "test"):
        plain = evaluate(trainer.criterion(0), config, references(config, name))
        assert {key: best[name][key] for key in plain} == plain
    assert load_model(results / "best" / "model.pt").config == config
    metrics = json.loads((results / "best" / "metrics.json").read_text())
    assert metrics["test_work_gain"] == best["test"]["work_gain"]
    assert metrics["test_work_gain_mean"] == winner["test"]["mean"]["work_gain"]
    assert all(not isinstance(value, dict | list) for value in metrics.values())
    assert set(content["baselines"]["baselines"]) == set(load_study(results).user_attrs["baselines"]["baselines"])
    assert content["sentence"] in done.stdout
    models = {str(path.relative_to(results / "confirmation")) for path in results.glob("confirmation/*/*")}
    assert len(models) == 2
    assert all(path.endswith("model.pt") for path in models)


def test_an_interrupted_confirmation_keeps_what_has_ended(write_space: Callable[..., Path], tmp_path: Path) -> None:
    def endless(values: dict[str, Any]) -> None:
        confirmed(values)
        values["trials"], values["confirm"] = 1, {"top": 1, "seeds": 500}

    search = start_search("--space", write_space(endless), "--no-dashboard", folder=tmp_path)
    wait_for_file(search, tmp_path, "results/*/confirmation.json")
    search.send_signal(signal.SIGINT)
    done = finish(search)
    assert done.returncode == 130, done.stdout + done.stderr
    assert done.stderr == ""
    assert "The confirmation was interrupted; it goes on with: " in done.stdout
    content = json.loads((only_results(tmp_path) / "confirmation.json").read_text())
    assert content["winner"] is None
    assert 1 <= len(content["candidates"][0]["seeds"]) < 500
    metrics = json.loads((only_results(tmp_path) / "best" / "metrics.json").read_text())
    assert metrics["work_gain"] == float(trials_table(tmp_path)[0]["work_gain"])
