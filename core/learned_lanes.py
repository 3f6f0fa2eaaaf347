"""The networks of several trainings as one step criterion, so that they are simulated in one batch.

A system's input is kept as logarithms in the order of its own network's columns: each step only adds the logarithms
of one new row, by one gather for all lanes, whatever their features and histories are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.features import COLUMNS, pair_units, state_rows, transition_rows
from core.forces import State
from core.history import LOG_LIMIT, input_width
from core.network import FullyConnectedNN
from core.timestep import Dynamical, Learned, proposed_step, unit_time


class LanesMemory(NamedTuple):
    """For each system its lane (m,), its input's logarithms (m, F) before units, its state, its steps so far (m,)."""

    lane: Tensor
    logs: Tensor
    state: State
    age: Tensor


class _Layout(NamedTuple):
    """Where the systems stand in the network's batch of ``rows`` for each of the ``lanes`` that are left."""

    of: Tensor
    place: Tensor
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
        widths = [input_width(config) for config in configs]
        self.network = FullyConnectedNN(
            widths, first.hidden_dims, first.activation, dtype, device, first.fourier_dim * (first.fourier_scale > 0)
        )
        for lane, criterion in enumerate(criteria):
            own = self.network.named(self.network.flat[lane], lane)
            for name, tensor in criterion.network.named(criterion.network.flat[0], 0).items():
                own[name].copy_(tensor)
            self.network.own_frequencies(lane).copy_(criterion.network.own_frequencies(0))
        self._lane = torch.arange(len(configs), device=device).repeat_interleave(systems)
        self._layout: _Layout | None = None
        kinds = {str(config.feature_type) for config in configs}
        self._rich, self._transitions = "rich" in kinds, "delta_mag" in kinds
        self._states = bool(kinds - {"delta_mag"})
        columns = COLUMNS["rich" if self._rich else "basic"] if self._states else []
        transitions_from = len(columns)
        columns = columns + (COLUMNS["delta_mag"] if self._transitions else [])
        exponents = [(length + 3 * mass, time - 2 * mass) for _, (length, time, mass), _ in columns]
        self._powers = torch.tensor(exponents, device=device, dtype=dtype).T
        #: By lane: which of a row's columns each input is made of, where its logarithm comes from when a row is added
        #: (the old ones, then the row's, then -inf), and the logarithms of input scales.
        width, of, sources, scales = max(widths), [], [], []
        for config, used, criterion in zip(configs, widths, criteria, strict=True):
            assert config.feature_type is not None
            kind = COLUMNS[config.feature_type]
            begin = transitions_from if config.feature_type == "delta_mag" else 0
            unused, added = width - used, range(width + begin, width + begin + len(kind))
            of.append([begin + number % len(kind) for number in range(used)] + [0] * unused)
            sources.append([*range(len(kind), used), *added, *([width + len(columns)] * unused)])
            factors = [criterion.scales.product(kind[number % len(kind)][2]) for number in range(used)]
            scales.append(factors + [1.0] * unused)
        self._column, self._source = torch.tensor(of, device=device), torch.tensor(sources, device=device)
        self._log_scales = torch.tensor(scales, device=device, dtype=dtype).log()
        self._dt_bound = torch.tensor([config.dt_bound for config in configs], device=device, dtype=dtype)
        self._eps = torch.tensor([config.eps for config in configs], device=device, dtype=dtype)
        self._history_len = torch.tensor([config.history_len for config in configs], device=device)

    def init(self, state: State) -> LanesMemory:
        """Return a memory without a past for all systems (M, N, D)."""
        logs = state.mass.new_full((len(self._lane), self._column.shape[1]), -torch.inf)
        if self._states:
            # The row of where systems start; of a transition that takes no time nothing is left in logarithms.
            logs = self._added(self._lane, logs, state, state, torch.zeros_like(state.mass[:, 0]))
        return LanesMemory(self._lane, logs, state, torch.zeros_like(self._lane))

    def propose(self, state: State, memory: LanesMemory) -> Tensor:
        """Return the step (m,) by the systems' own networks (no dropout)."""
        layout = self._layout_of(memory.lane)
        units = pair_units(state) if self._config.dt_scale == "pair" else None
        logs = memory.logs - self._log_scales[memory.lane]
        if units is not None:
            unit_logs = torch.stack(units, -1).log() @ self._powers
            logs = logs - unit_logs.gather(-1, self._column[memory.lane])
        inputs = torch.where(memory.logs > -torch.inf, logs.clamp(-LOG_LIMIT, LOG_LIMIT), 0)
        batch = inputs.new_zeros(len(layout.lanes) * layout.rows, inputs.shape[1])
        batch[layout.place] = inputs
        batch = batch.view(len(layout.lanes), layout.rows, -1)
        output = self.network(self.network.embed(batch, layout.lanes), layout.layers)[:, : layout.rows, 0]
        output = output.reshape(-1)[layout.place]
        tau = proposed_step(output, unit_time(state, units), self._dt_bound[memory.lane])
        if self._config.history_warmup == "analytic":
            eps = self._eps[memory.lane]
            warm = memory.age < self._history_len[memory.lane]
            tau = torch.where(warm, Dynamical(eps).propose(state, eps), tau)
        return tau

    def advance(self, memory: LanesMemory, state: State, dt: Tensor) -> LanesMemory:
        """Add the row of the step of ``dt`` (m,) that led to ``state``; the oldest row goes."""
        logs = self._added(memory.lane, memory.logs, memory.state, state, dt)
        return LanesMemory(memory.lane, logs, state, memory.age + 1)

    def _added(self, lane: Tensor, logs: Tensor, before: State, after: State, dt: Tensor) -> Tensor:
        rows = [state_rows(after, self._config.softening, rich=self._rich)] if self._states else []
        if self._transitions:
            rows.append(transition_rows(before, after, dt))
        nothing = logs.new_full((len(logs), 1), -torch.inf)
        return torch.cat([logs, torch.cat(rows, -1).log(), nothing], -1).gather(-1, self._source[lane])

    def _layout_of(self, lane: Tensor) -> _Layout:
        """Return the layout of a batch whose systems are of these lanes; it changes as systems leave."""
        layout = self._layout
        if layout is None or not torch.equal(layout.of, lane):
            lanes, number, counts = torch.unique(lane, return_inverse=True, return_counts=True)
            order = torch.argsort(number, stable=True)
            starts = counts.cumsum(0) - counts
            place = torch.empty_like(number)
            place[order] = torch.arange(len(lane), device=lane.device) - starts[number[order]]
            rows = int(counts.max())
            layers = self.network.views(self.network.flat[lanes])
            layout = self._layout = _Layout(lane, number * rows + place, lanes, rows, layers)
        return layout
