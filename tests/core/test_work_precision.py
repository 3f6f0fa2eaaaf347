"""Held-out sets and the curves that are measured on them: what they depend on, and where they are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core import measuring, work_precision
from core.config import Config
from core.errors import ConfigError, UserError
from core.forces import kinetic_energy
from core.held_out import NAMED_SETS, held_out, parse_changes
from core.kepler import kepler_separation, relative, semi_major_axis
from core.simulation import simulate
from core.timestep import Dynamical
from core.work_precision import BASELINES, Curve, curves_of, has_curve, horizons_of, measure, measure_missing
from tests.kepler import relative_orbit
from tests.systems import GRAVITY, kepler_system
from tests.trainings import small
from tests.work_precision import SHORT_CURVE, short_baselines

SHORT = {"eval_periods": (1,)}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "aitimestepper"


# Sets ------------------------------------------------------------------------------------------------


def test_held_out_orbits_depend_on_the_systems_and_on_nothing_else():
    def orbits(name="validation", **settings):
        return held_out(small(**settings), name).orbits.state.position

    ours = orbits(seed=1)
    assert torch.equal(ours, orbits(seed=2, lr=1.0, num_orbits=3, dtype="float32"))
    assert not torch.equal(ours, orbits(e_max=0.7))
    assert ours.shape[0] == 32
    assert orbits("test").shape[0] == 128
    assert not torch.equal(orbits("test")[:32], ours)


@pytest.mark.parametrize("name", NAMED_SETS)
def test_named_sets_can_be_simulated(name):
    systems = held_out(small(**SHORT), name)
    state, forces = systems.on(systems.config)
    record = simulate(state, Dynamical(0.005), forces, systems.orbits.period, systems.periods).records[0]
    assert (record.time[~record.failed] >= systems.orbits.period[~record.failed] * systems.periods[0]).all()
    # Three bodies meet: a few encounters are too close for any such step.
    assert record.failed.sum() <= (4 if systems.config.num_particles == 3 else 0)
    assert record.max_rel_dE.median() < 1e-3


@pytest.mark.parametrize("name", ["circular", "eccentric", "wide"])
def test_sets_of_orbits_are_refused_for_more_bodies(name):
    with pytest.raises(ConfigError, match=f"The set `{name}` is one of orbits, but .* systems of 3 bodies"):
        held_out(small(num_particles=3), name)


def test_what_the_named_sets_are():
    def shape(name):
        state = held_out(small(), name).orbits.state
        separation, velocity = relative(state)
        axis = semi_major_axis(state)
        momentum = separation[..., 0] * velocity[..., 1] - separation[..., 1] * velocity[..., 0]
        return axis, (1 - momentum**2 / (state.mass.sum(-1) * axis)).sqrt()

    axis, eccentricity = shape("eccentric")
    assert ((eccentricity > 0.95) & (eccentricity < 0.99) & (axis > 0.8) & (axis < 1.2)).all()
    assert (shape("circular")[1] < 0.3).all()
    assert (shape("wide")[0] > 80).all()
    axis, eccentricity = shape("flyby")
    assert ((axis < -0.8) & (axis > -1.2) & (eccentricity > 1.1) & (eccentricity < 2)).all()
    assert held_out(small(), "mass_ratio").orbits.state.mass[0].tolist() == [1.0, 1e-3]
    assert held_out(small(), "test_particle").orbits.state.mass[0].tolist() == [1.0, 1.0, 0.0]


def test_a_flyby_passes_its_pericentre_half_way():
    systems = held_out(small(), "flyby")
    start, half = systems.orbits.state, systems.orbits.period / 2
    assert (relative(start)[0] * relative(start)[1]).sum(-1).max() < 0
    near, before, after = (
        kepler_separation(start, half * share).norm(dim=-1) for share in (1.0, 0.999, 1.001)
    )
    assert ((near < before) & (near < after)).all()
    total = kinetic_energy(start.velocity, start.mass) + GRAVITY.potential(start.position, start.mass)
    assert (total > 0).all()


def test_words_of_set():
    assert parse_changes([]) == ("validation", {})
    assert parse_changes(["flyby"]) == ("flyby", {})
    assert parse_changes(["e_max=0.7", "mass=[1,0.1]"]) == ("custom", {"e_max": 0.7, "mass": [1, 0.1]})
    assert parse_changes(["wide", "e_max=0.7"]) == ("wide", {"e_max": 0.7})


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["elliptic"], "The set `elliptic` is unknown"),
        (["flybys"], "did you mean `flyby`"),
        (["wide", "flyby"], "names two sets"),
        (["lr=1"], "The key `lr` of --set is unknown"),
        (["e_max=high"], "must be a number or a list"),
        (["e_max=0.7", "e_max=0.8"], "The key `e_max` is there twice"),
        (["e_max=1.5"], "e_max"),
        (["flyby", "num_particles=3"], "of two bodies"),
    ],
)
def test_a_set_that_is_none_is_refused(words, problem):
    with pytest.raises(ConfigError, match=problem):
        held_out(small(), *parse_changes(words))


# Kepler ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eccentricity", [0.0, 0.3, 0.9, 0.99])
def test_kepler_separation(eccentricity):
    """Against an independent solution, over many periods, from pericentre and from half way."""
    state, period = kepler_system(eccentricity, (1.0, 0.3), semi_major_axis=1.2)
    for time in (0.0, 0.01, 0.3, 1.0, 40.7):
        expected, _ = relative_orbit(time * period, 1.2, eccentricity, 1.3)
        ours = kepler_separation(state, torch.tensor(time * period, dtype=torch.float64))
        torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-9)
    away, velocity = relative_orbit(0.3 * period, 1.2, eccentricity, 1.3)
    position = torch.from_numpy(np.stack([0 * away, away]))
    later = GRAVITY.state(position, torch.from_numpy(np.stack([0 * velocity, velocity])), state.mass)
    expected, _ = relative_orbit(2.45 * period, 1.2, eccentricity, 1.3)
    ours = kepler_separation(later, torch.tensor(2.15 * period, dtype=torch.float64))
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-9)


def test_a_hyperbolic_orbit_keeps_its_energy_and_momentum():
    start = held_out(small(), "flyby").orbits.state
    step = 1e-5
    for share in (0.1, 0.5, 1.0):
        time = share * held_out(small(), "flyby").orbits.period
        here, there = (kepler_separation(start, time + change) for change in (-step, step))
        velocity, separation = (there - here) / (2 * step), kepler_separation(start, time)
        energy = velocity.square().sum(-1) / 2 - start.mass.sum(-1) / separation.norm(dim=-1)
        torch.testing.assert_close(energy, -start.mass.sum(-1) / (2 * semi_major_axis(start)), rtol=1e-4, atol=1e-6)


# Curves ----------------------------------------------------------------------------------------------


def test_curves_are_kept_and_read_back(monkeypatch, cache):
    short_baselines(monkeypatch)
    words, systems = [], held_out(small(**SHORT))
    assert not has_curve(systems, "dynamical", 1)
    first = curves_of(systems, "dynamical", progress=words.append)[1]
    assert len(words) == 1
    assert [file.suffix for file in cache.iterdir()] == [".npz"]
    monkeypatch.setattr(work_precision, "measure", lambda *_: pytest.fail("measured again"))
    second = curves_of(held_out(small(**SHORT, seed=7, lr=1.0)), "dynamical", progress=words.append)[1]
    assert len(words) == 1
    assert first.error.shape == (32, len(SHORT_CURVE))
    assert np.array_equal(first.error, second.error)
    assert np.array_equal(first.evaluations, second.evaluations)


def test_what_a_curve_depends_on(monkeypatch, cache):
    measured = []

    def pretend(systems, name, periods, progress=None):
        measured.append(name)
        return {horizon: Curve(np.ones((32, 9)), np.ones((32, 9))) for horizon in periods}

    monkeypatch.setattr(work_precision, "measure", pretend)
    curves_of(held_out(small(**SHORT)), "dynamical")
    for change in ({"e_max": 0.9}, {"mass": (1.0, 0.5)}, {"eval_periods": (2,)}, {"softening": 0.01}, {"dim": 3}):
        curves_of(held_out(small(**SHORT | change)), "dynamical")
    curves_of(held_out(small(**SHORT), "test"), "dynamical")
    curves_of(held_out(small(**SHORT)), "prs23")
    curves_of(held_out(small(**SHORT | {"lr": 1.0, "step_rule": "reversible", "n_steps": 3})), "dynamical")
    assert len(measured) == 8
    assert len(list(cache.iterdir())) == 8


def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch, cache):
    short_baselines(monkeypatch)
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr(work_precision, "measure", lambda *_: pytest.fail("measured first"))
    with pytest.raises(UserError, match=r"aitimestepper: cannot be written \(.*\); .* set XDG_CACHE_HOME"):
        curves_of(held_out(small(**SHORT)), "dynamical")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 torn"])
def test_a_damaged_curve_is_one_line(monkeypatch, cache, content):
    short_baselines(monkeypatch)
    systems = held_out(small(**SHORT))
    curves_of(systems, "dynamical")
    (file,) = cache.iterdir()
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"dynamical-validation-1-\w+.npz: no curve can be read from it; remove it"):
        curves_of(systems, "dynamical")


def test_measuring_says_which_curve_and_how_far(monkeypatch):
    short_baselines(monkeypatch)
    monkeypatch.setattr(measuring, "_EVERY", 0.05)
    words, systems = [], held_out(small(**SHORT))
    curves_of(systems, "fixed")
    plain = measure(systems, "prs23", (1,))[1]
    measure_missing(systems, words.append)
    begun = [text for text in words if "measuring" in text]
    assert [text.split(" on the validation set over 1 periods")[0] for text in begun] == [
        f"{place} of 5: measuring {name}" for place, name in enumerate([n for n in BASELINES if n != "fixed"], 1)
    ]
    shares = [int(text.split("%")[0].rsplit(" ")[-1]) for text in words if text.startswith("5 of 5: oracle: ")]
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert shares[-1] > 50
    watched = curves_of(systems, "prs23")[1]
    np.testing.assert_allclose(watched.evaluations, plain.evaluations, rtol=1e-6)
    np.testing.assert_allclose(watched.error, plain.error, rtol=1e-6)
    words.clear()
    measure_missing(systems, words.append)
    assert not words


def test_curves_of_sets_that_rank_nothing_end_earlier():
    """The finest points take most of the time; DESIGN asks for them where models are ranked."""
    dynamical = BASELINES["dynamical"]
    for name in ("validation", "test"):
        assert len(dynamical.constants_on(held_out(small(), name))) == len(dynamical.constants)
    assert dynamical.constants_on(held_out(small(), "eccentric")).min() == pytest.approx(3e-3)


def test_more_than_two_bodies_have_curves(monkeypatch):
    short_baselines(monkeypatch)
    curve = measure(held_out(small(**SHORT), "three_body"), "dynamical", (1,))[1]
    assert curve.error.shape == (32, len(SHORT_CURVE))
    assert np.median(curve.error[:, -1]) < 0.1 * np.median(curve.error[:, 0])


@pytest.mark.parametrize("held", ["validation", "test"])
@pytest.mark.parametrize("name", ["dynamical", "prs23", "oracle"])
def test_curves_of_the_default_systems_come_with_the_package(name, held):
    """All that scores need, over 10 and 100 periods."""
    systems = held_out(Config(), held)
    assert all(has_curve(systems, name, horizon) for horizon in horizons_of(systems, name))
    for curve in curves_of(systems, name).values():
        assert curve.error.shape == (len(systems.orbits.period), len(BASELINES[name].constants))
        assert np.isfinite(curve.evaluations).all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_curve_that_comes_with_the_package_is_what_is_measured(name, monkeypatch):
    """Its coarse end, measured again. The rest costs minutes and the same code."""
    systems, points = held_out(Config()), 4
    (shipped,) = curves_of(systems, name, (10,)).values()
    coarse = BASELINES[name].constants[:points]
    monkeypatch.setitem(BASELINES, name, replace(BASELINES[name], constants=coarse))
    measured = measure(systems, name, (10,))[10]
    moved = shipped.evaluations[:, :points] < 1e6  # a step that left at once has no cost a period
    np.testing.assert_allclose(measured.evaluations[moved], shipped.evaluations[:, :points][moved], rtol=1e-4)
    np.testing.assert_allclose(measured.error, shipped.error[:, :points], rtol=1e-3)
