"""The study's semantics, read back with Optuna itself."""

import errno
import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from core.errors import UserError
from tune.folder import ResultsError, SearchFolder
from tune.journal import open_journal
from tune.opening import best_model, open_study
from tune.ranking import Ranking
from tune.seeds import derived_seed
from tune.space import Space, load_space
from tune.study import SearchStudy


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "study.journal"


def read_back(journal: Path) -> optuna.Study:
    return optuna.load_study(study_name="test", storage=JournalStorage(JournalFileBackend(str(journal))))


def scores(work_gain: float, rel_dE: float = 1e-3) -> dict[str, float]:
    return {"work_gain": work_gain, "rel_dE": rel_dE, "convergence_rate": 0.5}


def test_states_values_and_constraints_are_optunas(tiny_space: Space, journal: Path) -> None:
    study = SearchStudy(tiny_space, journal, "test")
    complete, pruned, failed, without, running = (study.ask().number for _ in range(5))
    for epoch in (1, 2, 3, 4):
        study.report(complete, epoch, scores(1.0 + 0.1 * epoch))
    study.finish(complete, 4)
    study.report(pruned, 1, scores(0.9, rel_dE=2e-2))
    study.finish(pruned, 1)
    study.fail(failed, 2, "the loss is not finite")
    study.report(without, 4, scores(math.nan))
    study.finish(without, 4)
    study.report(running, 1, scores(0.7))

    trials = read_back(journal).trials
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert trials[complete].value == pytest.approx(1.4)
    assert trials[complete].intermediate_values == pytest.approx({1: 1.1, 2: 1.2, 3: 1.3, 4: 1.4})
    assert trials[complete].constraints["max_rel_dE"] == pytest.approx(math.log(1e-3 / 5e-3))
    assert trials[pruned].intermediate_values == pytest.approx({1: -math.log(4)})
    assert trials[pruned].constraints["max_rel_dE"] == pytest.approx(math.log(4))
    assert trials[failed].user_attrs["reason"] == "the loss is not finite"
    assert trials[without].user_attrs["reason"] == "work_gain is NaN"
    assert trials[running].intermediate_values == {1: 0.7}
    assert read_back(journal).best_trial.number == complete
    assert [record.state for record in study.records()] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "RUNNING"]
    assert [record.epochs for record in study.records()] == [4, 1, 2, 4, 1]


def test_a_restarted_worker_may_report_an_epoch_again(tiny_space: Space, journal: Path) -> None:
    study = SearchStudy(tiny_space, journal, "test")
    number = study.ask().number
    study.report(number, 1, scores(1.0))
    study.report(number, 1, scores(2.0))
    study.finish(number, 1)
    study.finish(number, 1)
    study.fail(number, 1, "too late")
    (trial,) = read_back(journal).trials
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {1: 1.0})


def test_a_trial_above_the_error_ranks_below_all_within_it() -> None:
    ranking = Ranking(("work_gain",), max_rel_dE=5e-3)
    candidates = [scores(1.2), scores(0.01, 5e-3), scores(9.0, 5.1e-3), scores(1.5, 1.0), scores(99.0, math.inf)]
    values = [ranking.value(candidate) for candidate in candidates]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)
    assert math.isnan(ranking.value(scores(1.0, math.nan)))
    assert [ranking.excess(candidate) <= 0 for candidate in candidates] == [True, True, False, False, False]


def test_best_are_complete_trials_in_the_order_of_the_ranking(tiny_space: Space, journal: Path) -> None:
    study = SearchStudy(tiny_space, journal, "test")
    for gain, error in ((0.9, 1e-3), (3.0, 1e-2), (1.1, 4e-3)):
        number = study.ask().number
        study.report(number, 4, scores(gain, error))
        study.finish(number, 4)
    early = study.ask().number
    study.report(early, 1, scores(5.0))
    study.finish(early, 1)
    assert [record.number for record in study.best(5)] == [2, 0, 1]
    assert [record.number for record in study.best(1)] == [2]


def test_asha_stops_by_the_epoch_and_counts_a_loose_error_as_bad(tiny_space: Space, journal: Path) -> None:
    study = SearchStudy(tiny_space, journal, "test")
    good, loose, poor = (study.ask().number for _ in range(3))
    study.report(good, 1, scores(1.1))
    assert not study.should_prune(good)
    study.report(loose, 1, scores(2.0, rel_dE=5e-2))
    assert study.should_prune(loose)
    study.report(poor, 1, scores(0.8))
    assert study.should_prune(poor)
    study.report(good, 2, scores(1.2))
    assert not study.should_prune(good)
    assert set(read_back(journal).trials[good].system_attrs) >= {"completed_rung_0", "completed_rung_1"}


def test_nothing_is_stopped_without_a_scheduler(write_space: Callable[..., Path], journal: Path) -> None:
    space = load_space(write_space(lambda values: values.update(scheduler="none")))
    study = SearchStudy(space, journal, "test")
    for gain in (1.0, 0.5, 0.1):
        number = study.ask().number
        study.report(number, 1, scores(gain))
        assert not study.should_prune(number)


def proposals(study: SearchStudy, count: int) -> list[dict[str, Any]]:
    """Run trials one after the other, on a stand-in objective."""
    configs = []
    for _ in range(count):
        proposal = study.ask()
        configs.append(proposal.config.to_dict())
        study.report(proposal.number, 4, scores(1 - abs(math.log10(proposal.config.lr) + 2.5)))
        study.finish(proposal.number, 4)
    return configs


def test_the_same_seed_proposes_the_same_and_another_seed_does_not(tiny_space: Space, tmp_path: Path) -> None:
    first, again = (proposals(SearchStudy(tiny_space, tmp_path / name, "test"), 12) for name in ("a", "b"))
    other = proposals(SearchStudy(tiny_space.changed(seed=4), tmp_path / "c", "test"), 12)
    assert first == again
    assert all(
        one["lr"] != another["lr"] and one["seed"] != another["seed"] for one, another in zip(first, other, strict=True)
    )
    assert len({config["seed"] for config in first}) == 12


def test_a_study_that_is_opened_again_proposes_what_it_would_have(tiny_space: Space, tmp_path: Path) -> None:
    unbroken = proposals(SearchStudy(tiny_space, tmp_path / "a", "test"), 10)
    start = proposals(SearchStudy(tiny_space, tmp_path / "b", "test"), 6)
    assert start + proposals(SearchStudy(tiny_space, tmp_path / "b", "test"), 4) == unbroken


def test_seeds_differ_where_any_key_does() -> None:
    keys = [(1, 0, 0, 0), (1, 0, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0), (2, 0, 0, 0)]
    assert len({derived_seed(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize("cut", [1, 20])
def test_a_torn_last_line_is_cut_and_kept_and_the_study_goes_on(cut: int, tiny_space: Space, journal: Path) -> None:
    study = SearchStudy(tiny_space, journal, "test")
    proposals(study, 3)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    torn = SearchStudy(tiny_space, journal, "test")
    assert journal.with_name("study.journal.torn-1").read_bytes() == whole[:-cut]
    assert [record.state for record in torn.records()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    proposals(torn, 2)
    assert len(read_back(journal).trials) == 5


def test_a_journal_that_cannot_grow_stays_whole(tiny_space: Space, journal: Path) -> None:
    study = SearchStudy(tiny_space, journal, "test")
    study.ask()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            study.report(0, 1, scores(0.5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(OSError, match="too large"):  # what comes after a missing entry is not written
        study.ask()
    assert [record.state for record in study.records()] == ["RUNNING"]
    assert [trial.state.name for trial in read_back(journal).trials] == ["RUNNING"]
    assert [path.name for path in journal.parent.glob("study.journal*")] == ["study.journal"]


def test_a_whole_journal_is_left_as_it_is(tiny_space: Space, journal: Path) -> None:
    proposals(SearchStudy(tiny_space, journal, "test"), 2)
    before = journal.read_bytes()
    open_journal(journal)
    assert journal.read_bytes() == before
    assert [path.name for path in journal.parent.glob("study.journal*")] == ["study.journal"]


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "writing"])
@pytest.mark.parametrize("line", ["{", "[]", "null", "{}", '{"op_code":99,"worker_id":"x"}', '{"op_code":5}'])
def test_a_damaged_line_is_named(line: str, reading: bool, tiny_space: Space, journal: Path) -> None:
    proposals(SearchStudy(tiny_space, journal, "test"), 1)
    content = journal.read_text()
    message = f"cannot be read, line {content.count(chr(10)) + 1} of it is damaged; delete that line"
    folder = SearchFolder(journal.parent)
    for after in ("", content):
        if (line, after, reading) == ("{", "", True):
            continue  # to a reader it is an entry that is being written
        journal.write_text(f"{content}{line}\n{after}")
        with pytest.raises(UserError, match=message):
            open_study(tiny_space, folder, reading=reading)


def test_empty_lines_at_the_end_are_harmless(tiny_space: Space, journal: Path) -> None:
    proposals(SearchStudy(tiny_space, journal, "test"), 1)
    content = journal.read_text()
    journal.write_text(f"{content}\n\n")
    assert len(proposals(SearchStudy(tiny_space, journal, "test"), 2)) == 2
    assert journal.read_text().startswith(content)
    assert len(read_back(journal).trials) == 3
    assert [path.name for path in journal.parent.glob("study.journal*")] == ["study.journal"]


@pytest.mark.parametrize("trial", [[1], {}, None, "0"], ids=str)
def test_a_best_of_no_trial_is_none(trial: object, tiny_space: Space, tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.pt").touch()
    folder.write_json("best/metrics.json", {"trial": trial})
    assert best_model(folder, []) is None


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free space"), (errno.EACCES, "make it writable"), (errno.EISDIR, "move that away")],
    ids=errno.errorcode.get,
)
def test_advice_on_what_cannot_be_written_fits_the_search(number: int, advice: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").touch()
    for folder in (SearchFolder.existing(tmp_path), SearchFolder.named_after(tmp_path, "new")):
        with pytest.raises(ResultsError, match="cannot be written") as refusal, folder.writing():
            raise OSError(number, "why", "file")
        is_new = folder.path != tmp_path and advice != "move that away"
        assert str(refusal.value).endswith(f"; {advice}{' or give --results' if is_new else ''}")


def test_a_folder_in_the_place_of_a_journal_is_to_be_moved(tmp_path: Path) -> None:
    (tmp_path / "study.journal").mkdir()
    with pytest.raises(ResultsError, match=r"\(Is a directory: .*/study.journal\); move that away"):
        SearchFolder(tmp_path).lock()
