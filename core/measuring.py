"""What a long measurement says while it runs: how far it is, every ten seconds."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.forces import State
from core.timestep import Criterion

Say = Callable[[str], None]

#: Seconds between two lines.
_EVERY = 10.0


class _Memory(NamedTuple):
    """The criterion's own memory, the time (m,) that each system has reached, and the time (m,) where it ends."""

    own: Any
    reached: Tensor
    end: Tensor


class Watched:
    """A criterion that does what another one does, and says how far the slowest system is on its way to ``end`` (M,).

    It is no observer, for which what moved is picked out of the batch at each tick: that costs more than the step.
    """

    def __init__(self, criterion: Criterion, end: Tensor, say: Say):
        self._criterion, self._end, self._say = criterion, end, say
        self._began = time.monotonic()
        self._next = self._began + _EVERY

    def init(self, state: State) -> _Memory:
        """Start at time 0."""
        return _Memory(self._criterion.init(state), torch.zeros_like(self._end), self._end)

    def propose(self, state: State, memory: _Memory) -> Tensor:
        """Propose the criterion's step."""
        return self._criterion.propose(state, memory.own)

    def advance(self, memory: _Memory, state: State, dt: Tensor) -> _Memory:
        """Advance the criterion's memory, and say something if it is time to. Who has ended or failed has a dt of 0."""
        reached = memory.reached + dt
        now = time.monotonic()
        if now >= self._next and bool((dt > 0).any()):
            share = float((reached / memory.end)[dt > 0].min())
            self._say(f"{min(share, 1):.0%} after {now - self._began:.0f} s")
            self._next = now + _EVERY
        return _Memory(self._criterion.advance(memory.own, state, dt), reached, memory.end)
