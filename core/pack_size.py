"""How many lanes a pack should have: as many as the hardware advances at little more than the cost of one."""

import math
import time
from contextlib import suppress

import torch

from core.config import Config
from core.lane import Phase
from core.pack import trains_alone
from core.trainer import Trainer, TrainingFailed

#: So many times as many lanes are tried next, and are worth having if they do so many times as much.
_STEP, _WORTHWHILE = 4, 1.2
#: Ticks before those that are timed, of which the fastest counts, and seconds for the latter.
_WARM_UP, _SECONDS = 3, 0.2
#: Ticks in which minibatches must have been collected.
_MOST_TICKS = 2000
_NEVER = 2**62


def saturating_lanes(config: Config, most: int) -> int:
    """Return with how many lanes like ``config`` a pack gets the most done, up to ``most``, by a quick measurement.

    One lane is measured, then 4, 16, ...: as long as that brings a fifth, more are tried. Trainings that collect
    nothing, and so cannot be measured, are given no more.
    """
    lanes = 1
    if most <= 1 or trains_alone(config):
        return lanes
    with suppress(TrainingFailed):
        before = _tick(config, lanes)
        while lanes < most:
            more = min(_STEP * lanes, most)
            taken = _tick(config, more)
            if more / taken < _WORTHWHILE ** math.log(more / lanes, _STEP) * lanes / before:
                break
            lanes, before = more, taken
    return lanes


def replaying(configs: list[Config]) -> Trainer:
    """Return a trainer whose lanes are in phase 2, with full minibatches to draw, and stay there.

    Raises TrainingFailed if they do not collect as many samples.
    """
    for_ever = {"min_replay_size": _NEVER, "rel_loss_bound": -math.inf}
    trainer = Trainer([config.model_copy(update=for_ever) for config in configs])
    wanted = [min(config.replay_batch_size, config.replay_capacity) for config in configs]
    for _ in range(_MOST_TICKS):
        if all(trainer.buffer.count(lane) >= count for lane, count in enumerate(wanted)):
            break
        trainer.tick()
    else:
        raise TrainingFailed(f"After {_MOST_TICKS} ticks there are no full minibatches.")
    for lane in trainer.lanes:
        lane.phase, lane.next_verdict = Phase.REPLAY, _NEVER
    return trainer


def _tick(config: Config, lanes: int) -> float:
    """Return how long a tick of phase 2 takes, in seconds: of this thread, so that other programs count little."""
    on_gpu = config.torch_device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    trainer = replaying([config.model_copy(update={"seed": lane}) for lane in range(lanes)])
    for _ in range(_WARM_UP):
        trainer.tick()
    taken: list[float] = []
    while not taken or sum(taken) < _SECONDS:
        begun = clock()
        trainer.tick()
        if on_gpu:
            torch.cuda.synchronize()
        taken.append(clock() - begun)
    return min(taken)
