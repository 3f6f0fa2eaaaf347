"""Phase 2's plan: when verdicts are due, and which samples the next minibatch takes."""

from collections import deque

import torch
from torch import Tensor

from core.lane import Lane
from core.samples import SampleBuffer

#: Updates between two verdicts, and the fewest before the first.
VERDICT_EVERY = 10
#: Updates over which phase 2's loss is averaged before it is compared with what it was.
STALL_WINDOW = 50
#: One in so many samples of a minibatch is a cold start.
_COLD_SHARE = 8


def plan_replay(lane: Lane, buffer: SampleBuffer, index: int) -> None:
    """Begin phase 2: the first verdict comes after one pass over the buffer, and not before 10 updates."""
    lane.order, lane.replay_losses = lane.order[:0], []
    one_pass = -(-buffer.count(index) // _replayed(lane, buffer, index))
    lane.next_verdict = min(lane.config.replay_steps, max(VERDICT_EVERY, one_pass))


def draw_minibatch(lane: Lane, buffer: SampleBuffer, index: int) -> Tensor:
    """Return the buffer's places (n,) of the next minibatch: the next of a random order, then random cold starts (< 0).

    As many are drawn at once as there will be for sure, so that the lane's random numbers are the same as one by one.
    """
    if not lane.drawn:
        lane.drawn = _draw(lane, buffer, index, 1 if lane.config.dropout else _updates_to_come(lane))
    return lane.drawn.popleft()


def _updates_to_come(lane: Lane) -> int:
    """Updates before the next verdict, or before phase 2 may be found stalled."""
    until_verdict = lane.next_verdict - lane.record.replay_updates
    return max(1, min(until_verdict, STALL_WINDOW - len(lane.replay_losses) % STALL_WINDOW))


def _draw(lane: Lane, buffer: SampleBuffer, index: int, count: int) -> deque[Tensor]:
    drawn: deque[Tensor] = deque()
    size, cold = _replayed(lane, buffer, index), buffer.cold_count(index)
    while len(drawn) < count:
        if not len(lane.order):
            lane.order = torch.randperm(buffer.count(index), generator=lane.generator)
        whole = min(count - len(drawn), len(lane.order) // size)
        batches, each = (whole, size) if whole else (1, len(lane.order))
        places, lane.order = lane.order[: batches * each], lane.order[batches * each :]
        places = places.view(batches, each)
        if cold:
            shape = (batches, max(1, each // (_COLD_SHARE - 1)))
            places = torch.cat([places, -1 - torch.randint(cold, shape, generator=lane.generator)], 1)
        drawn.extend(places.unbind(0))
    return drawn


def is_verdict_due(lane: Lane) -> bool:
    """Whether the lane's next thing to do in phase 2 is to be judged."""
    return lane.record.stalled or lane.record.replay_updates >= lane.next_verdict


def is_stalled(lane: Lane) -> bool:
    """Whether the mean loss of the last window improves on the window before by less than rel_loss_bound."""
    losses = lane.replay_losses
    if len(losses) < 2 * STALL_WINDOW or len(losses) % STALL_WINDOW:
        return False
    before, now = sum(losses[-2 * STALL_WINDOW : -STALL_WINDOW]), sum(losses[-STALL_WINDOW:])
    return before - now < lane.config.rel_loss_bound * before


def _replayed(lane: Lane, buffer: SampleBuffer, index: int) -> int:
    """Replay samples of a full minibatch: an eighth is left to cold starts where there are any."""
    size = lane.config.replay_batch_size
    return max(1, size - size // _COLD_SHARE) if buffer.cold_count(index) else size
