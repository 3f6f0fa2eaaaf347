"""The verdict on lanes: how many of all their samples pass by the networks as they are now, and how many are timid."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.network import FullyConnectedNN
from core.objective import Objective
from core.samples import SampleShape

#: Samples of one pass through a network: what a layer makes of them stays in the cache.
_CHUNK = 512
#: Chunks, of whichever lanes, that are stepped together: their physics is many operations on few numbers each.
_TOGETHER = 8


class Verdict(NamedTuple):
    """Samples below energy_threshold, those of them below E_lower, and the sum of all rel_dE."""

    below: int
    timid: int
    total: float


def judge(
    rows: Sequence[Tensor], lanes: Sequence[int], shape: SampleShape, network: FullyConnectedNN, objective: Objective
) -> list[Verdict]:
    """Judge the samples ``rows`` (n, W) of each of the ``lanes``, of which there is at least one, without gradient."""
    chunks = [(lane, chunk) for lane, own in zip(lanes, rows, strict=True) for chunk in torch.split(own, _CHUNK)]
    judged = []
    for first in range(0, len(chunks), _TOGETHER):
        together = chunks[first : first + _TOGETHER]
        outputs = [_output(chunk, lane, shape, network) for lane, chunk in together]
        # Each sample stands for a lane of one sample.
        samples = shape.read(torch.cat([chunk for _, chunk in together]).unsqueeze(1))
        where = torch.cat([torch.full((len(chunk),), lane, device=chunk.device) for lane, chunk in together])
        error = objective.rel_dE(samples, torch.cat(outputs).view(-1, 1, 1), where)
        passed = (error < objective.threshold[where], error < objective.lower[where])
        judged.append(torch.cat([*passed, error], 1))
    counted = torch.split(torch.cat(judged), [len(own) for own in rows])
    sums = torch.stack([own.double().sum(0) for own in counted]).tolist()
    return [Verdict(int(below), int(timid), total) for below, timid, total in sums]


def _output(chunk: Tensor, lane: int, shape: SampleShape, network: FullyConnectedNN) -> Tensor:
    """Return the logarithm (n,) of the step that a lane's network proposes for each of its samples (n, W)."""
    where = slice(lane, lane + 1)
    inputs = network.embed(chunk[:, : shape.inputs].unsqueeze(0), where)
    return network(inputs, network.views(network.flat[where]))[0, : len(chunk), 0]
