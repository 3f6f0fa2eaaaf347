"""The band loss: its slope is its derivative, and outside the band it always says which way to go."""

import math

import pytest
import torch

from core.leapfrog import leapfrog, leapfrog_with_slope
from core.loss import SLOPE_RANGE, Band, band_loss
from tests.systems import GRAVITY, random_system

LOWER, UPPER = 1e-6, 1e-4
BAND = Band(torch.tensor(LOWER, dtype=torch.float64).log(), torch.tensor(UPPER, dtype=torch.float64).log())


def loss_of(rel_dE, growth=3.0):
    """Loss of steps with a given error that grows as dt^growth."""
    error = torch.as_tensor(rel_dE, dtype=torch.float64)
    dt = torch.full_like(error, 0.1)
    return band_loss(error, torch.ones_like(error), growth * error / dt, dt, BAND)


@pytest.mark.parametrize("n_steps", [1, 5])
def test_slope_is_the_derivative_in_the_logarithm_of_dt(n_steps):
    """On real steps on both sides of the band, wherever the measured slope is not cut."""
    state = random_system(3, leading=(60,))
    energy, _ = GRAVITY.energy(state)
    scale = energy.abs()
    log_dt = torch.linspace(math.log(1e-4), math.log(0.4), 60, dtype=torch.float64).requires_grad_()
    change = leapfrog(state, log_dt.exp(), GRAVITY, n_steps).energy - energy
    log_error = (change.abs() / scale).log()
    value = (BAND.lower - log_error).relu() ** 2 + (log_error - BAND.upper).relu() ** 2
    (expected,) = torch.autograd.grad(value.sum(), log_dt)
    block, (slope, *_) = leapfrog_with_slope(state, log_dt.exp().detach(), GRAVITY, n_steps)
    dt = log_dt.exp().detach()
    loss = band_loss(block.energy - energy, scale, slope, dt, BAND)
    growth = dt * slope / (block.energy - energy)
    resolved = (change.detach().abs() > 1e-12) & (growth > SLOPE_RANGE[0]) & (growth < SLOPE_RANGE[1])
    assert (loss.slope[resolved] > 0).sum() >= 5
    assert (loss.slope[resolved] < 0).sum() >= 5
    torch.testing.assert_close(loss.value[resolved], value.detach()[resolved], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss.slope[resolved], expected[resolved], rtol=1e-4, atol=1e-6)


def test_zero_inside_the_band():
    loss = loss_of([1.001 * LOWER, 1e-5, 0.999 * UPPER])
    assert (loss.value == 0).all()
    assert (loss.slope == 0).all()


def test_gradient_everywhere_above_the_band():
    """Between E_upper and energy_threshold the prototype had no gradient: 1000 retrains, and the run was lost."""
    loss = loss_of(UPPER * torch.logspace(0.01, 8, 50, dtype=torch.float64))
    assert (loss.slope > 0).all()
    assert (loss.slope.diff() > 0).all()
    assert (loss.value.diff() > 0).all()


def test_timid_steps_are_told_to_grow():
    """The prototype's lower bound was dead, and dt -> 0 was optimal."""
    loss = loss_of([1e-7, 1e-12, 1e-15])
    assert (loss.slope < 0).all()
    assert (loss.value > 0).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sign_of_the_energy_change_does_not_matter(sign):
    assert loss_of([sign * 1e-3]).value == loss_of([1e-3]).value
    assert loss_of([sign * 1e-3]).slope == loss_of([1e-3]).slope


@pytest.mark.parametrize("growth", [-50.0, 0.0, 1e9, math.inf])
def test_accidental_slopes_are_cut(growth):
    """Near an accidental zero of dE(dt) the slope is huge or of the wrong sign: its direction must still be right."""
    loss = loss_of([1e-3], growth)
    above = math.log(1e-3 / UPPER)
    assert 2 * above * SLOPE_RANGE[0] <= float(loss.slope) * (1 + 1e-12)
    assert float(loss.slope) <= 2 * above * SLOPE_RANGE[1] * (1 + 1e-12)


def test_step_without_any_energy_change_is_timid():
    loss = loss_of([0.0])
    assert torch.isfinite(loss.value).all()
    assert loss.slope < 0


@pytest.mark.parametrize(("rel_dE", "growth"), [(math.nan, 3.0), (1e-3, math.nan)])
def test_not_a_number_stays_one(rel_dE, growth):
    """Only what is not finite can be skipped and counted; a silent zero could not."""
    loss = loss_of([rel_dE], growth)
    assert torch.isnan(loss.slope).all()
    assert torch.isnan(loss.value).all() or not math.isnan(rel_dE)
