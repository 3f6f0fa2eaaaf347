"""Scores that cannot be gamed: cost at equal error on held-out orbits, by definition and by hand."""

import functools
import math

import numpy as np
import pytest
import torch

from core import evaluation
from core.config import Config
from core.errors import ConfigError
from core.evaluation import ReferenceCurves, evaluate, held_out_orbits, reference_curves
from core.orbits import Orbits, draw
from core.simulation import Outcome, Record, simulate
from core.timestep import Dynamical, Fixed
from core.trainer import Trainer
from tests.trainings import small

#: A short horizon and a short curve: the shipped ones take half a minute to measure.
SHORT = {"eval_periods": (1,)}
SHORT_CURVE = np.geomspace(0.08, 0.01, 9)


@pytest.fixture(scope="module", autouse=True)
def short_curves(tmp_path_factory):
    """Keep this module's curves in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(evaluation, "CURVE_EPS", SHORT_CURVE)
        yield


@pytest.fixture
def low_cap(monkeypatch):
    """Give up after 500 steps a period, not 20,000."""
    monkeypatch.setattr(evaluation, "simulate", functools.partial(simulate, steps_per_period=500))


def scores_of(criterion, **settings):
    config = small(**SHORT | settings)
    return evaluate(criterion, config, reference_curves(config))


@pytest.mark.parametrize("eps", [*SHORT_CURVE[[0, 4, 8]], 0.013, 0.042])
def test_dynamical_criterion_gains_nothing_on_itself(eps):
    scores = scores_of(Dynamical(float(eps)))
    assert scores["work_gain"] == pytest.approx(1, rel=0.02 if eps not in SHORT_CURVE else 1e-9)
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
    scores = evaluate(trainer.criterion(), config, reference_curves(config))
    orbits = held_out_orbits(config)
    (record,) = simulate(
        orbits.state, trainer.criterion(), trainer.forces, orbits.period, (1,), n_steps=4, threshold=2e-4
    ).records
    completed = (record.time / orbits.period).sum()
    assert scores["steps_per_orbit"] == pytest.approx(float(4 * record.steps.sum() / completed))
    assert scores["violations"] == pytest.approx(float(record.violations.sum() / record.steps.sum()))
    assert scores["rel_dE"] == pytest.approx(float(np.median(record.max_rel_dE)))


# By hand -------------------------------------------------------------------------------------------

#: 100 evaluations a period at an error of 1e-2, 1000 at 1e-4; the points after that cost more and err more.
CURVE = ReferenceCurves(
    "validation",
    {10: np.array([[100.0, 1000.0, 2000.0, 3000.0]] * 4)},
    {10: np.array([[1e-2, 1e-4, 5e-4, 2e-4]] * 4)},
)


def test_curve_is_read_log_log():
    needed = CURVE.evaluations_at(np.array([1e-2, 1e-3, 1e-4, 10.0**-2.5]), 10)
    np.testing.assert_allclose(needed, [100, 10**2.5, 1000, 10**2.25], rtol=1e-12)


def test_curve_beyond_an_end_is_that_end():
    """No better gain is to be had by an error that is larger, or smaller, than any that was measured."""
    needed = CURVE.evaluations_at(np.array([1e3, 0.5, 1e-9, 0.0]), 10)
    np.testing.assert_allclose(needed, [100, 100, 1000, 1000], rtol=1e-12)


def test_scores_by_hand(monkeypatch):
    """Four orbits: at twice the criterion's cost, at half of it, at the same, and one that failed after 5 periods."""
    period = torch.tensor([1.0, 2.0, 1.0, 4.0], dtype=torch.float64)
    record = Record(
        time=torch.tensor([10.0, 20.0, 10.0, 20.0], dtype=torch.float64),
        force_evaluations=torch.tensor([2000, 5000, 1000, 500]),
        max_rel_dE=torch.tensor([1e-2, 1e-4, 1e-2, math.nan], dtype=torch.float64),
        final_rel_dE=torch.zeros(4),
        steps=torch.tensor([2000, 5000, 1000, 500]),
        violations=torch.tensor([85, 0, 0, 0]),
        failed=torch.tensor([False, False, False, True]),
        rejected=torch.zeros(4),
        initial_energy=-torch.ones(4),
        final_energy=-torch.ones(4),
        momentum_error=torch.zeros(4),
        angular_momentum_error=torch.zeros(4),
    )
    state = draw(small(), 4, torch.Generator()).state
    monkeypatch.setattr(evaluation, "held_out_orbits", lambda config, held_out: Orbits(state, period))
    monkeypatch.setattr(evaluation, "simulate", lambda *_, **__: Outcome([record], state))
    scores = evaluate(Fixed(0.1), small(eval_periods=(10,)), CURVE)
    # Costs a period are 200, 500, 100 and 100; the criterion needs 100, 1000 and 100.
    gains = [100 / 200, 1000 / 500, 100 / 100, 0.01 * 5 / 10]
    assert scores["work_gain"] == pytest.approx(math.prod(gains) ** 0.25)
    assert scores["steps_per_orbit"] == pytest.approx(8500 / 35)
    assert scores["rel_dE"] == pytest.approx(1e-2)  # of 1e-4, 1e-2, 1e-2 and a NaN, which counts as large
    assert scores["violations"] == pytest.approx(85 / 8500)
    assert scores["failed_orbits"] == 1


# Held-out orbits and the cache -----------------------------------------------------------------------


def test_held_out_orbits_depend_on_the_systems_and_on_nothing_else():
    ours = held_out_orbits(small(seed=1)).state.position
    assert torch.equal(ours, held_out_orbits(small(seed=2, lr=1.0, num_orbits=3, dtype="float32")).state.position)
    assert not torch.equal(ours, held_out_orbits(small(e_max=0.7)).state.position)
    assert ours.shape[0] == 32
    test_set = held_out_orbits(small(), "test").state.position
    assert test_set.shape[0] == 128
    assert not torch.equal(test_set[:32], ours)


def test_curves_are_kept_and_read_back_equal(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = []
    first = reference_curves(small(**SHORT), progress=words.append)
    assert len(words) == 1
    assert len(list((tmp_path / "aitimestepper").iterdir())) == 1
    monkeypatch.setattr(evaluation, "_measure", lambda *_: pytest.fail("measured again"))
    second = reference_curves(small(**SHORT, seed=7, lr=1.0), progress=words.append)
    assert len(words) == 1
    for curves in (first.error, first.evaluations):
        assert curves[1].shape == (32, len(SHORT_CURVE))
    assert np.array_equal(first.error[1], second.error[1])
    assert np.array_equal(first.evaluations[1], second.evaluations[1])


@pytest.mark.parametrize(
    "change", [{"e_max": 0.9}, {"mass": (1.0, 0.5)}, {"eval_periods": (2,)}, {"softening": 0.01}, {"dim": 3}], ids=str
)
def test_other_systems_have_other_curves(change, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = []

    def measure(config, held_out, periods):
        measured.append(config)
        return {periods[0]: np.ones((32, 9))}, {periods[0]: np.ones((32, 9))}

    monkeypatch.setattr(evaluation, "_measure", measure)
    reference_curves(small(**SHORT))
    reference_curves(small(**SHORT | change))
    reference_curves(small(**SHORT), "test")
    assert len(measured) == 3


def test_two_horizons():
    scores = scores_of(Dynamical(0.05), eval_periods=(3, 1))
    alone = scores_of(Dynamical(0.05))
    assert {key: scores[key] for key in alone} == alone
    assert set(scores) == {*alone, *(f"{key}_3" for key in alone)}
    assert scores["work_gain_3"] == pytest.approx(1, rel=0.02)


def test_more_than_two_bodies_are_not_available_yet():
    with pytest.raises(ConfigError, match=r"`num_particles` is 3, but .* not available yet"):
        reference_curves(small(num_particles=3))


def test_the_curve_that_comes_with_the_package_is_what_is_measured(monkeypatch, tmp_path):
    """Its coarse end, measured again. The rest costs a minute and the same code."""
    config = Config(eval_periods=(10,))
    shipped = reference_curves(config)
    points = 7
    monkeypatch.setattr(evaluation, "CURVE_EPS", evaluation.CURVE_EPS[:points])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = reference_curves(config)
    np.testing.assert_allclose(measured.evaluations[10], shipped.evaluations[10][:, :points], rtol=1e-6)
    np.testing.assert_allclose(measured.error[10], shipped.error[10][:, :points], rtol=1e-5)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    assert evaluation._SHIPPED.is_dir()
