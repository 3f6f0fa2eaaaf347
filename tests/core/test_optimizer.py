"""Optimizers over lanes: each lane's steps are those of torch.optim on its parameters alone."""

import pytest
import torch

from core.optimizer import Optimizer, minimise
from tests.trainings import small

TORCH = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
SETTINGS = [{"lr": 1e-3, "weight_decay": 0.0}, {"lr": 3e-2, "weight_decay": 0.1}, {"lr": 1e-4, "weight_decay": 1e-3}]
MOMENTA = (0.7, 0.0, 0.9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", TORCH)
def test_lanes_step_as_torch_does(kind, dtype):
    """Own learning rates, weight decays and momenta, and step counts that differ as some lanes skip steps."""
    given = [
        own | ({"momentum": momentum} if kind == "sgd" else {})
        for own, momentum in zip(SETTINGS, MOMENTA, strict=True)
    ]
    configs = [small(optimizer=kind, dtype=dtype, **settings) for settings in given]
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(3, 999, generator=generator, dtype=configs[0].torch_dtype)
    expected = [torch.nn.Parameter(row.clone()) for row in flat]
    theirs = [TORCH[kind]([own], **settings) for own, settings in zip(expected, given, strict=True)]
    optimizer = Optimizer(configs, flat)
    for step in range(50):
        lanes = [lane for lane in range(3) if step % (lane + 1) == 0]
        gradients = torch.randn(len(lanes), 999, generator=generator, dtype=flat.dtype) * 10.0 ** (step % 7 - 5)
        rows = list(range(len(lanes)))[::-1]
        optimizer.gradient[rows] = gradients
        optimizer.step(lanes, rows)
        for lane, gradient in zip(lanes, gradients, strict=True):
            expected[lane].grad = gradient
            theirs[lane].step()
    for lane, own in enumerate(expected):
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        torch.testing.assert_close(flat[lane], own.detach(), rtol=tolerance, atol=tolerance)
        state = theirs[lane].state[own]
        for name, moment in optimizer.state(lane).items():
            if state.get(name) is not None:
                torch.testing.assert_close(moment, state[name], rtol=tolerance, atol=tolerance)


def test_a_lane_that_took_no_step_has_no_state():
    optimizer = Optimizer([small(), small()], torch.zeros(2, 4, dtype=torch.float64))
    optimizer.step([1], [0])
    assert optimizer.state(0) == {}
    assert set(optimizer.state(1)) == {"step", "exp_avg", "exp_avg_sq"}


def test_lbfgs_finds_the_minimum_and_takes_a_bad_step_back():
    target, config = torch.arange(5.0, dtype=torch.float64), small(optimizer="lbfgs", lr=1.0, weight_decay=0.0)
    weights = torch.zeros(5, dtype=torch.float64)
    minimise(weights, config, lambda: ((weights - target).square().sum(), 2 * (weights - target)))
    torch.testing.assert_close(weights, target)
    assert minimise(weights, config, lambda: (torch.tensor(torch.nan), torch.full((5,), torch.nan).double())) != 0
    torch.testing.assert_close(weights, target)
