"""The networks of several trainings as one step criterion, so that they are simulated in one batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.features import pair_units
from core.forces import State
from core.input_rows import Chosen, InputRows
from core.timestep import Dynamical, Learned, network_of, proposed_step, unit_time


class LanesMemory(NamedTuple):
    """For each system its lane (m,), the rows of its input (m, F), its state, its steps so far (m,)."""

    lane: Tensor
    rows: Tensor
    state: State
    age: Tensor


class _Layout(NamedTuple):
    """Where the systems stand in the network's batch of ``rows`` for each of the ``lanes`` that are left.

    ``place`` is None where they stand one after the other; ``chosen`` and ``dt_bound`` (m,) are those of each system.
    """

    of: Tensor
    chosen: Chosen
    dt_bound: Tensor
    place: Tensor | None
    lanes: Tensor
    rows: int
    layers: list[tuple[Tensor, Tensor]]


class LearnedLanes:
    """Criteria of one pack (:func:`core.pack.pack_key`), each for ``systems`` systems, one's after another's.

    Each proposes for its systems, bit for bit, what it proposes alone.
    """

    def __init__(self, criteria: Sequence[Learned], systems: int):
        configs = [criterion.config for criterion in criteria]
        first = self._config = configs[0]
        device, dtype = first.torch_device, first.torch_dtype
        self.network = network_of(*configs)
        for lane, criterion in enumerate(criteria):
            own = self.network.named(self.network.flat[lane], lane)
            for name, tensor in criterion.network.named(criterion.network.flat[0], 0).items():
                own[name].copy_(tensor)
            self.network.own_frequencies(lane).copy_(criterion.network.own_frequencies(0))
        self._lane = torch.arange(len(configs), device=device).repeat_interleave(systems)
        self._layout: _Layout | None = None
        self._rows = InputRows(configs, [criterion.scales for criterion in criteria])
        self._dt_bound = torch.tensor([config.dt_bound for config in configs], device=device, dtype=dtype)
        self._eps = torch.tensor([config.eps for config in configs], device=device, dtype=dtype)
        self._history_len = torch.tensor([config.history_len for config in configs], device=device)

    def init(self, state: State) -> LanesMemory:
        """Return a memory without a past for all systems (M, N, D)."""
        rows = self._rows.begun(self._layout_of(self._lane).chosen, state)
        return LanesMemory(self._lane, rows, state, torch.zeros_like(self._lane))

    def propose(self, state: State, memory: LanesMemory) -> Tensor:
        """Return the step (m,) by the systems' own networks (no dropout)."""
        layout = self._layout_of(memory.lane)
        units = pair_units(state) if self._config.dt_scale == "pair" else None
        inputs = self._rows.inputs(memory.rows, layout.chosen, units)
        batch = inputs
        if layout.place is not None:
            batch = inputs.new_zeros(len(layout.lanes) * layout.rows, inputs.shape[1])
            batch[layout.place] = inputs
        batch = batch.view(len(layout.lanes), layout.rows, -1)
        output = self.network(self.network.embed(batch, layout.lanes), layout.layers)[:, : layout.rows, 0].reshape(-1)
        if layout.place is not None:
            output = output[layout.place]
        tau = proposed_step(output, unit_time(state, units), layout.dt_bound)
        if self._config.history_warmup == "analytic":
            eps = self._eps[memory.lane]
            warm = memory.age < self._history_len[memory.lane]
            tau = torch.where(warm, Dynamical(eps).propose(state, eps), tau)
        return tau

    def advance(self, memory: LanesMemory, state: State, dt: Tensor) -> LanesMemory:
        """Add the row of the step of ``dt`` (m,) that led to ``state``; the oldest row goes."""
        rows = self._rows.added(memory.rows, self._layout_of(memory.lane).chosen, memory.state, state, dt)
        return LanesMemory(memory.lane, rows, state, memory.age + 1)

    def _layout_of(self, lane: Tensor) -> _Layout:
        """Return the layout of a batch whose systems are of these lanes; it changes as systems leave."""
        layout = self._layout
        if layout is None or not (layout.of is lane or torch.equal(layout.of, lane)):
            lanes, number, counts = torch.unique(lane, return_inverse=True, return_counts=True)
            rows = int(counts.max())
            place = None
            if rows * len(lanes) > len(lane) or (lane[1:] < lane[:-1]).any():
                order = torch.argsort(number, stable=True)
                starts = counts.cumsum(0) - counts
                place = torch.empty_like(number)
                place[order] = torch.arange(len(lane), device=lane.device) - starts[number[order]]
                place += number * rows
            layers = self.network.views(self.network.flat[lanes])
            chosen, dt_bound = self._rows.choose(lane), self._dt_bound[lane]
            layout = self._layout = _Layout(lane, chosen, dt_bound, place, lanes, rows, layers)
        return layout
