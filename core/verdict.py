"""The verdict on lanes: how many of their samples pass by the networks as they are now, and how many are timid.

One sample that does not pass decides it. So a lane with many samples is first checked on some of them, and judged on
all only if those pass: what is lost costs little, and what is won was won on every sample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.network import FullyConnectedNN
from core.objective import Objective
from core.samples import SampleShape

#: Samples, drawn at random, that are judged before all of them are.
_SPOT_CHECK = 512
#: Samples of one pass through a network: what a layer makes of them stays in the cache.
_CHUNK = 512
#: Chunks, of whichever lanes, that are stepped together: their physics is many operations on few numbers each.
_TOGETHER = 8


class Verdict(NamedTuple):
    """Samples that were judged, those below energy_threshold, those of them below E_lower, the mean rel_dE of all."""

    judged: int
    below: int
    timid: int
    rel_dE: float


def judge(
    rows: Sequence[Tensor], lanes: Sequence[int], shape: SampleShape, network: FullyConnectedNN, objective: Objective
) -> list[Verdict]:
    """Judge the samples ``rows`` (n, W) of each of the ``lanes``, of which there is at least one, without gradient."""
    verdicts = _count([_spot_check(own) for own in rows], lanes, shape, network, objective)
    undecided = [
        place
        for place, (own, verdict) in enumerate(zip(rows, verdicts, strict=True))
        if verdict.judged == verdict.below < len(own)
    ]
    if undecided:
        whole = [rows[place] for place in undecided], [lanes[place] for place in undecided]
        for place, verdict in zip(undecided, _count(*whole, shape, network, objective), strict=True):
            verdicts[place] = verdict
    return verdicts


def _spot_check(rows: Tensor) -> Tensor:
    """Return _SPOT_CHECK of a lane's samples, or all if they are not more; of equally many the same ones every time."""
    count = len(rows)
    if count <= _SPOT_CHECK:
        return rows
    # A generator of its own: how a lane is judged leaves no trace in its training.
    places = torch.randint(count, (_SPOT_CHECK,), generator=torch.Generator().manual_seed(count))
    return rows.index_select(0, places.to(rows.device))


def _count(
    rows: Sequence[Tensor], lanes: Sequence[int], shape: SampleShape, network: FullyConnectedNN, objective: Objective
) -> list[Verdict]:
    """Step all ``rows`` of each lane, and count."""
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
    return [
        Verdict(len(own), int(below), int(timid), total / len(own))
        for own, (below, timid, total) in zip(rows, sums, strict=True)
    ]


def _output(chunk: Tensor, lane: int, shape: SampleShape, network: FullyConnectedNN) -> Tensor:
    """Return the logarithm (n,) of the step that a lane's network proposes for each of its samples (n, W)."""
    where = slice(lane, lane + 1)
    inputs = network.embed(chunk[:, : shape.inputs].unsqueeze(0), where)
    return network(inputs, network.views(network.flat[where]))[0, : len(chunk), 0]
