"""The band loss on the logarithm of a step's relative energy error, and its derivative in closed form."""

from typing import NamedTuple

import torch
from torch import Tensor

#: d ln(rel_dE) / d ln(dt) is kept in this range. A leapfrog step's error grows as dt^3 (dt^4 where
#: the leading term vanishes). Near an accidental zero of dE(dt), and where dE is round-off, the
#: measured slope is huge or of the wrong sign and would throw the weights away from where they are good.
SLOPE_RANGE = (1.0, 8.0)


class Band(NamedTuple):
    """Logarithms of E_lower and E_upper, broadcastable to rel_dE."""

    lower: Tensor
    upper: Tensor


class BandLoss(NamedTuple):
    """Loss of each step and its derivative with respect to ln(dt), both of rel_dE's shape."""

    value: Tensor
    slope: Tensor


def band_loss(change: Tensor, scale: Tensor, change_slope: Tensor, dt: Tensor, band: Band) -> BandLoss:
    """Return ``relu(lower - x)^2 + relu(x - upper)^2`` with x = ln(|change| / scale), and its slope in ln(dt).

    ``change`` is E1 - E0, ``change_slope`` its derivative with respect to ``dt``; all (...).
    """
    tiny = torch.finfo(change.dtype).tiny
    log_error = torch.log((change.abs() / scale).clamp_min(tiny))
    growth = dt * change_slope / change
    # 0 / 0 (dE is exactly zero) counts as the smallest slope: the step is timid and should grow.
    growth = torch.where(torch.isnan(growth) & (change == 0), SLOPE_RANGE[0], growth).clamp(*SLOPE_RANGE)
    above = (log_error - band.upper).relu()
    below = (band.lower - log_error).relu()
    return BandLoss(above * above + below * below, 2 * (above - below) * growth)
