"""From the network's output to a step, its verdict and its loss: the physics of a training tick."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import Config
from core.forces import Forces, State, angular_momentum
from core.leapfrog import Block, Tangent, leapfrog, leapfrog_with_slope
from core.loss import Band, BandLoss, band_loss
from core.samples import Samples
from core.step_rule import reversible_step
from core.timestep import proposed_step

#: Changes of angular momentum below this times the machine precision are round-off. (Without a field
#: the leapfrog conserves angular momentum exactly, whatever its step.)
_ROUND_OFF = 1e3


class Attempt(NamedTuple):
    """A proposed block and what it did to the energy; dt (of one leapfrog step), change and rel_dE are (L, B).

    ``stretch`` is dt / tau, ``response`` d ln(dt) / d ln(tau), both (L, B); None stands for 1 everywhere.
    """

    dt: Tensor
    stretch: Tensor
    response: Tensor | None
    block: Block
    tangent: Tangent
    change: Tensor
    rel_dE: Tensor


class AngularMomentumError(NamedTuple):
    """Change |L1 - L0|, the scale it is measured by, and d |L1 - L0| / d(dt); all (L, B)."""

    change: Tensor
    scale: Tensor
    slope: Tensor


class Objective:
    """Steps, verdicts and losses of L lanes. ``where`` picks lanes: an index into (L, ...) tensors."""

    def __init__(self, configs: Sequence[Config], forces: Forces):
        first = configs[0]
        self.forces, self.n_steps = forces, first.n_steps
        device, dtype = first.torch_device, first.torch_dtype

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device, dtype=dtype).unsqueeze(1)

        self.threshold = column([config.energy_threshold for config in configs])
        self.lower = column([config.energy_band[0] for config in configs])
        self._band = Band(self.lower.log(), column([config.energy_band[1] for config in configs]).log())
        self._dt_bound = column([config.dt_bound for config in configs])
        self._weight = first.angular_momentum_weight
        self._momentum_band = Band(column([first.L_lower]).log(), column([first.L_upper]).log())
        self._leapfrog: Callable[[State, Tensor, Forces, int], tuple[Block, Tangent]] = leapfrog_with_slope
        self._band_loss: Callable[[Tensor, Tensor, Tensor, Tensor, Band], BandLoss] = band_loss
        if first.compile:
            self._leapfrog = torch.compile(leapfrog_with_slope, dynamic=True)
            self._band_loss = torch.compile(band_loss, dynamic=True)

    def attempt(
        self,
        samples: Samples,
        output: Tensor,
        where: slice | Tensor,
        instead: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Attempt:
        """Take the step that ``output`` (L, rows, 2) proposes, or ``instead`` (L, B) where that is not NaN.

        The step is the proposal times the samples' stretch; where there is a ``previous`` step (L, B) the
        reversible rule makes it.
        """
        tau = self._tau(samples, output, where)
        if instead is not None:
            tau = torch.where(instead.isnan(), tau, instead)
        if previous is None:
            dt, response = tau * samples.stretch, None
        else:
            ruled = reversible_step(tau, previous, samples.stretch)
            dt, response = ruled.dt, ruled.response(tau)
        block, tangent = self._leapfrog(samples.state, dt, self.forces, self.n_steps)
        change = block.energy - samples.energy
        return Attempt(dt, dt / tau, response, block, tangent, change, change.abs() / samples.scale)

    def rel_dE(self, samples: Samples, output: Tensor, where: slice | Tensor) -> Tensor:
        """Return the error (L, B) of each proposed step, without its slope."""
        dt = self._tau(samples, output, where) * samples.stretch
        block = leapfrog(samples.state, dt, self.forces, self.n_steps)
        return (block.energy - samples.energy).abs() / samples.scale

    def loss(self, samples: Samples, attempt: Attempt, where: slice | Tensor) -> BandLoss:
        """Return the band loss (L, B) of rel_dE, and of rel_dL where it has a weight; its slope is in ln(tau)."""
        value, slope = self._loss(samples, attempt, where)
        return BandLoss(value, slope if attempt.response is None else slope * attempt.response)

    def _loss(self, samples: Samples, attempt: Attempt, where: slice | Tensor) -> BandLoss:
        band = Band(self._band.lower[where], self._band.upper[where])
        energy = self._band_loss(attempt.change, samples.scale, attempt.tangent.energy, attempt.dt, band)
        if not self._weight:
            return energy
        error = angular_momentum_error(samples.state, attempt)
        momentum = self._band_loss(error.change, error.scale, error.slope, attempt.dt, self._momentum_band)
        real = error.change > _ROUND_OFF * torch.finfo(error.change.dtype).eps * error.scale
        return BandLoss(
            energy.value + self._weight * torch.where(real, momentum.value, 0),
            energy.slope + self._weight * torch.where(real, momentum.slope, 0),
        )

    def _tau(self, samples: Samples, output: Tensor, where: slice | Tensor) -> Tensor:
        return proposed_step(output[:, : samples.energy.shape[1], 0], samples.unit, self._dt_bound[where])


def angular_momentum_error(state: State, attempt: Attempt) -> AngularMomentumError:
    """Return how a block changed the angular momentum of ``state`` (L, B, N, D), each (L, B).

    The scale is max(|L0|, 1e-3 sum m |x| |v|), as for the energy.
    """
    before = angular_momentum(state.position, state.velocity, state.mass)
    after, tangent = attempt.block.state, attempt.tangent
    change = angular_momentum(after.position, after.velocity, state.mass) - before
    slope = angular_momentum(tangent.position, after.velocity, state.mass)
    slope = slope + angular_momentum(after.position, tangent.velocity, state.mass)
    size = change.square().sum(-1).sqrt()
    reach = state.position.square().sum(-1).sqrt() * state.velocity.square().sum(-1).sqrt()
    scale = torch.maximum(before.square().sum(-1).sqrt(), 1e-3 * (state.mass * reach).sum(-1))
    return AngularMomentumError(size, scale, (change * slope).sum(-1) / size)


def in_order(values: Tensor) -> Tensor:
    """Sum over the last dimension one by one, so that zeros behind a lane's own values do not change its rounding."""
    return values.cumsum(-1)[..., -1]
