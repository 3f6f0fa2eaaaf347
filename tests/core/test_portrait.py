"""Portraits of single orbits, against what theory says of each criterion."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core import portrait
from core.checkpoint import load_model, save_model
from core.config import Config
from core.forces import Forces
from core.held_out import HeldOut, held_out
from core.kepler import eccentricity, kepler_separation
from core.orbits import two_body
from core.simulation import simulate
from core.trainer import Trainer
from core.work_precision import BASELINES, curves_of

SMALL = {"hidden_dims": [16], "n_steps": 1, "dt_scale": "pair", "eval_periods": [10], "dropout": 0.0}


@pytest.fixture(scope="module")
def systems() -> HeldOut:
    return held_out(Config(eval_periods=(10,)))


@pytest.fixture(scope="module")
def number(systems: HeldOut) -> int:
    return portrait.nearest_to(systems, 0.9)[0]


@pytest.mark.parametrize("e", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("mass", [(1.0, 1.0), (1.0, 1e-3)])
def test_eccentricity_is_that_of_the_orbit(e: float, mass: tuple[float, float]) -> None:
    masses = torch.tensor(mass, dtype=torch.float64)
    start = two_body(torch.tensor(1.3, dtype=torch.float64), torch.tensor(e, dtype=torch.float64), masses, 3)
    assert float(eccentricity(Forces().state(*start, masses))) == pytest.approx(e, abs=1e-12)


def test_the_orbit_nearest_to_an_eccentricity(systems: HeldOut) -> None:
    number, found = portrait.nearest_to(systems, 0.9)
    every = eccentricity(systems.orbits.state)
    assert found == float(every[number]) == pytest.approx(0.9, abs=0.02)
    assert float((every - 0.9).abs().min()) == abs(found - 0.9)
    assert portrait.nearest_to(held_out(Config(num_particles=3)), 0.9) == (0, None)


def test_fixed_steps_are_equal_and_their_error_is_of_second_order(systems: HeldOut) -> None:
    number, _ = portrait.nearest_to(systems, 0.6)
    coarse, fine = (portrait.of_baseline("fixed", share, systems, number, 1) for share in (1 / 1000, 1 / 2000))
    assert coarse.dt == pytest.approx(np.full(len(coarse.dt), 1e-3))
    assert coarse.time - coarse.begun == pytest.approx(coarse.dt)
    assert coarse.begun[1:] == pytest.approx(coarse.time[:-1])
    assert 1000 <= len(coarse.dt) <= 1001
    assert coarse.error.max() / fine.error.max() == pytest.approx(4, rel=0.05)
    assert not coarse.failed


def test_dynamical_steps_follow_the_kepler_solution(systems: HeldOut, number: int) -> None:
    eps = 3e-3
    drawn = portrait.of_baseline("dynamical", eps, systems, number, 1)
    start = systems.orbits.state.map(lambda tensor: tensor[number])
    period = systems.orbits.period[number]
    times = torch.from_numpy(drawn.begun) * period
    many = start.map(lambda tensor: tensor.expand(len(times), *tensor.shape))
    distance = kepler_separation(many, times).norm(dim=-1)
    expected = eps * (distance**3 / start.mass.sum()).sqrt() / period
    assert drawn.dt == pytest.approx(expected.numpy(), rel=0.01)


def test_the_oracle_uses_its_tolerance_at_every_step(systems: HeldOut, number: int) -> None:
    tolerance = 1e-4
    drawn = portrait.of_baseline("oracle", tolerance, systems, number, 1)
    # |E - E(0)| changes by at most what a step changes E, and by just that while E runs one way.
    changes = np.abs(np.diff(drawn.error, prepend=0.0))
    assert changes.max() <= tolerance * 1.01
    assert np.median(changes) >= tolerance * 0.99


def test_a_constant_is_read_between_the_measured_ones(systems: HeldOut) -> None:
    curve, constants = curves_of(systems, "dynamical")[10], BASELINES["dynamical"].constants
    medians = np.median(curve.error, axis=0)
    assert curve.constant_at(float(medians[7]), constants) == pytest.approx(constants[7])
    between = curve.constant_at(float(np.sqrt(medians[7] * medians[8])), constants)
    assert between == pytest.approx(np.sqrt(constants[7] * constants[8]))
    cost = curve.at_median_error(float(medians[7]))[0]
    assert cost == pytest.approx(curve.evaluations[:, 7])


def test_a_model_is_drawn_as_it_is_scored(systems: HeldOut, number: int, tmp_path: Path) -> None:
    config = Config.from_mapping({**SMALL, "step_rule": "reversible"})
    save_model(tmp_path / "model.pt", Trainer([config]))
    model = load_model(tmp_path / "model.pt")
    drawn = portrait.of_model(model, systems, number, 10)
    state, forces = systems.on(config)
    with torch.no_grad():
        outcome = simulate(
            state, model.criterion, forces, systems.orbits.period, (10,), n_steps=1, step_rule="reversible"
        )
    (record,) = outcome.records
    assert len(drawn.dt) == int(record.steps[number])
    assert drawn.error.max() == pytest.approx(float(record.max_rel_dE[number]), rel=1e-6)
    assert drawn.time[-1] >= 10


def test_a_system_that_fails_is_drawn_up_to_there(systems: HeldOut, number: int) -> None:
    drawn = portrait.of_baseline("dynamical", 1.0, systems, number, 10)
    assert drawn.failed
    assert drawn.error[-1] > 0.1
    assert drawn.time[-1] < 10
