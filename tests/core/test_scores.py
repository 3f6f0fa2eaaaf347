"""Scores that cannot be gamed: cost at equal error on held-out orbits, by definition and by hand."""

import functools
import math

import numpy as np
import pytest
import torch

from core import scores as scoring
from core.held_out import HeldOut
from core.oracle import Oracle
from core.orbits import Orbits, draw
from core.record import Outcome, Record
from core.scores import References, baseline_scores, evaluate, references, wall_gain
from core.simulation import fly, simulate
from core.timestep import PRS23, Dynamical, Fixed
from core.trainer import Trainer
from core.work_precision import Curve
from tests.systems import GRAVITY
from tests.trainings import small, train
from tests.work_precision import SHORT_CURVE, short_baselines

#: A short horizon: the shipped curves take minutes to measure.
SHORT = {"eval_periods": (1,)}


@pytest.fixture(scope="module", autouse=True)
def short_curves(tmp_path_factory):
    """Keep this module's curves, short ones, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        short_baselines(patch)
        yield


@pytest.fixture
def low_cap(monkeypatch):
    """Give up after 500 steps a period, not 20,000."""
    monkeypatch.setattr(scoring, "fly", functools.partial(fly, steps_per_period=500))


def scores_of(criterion, **settings):
    config = small(**SHORT | settings)
    return evaluate(criterion, config, references(config))


@pytest.mark.parametrize("eps", [*SHORT_CURVE[[0, 4, 8]], 0.013, 0.042])
def test_dynamical_criterion_gains_nothing_on_itself(eps):
    scores = scores_of(Dynamical(float(eps)))
    assert scores["work_gain"] == pytest.approx(1, rel=0.02 if eps not in SHORT_CURVE else 1e-7)
    assert scores["failed_orbits"] == 0


@pytest.mark.parametrize("dt", [1e-6, 1e-3, 0.2])
def test_constant_steps_rank_below_the_dynamical_criterion(dt, request):
    """A tiny one makes no progress, a large one loses the orbit, and one between pays for its pericentre everywhere."""
    if dt < 1e-5:
        request.getfixturevalue("low_cap")
    scores = scores_of(Fixed(dt))
    assert scores["work_gain"] < {1e-6: 1e-4, 1e-3: 0.6, 0.2: 0.011}[dt]
    if dt == 1e-6:
        assert scores["failed_orbits"] == 32
    if dt == 0.2:
        assert scores["failed_orbits"] > 16


@pytest.mark.parametrize("dt", [1e300, math.nan, 0.0])
def test_steps_that_go_nowhere_are_expensive(dt):
    """No time is completed: neither the cost a period nor the gain may look good."""
    scores = scores_of(Fixed(dt))
    assert scores["failed_orbits"] == 32
    assert scores["steps_per_orbit"] > 10_000
    assert scores["work_gain"] < 1e-5
    assert all(math.isfinite(value) for value in scores.values())


def test_finer_steps_cost_more_and_err_less():
    coarse, fine = scores_of(Dynamical(0.05)), scores_of(Dynamical(0.025))
    assert fine["steps_per_orbit"] == pytest.approx(2 * coarse["steps_per_orbit"], rel=0.02)
    assert fine["rel_dE"] == pytest.approx(coarse["rel_dE"] / 4, rel=0.2)  # second order
    assert fine["violations"] < coarse["violations"]


def test_a_network_is_scored_in_its_own_terms():
    """n_steps counts in the cost, and the threshold decides on violations."""
    config = small(**SHORT, n_steps=4, history_len=2)
    trainer = Trainer([config])
    trainer.train_epoch()
    scores = evaluate(trainer.criterion(), config, references(config))
    orbits = references(config).systems.orbits
    (record,) = simulate(
        orbits.state, trainer.criterion(), trainer.forces, orbits.period, (1,), n_steps=4, threshold=2e-4
    ).records
    completed = (record.time / orbits.period).sum()
    assert scores["steps_per_orbit"] == pytest.approx(float(4 * record.steps.sum() / completed))
    assert scores["violations"] == pytest.approx(float(record.violations.sum() / record.steps.sum()))
    assert scores["rel_dE"] == pytest.approx(float(np.median(record.max_rel_dE)))


# By hand -------------------------------------------------------------------------------------------

#: 100 evaluations a period at an error of 1e-2, 1000 at 1e-4; the points after that cost more and err more.
CURVE = Curve(np.array([[100.0, 1000.0, 2000.0, 3000.0]] * 4), np.array([[1e-2, 1e-4, 5e-4, 2e-4]] * 4))
#: Half of those everywhere.
ORACLE = Curve(CURVE.evaluations / 2, CURVE.error)


def test_curve_is_read_log_log():
    needed = CURVE.evaluations_at(np.array([1e-2, 1e-3, 1e-4, 10.0**-2.5]))
    np.testing.assert_allclose(needed, [100, 10**2.5, 1000, 10**2.25], rtol=1e-12)


def test_curve_beyond_an_end_is_that_end():
    """No better gain is to be had by an error that is larger, or smaller, than any that was measured."""
    needed = CURVE.evaluations_at(np.array([1e3, 0.5, 1e-9, 0.0]))
    np.testing.assert_allclose(needed, [100, 100, 1000, 1000], rtol=1e-12)


def test_scores_by_hand(monkeypatch):
    """Four orbits: at twice the criterion's cost, at half of it, at the same, and one that failed after 5 periods."""
    period = torch.tensor([1.0, 2.0, 1.0, 4.0], dtype=torch.float64)
    state = draw(small(), 4, torch.Generator()).state
    zeros = torch.zeros(4, dtype=torch.float64)
    record = Record(
        time=torch.tensor([10.0, 20.0, 10.0, 20.0], dtype=torch.float64),
        force_evaluations=torch.tensor([2000, 5000, 1000, 500]),
        max_rel_dE=torch.tensor([1e-2, 1e-4, 1e-2, math.nan], dtype=torch.float64),
        final_rel_dE=zeros,
        steps=torch.tensor([2000, 5000, 1000, 500]),
        violations=torch.tensor([85, 0, 0, 0]),
        failed=torch.tensor([False, False, False, True]),
        rejected=zeros,
        fallbacks=torch.tensor([0, 17, 0, 0]),
        initial_energy=zeros - 1,
        final_energy=zeros - 1,
        drift=torch.tensor([1e-3, 2e-3, 5e-3, 0.0], dtype=torch.float64),
        state=state,
        momentum_error=zeros,
        angular_momentum_error=zeros,
    )

    def flown(*_, **__):
        yield
        return Outcome([record])

    monkeypatch.setattr(scoring, "fly", flown)
    config = small(eval_periods=(10,))
    systems = HeldOut("validation", config, Orbits(state, period), (10,))
    curves = {"dynamical": {10: CURVE}, "prs23": {10: CURVE}, "oracle": {10: ORACLE}}
    scores = evaluate(Fixed(0.1), config, References(systems, curves))
    # Costs a period are 200, 500, 100 and 100; the criterion needs 100, 1000 and 100.
    gains = [100 / 200, 1000 / 500, 100 / 100, 0.01 * 5 / 10]
    assert scores["work_gain"] == scores["work_gain_prs23"] == pytest.approx(math.prod(gains) ** 0.25)
    assert scores["steps_per_orbit"] == pytest.approx(8500 / 35)
    assert scores["rel_dE"] == pytest.approx(1e-2)  # of 1e-4, 1e-2, 1e-2 and a NaN, which counts as large
    assert scores["violations"] == pytest.approx(85 / 8500)
    assert scores["fallbacks"] == pytest.approx(17 / 8500)
    assert scores["failed_orbits"] == 1
    # PRS23 needs 100 + 1000 + 100 + 100 (beyond its end), the oracle half of that, and the model takes 900.
    assert scores["oracle_share"] == pytest.approx((1300 - 900) / (1300 - 650))
    assert scores["energy_drift"] == pytest.approx(np.median([1e-3, 4e-3, 5e-3, 1e3]))


def test_a_baseline_is_shown_at_the_error_that_is_asked_for():
    """One constant for all orbits: between the first two points, half way in log error, is half way in log cost."""
    scores = baseline_scores(CURVE, {"dynamical": CURVE, "prs23": CURVE, "oracle": ORACLE}, 1e-3)
    assert scores["rel_dE"] == pytest.approx(1e-3)
    assert scores["steps_per_orbit"] == pytest.approx(10**2.5)
    assert scores["work_gain"] == pytest.approx(1)
    assert scores["oracle_share"] == pytest.approx(0)
    assert baseline_scores(ORACLE, {"prs23": CURVE, "oracle": ORACLE}, 1e-3)["oracle_share"] == pytest.approx(1)
    # Where the oracle is no better than PRS23 (an encounter, say) there is nothing to have a share of.
    assert "oracle_share" not in baseline_scores(CURVE, {"prs23": ORACLE, "oracle": CURVE}, 1e-3)


# Every score on real orbits ----------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", [PRS23(0.03, GRAVITY), Oracle(1e-4, GRAVITY)], ids=["prs23", "oracle"])
def test_baselines_score_as_their_own_curves_say(criterion):
    scores = scores_of(criterion)
    if isinstance(criterion, PRS23):
        assert scores["work_gain_prs23"] == pytest.approx(1, rel=0.03)
        assert scores["oracle_share"] == pytest.approx(0, abs=0.1)
    else:
        assert scores["oracle_share"] == pytest.approx(1, abs=0.1)
        assert scores["work_gain"] > 1.2


def test_reversible_steps_beat_direct_ones():
    """The same criterion by the other rule: less error for the same work, already after three periods."""
    direct, reversible = (scores_of(Dynamical(0.05), eval_periods=(3,), step_rule=rule) for rule in RULES)
    assert reversible["steps_per_orbit"] == pytest.approx(direct["steps_per_orbit"], rel=0.05)
    assert reversible["work_gain"] > direct["work_gain"] + 0.03
    assert direct["fallbacks"] == reversible["fallbacks"] == 0


RULES = ("direct", "reversible")


def test_phase_errors_are_of_second_order():
    coarse, fine = scores_of(Dynamical(0.02)), scores_of(Dynamical(0.01))
    assert coarse["phase_error"] / fine["phase_error"] == pytest.approx(4, rel=0.2)
    assert 1e-4 < fine["phase_error"] < 1e-1


@pytest.mark.parametrize(("n_steps", "expected"), [(1, 2 / 101), (20, 2 / 6)])
def test_wall_gain_is_per_force_evaluation(n_steps, expected, monkeypatch):
    """By a clock that counts 1 for an evaluation or a dynamical proposal, and 100 for another: blocks share theirs."""
    config, clock, rules = small(**SHORT, n_steps=n_steps, step_rule="reversible"), [0.0], []

    def ticking(state, criterion, *_, steps, n_steps, step_rule, **__):
        rules.append(step_rule)
        clock[0] += steps * (n_steps + (1 if isinstance(criterion, Dynamical) else 100))

    monkeypatch.setattr(scoring, "simulate", ticking)
    monkeypatch.setattr(scoring.time, "perf_counter", lambda: clock[0])
    gain = wall_gain(Oracle(1e-4, GRAVITY), config, references(config), 1.0)
    assert gain == pytest.approx(expected)
    assert gain < 0.8
    assert set(rules) == {"direct", "reversible"}


def test_two_horizons():
    scores = scores_of(Dynamical(0.05), eval_periods=(3, 1))
    alone = scores_of(Dynamical(0.05))
    assert {key: scores[key] for key in alone} == alone
    # The oracle is measured over the shortest horizon only; another test may have left a longer curve.
    assert set(scores) - {"oracle_share_3"} == {*alone, *(f"{key}_3" for key in alone if key != "oracle_share")}
    assert scores["work_gain_3"] == pytest.approx(1, rel=0.02)


def test_degenerate_models_rank_behind_every_honest_one(request):
    """Constant steps, and a network that may take any step: each behind a network that was hardly trained."""
    config = small(**SHORT, steps_per_epoch=16, stop_at_period=True, step_rule="reversible")
    honest = Trainer([config])
    train(honest, 3)
    against = references(config)
    gain = evaluate(honest.criterion(), config, against)["work_gain"]
    assert gain > 0.5
    loose = small(**SHORT, energy_threshold=1e3, steps_per_epoch=16, max_retrain_steps=50)
    anything = Trainer([loose])
    train(anything, 10)
    assert evaluate(anything.criterion(), loose, against)["work_gain"] < 0.5 * gain
    assert evaluate(Fixed(0.2), config, against)["work_gain"] < 0.5 * gain
    request.getfixturevalue("low_cap")
    assert evaluate(Fixed(1e-6), config, against)["work_gain"] < 0.5 * gain
