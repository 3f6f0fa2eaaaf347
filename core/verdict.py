"""The verdict on a lane: how many of all its samples pass by the network as it is now, and how many are timid."""

from typing import NamedTuple

import torch
from torch import Tensor

from core.network import FullyConnectedNN
from core.objective import Objective
from core.samples import SampleShape

#: Samples of one pass: what a pass makes of them stays in the cache.
_CHUNK = 512


class Verdict(NamedTuple):
    """Samples below energy_threshold, those of them below E_lower, and the sum of all rel_dE."""

    below: int
    timid: int
    total: float


def judge(
    rows: Tensor,
    shape: SampleShape,
    network: FullyConnectedNN,
    layers: list[tuple[Tensor, Tensor]],
    objective: Objective,
    lane: int,
) -> Verdict:
    """Judge the samples ``rows`` (n, W) of a lane with its ``layers``, without gradient."""
    where, below, timid, total = slice(lane, lane + 1), 0, 0, 0.0
    for chunk in torch.split(rows, _CHUNK):
        samples = shape.read(chunk.unsqueeze(0))
        output = network(network.embed(samples.inputs, where), layers)
        error = objective.rel_dE(samples, output, where)
        counts = torch.stack([error < objective.threshold[where], error < objective.lower[where]]).sum(-1).tolist()
        below, timid, total = below + counts[0][0], timid + counts[1][0], total + float(error.sum())
    return Verdict(below, timid, total)
