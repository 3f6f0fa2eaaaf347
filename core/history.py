"""The window of past rows and the network's input made from it, for L lanes at once.

One convention for training, replay and simulation: the window holds the rows of the K states
before the current one (basic, rich: the current row is added to the input, never to the window)
or of the K transitions that led to the current state (delta_mag), oldest first. A missing past is
zeros in feature space.

The network sees logarithms: rows span decades (a pericentre passage at e = 0.95 changes |a| by
1500), and ratios such as |dv| / dt are then differences that one layer can take. With dt_scale
"pair" every row is measured in the units of the *current* state, so that the input as a whole does
not change with the system's size or mass and still tells how the past compares with the present.

Lanes are grouped by feature type; a group's window is as long as its longest history, and a lane
takes the newest rows of it, placed first in its input, with zeros behind.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.config import Config
from core.features import COLUMNS, InputScales, Units, state_rows, transition_rows
from core.forces import State

#: Logarithms are cut here: round-off in a vanishing magnitude is no information.
LOG_LIMIT = 12.0

#: One tensor (lanes of the group, B, K, C) per feature type in use.
Windows = tuple[Tensor, ...]


def input_width(config: Config) -> int:
    """Length of the network's input that a config asks for."""
    assert config.feature_type is not None
    return len(COLUMNS[config.feature_type]) * (config.history_len + (config.feature_type != "delta_mag"))


class _Group:
    """The lanes that share a feature type."""

    def __init__(self, lanes: list[int], configs: Sequence[Config], scales: Sequence[InputScales], width: int):
        first = configs[lanes[0]]
        assert first.feature_type is not None
        self.kind = first.feature_type
        self.softening = first.softening
        self.history_len = max(configs[lane].history_len for lane in lanes)
        device, dtype = first.torch_device, first.torch_dtype
        self.numbers = lanes
        self.lanes: slice | Tensor = slice(None)
        if len(lanes) < len(configs):
            self.lanes = torch.tensor(lanes, device=device)
        columns = COLUMNS[self.kind]
        self.columns = len(columns)
        # A mass is a length^3 / time^2 when G = 1.
        exponents = [(length + 3 * mass, time - 2 * mass) for _, (length, time, mass), _ in columns]
        self.powers = torch.tensor(exponents, device=device, dtype=dtype).T
        by_lane = [[scales[lane].product(names) for _, _, names in columns] for lane in lanes]
        self.log_scales = torch.tensor(by_lane, device=device, dtype=dtype).log()[:, None, None, :]
        # Where each of a lane's input columns stands in the group's; the column after the last is zero.
        full = self.columns * (self.history_len + (self.kind != "delta_mag"))
        own = [input_width(configs[lane]) for lane in lanes]
        index = [[*range(full - count, full), *([full] * (width - count))] for count in own]
        aligned = all(count == width for count in own)
        self.index = None if aligned else torch.tensor(index, device=device)[:, None, :]

    def pick(self, state: State) -> State:
        return state.map(lambda tensor: tensor[self.lanes])

    def row(self, state: State) -> Tensor:
        return state_rows(state, self.softening, rich=self.kind == "rich")

    def inputs(self, state: State, window: Tensor, units: Units | None) -> Tensor:
        rows = window
        if self.kind != "delta_mag":
            rows = torch.cat([window, self.row(state).unsqueeze(-2)], -2)
        logs = rows.log() - self.log_scales
        if units is not None:
            logs = logs - (torch.stack(units, -1).log() @ self.powers).unsqueeze(-2)
        # The logarithm of a zero is -inf, and stands for "nothing there".
        inputs = torch.where(rows > 0, logs.clamp(-LOG_LIMIT, LOG_LIMIT), 0).flatten(-2)
        if self.index is not None:
            inputs = torch.cat([inputs, inputs.new_zeros((*inputs.shape[:-1], 1))], -1)
            inputs = inputs.gather(-1, self.index.expand(-1, inputs.shape[1], -1))
        return inputs


class History:
    """Makes, slides and reads the windows of L lanes; states have leading dimensions (L, B)."""

    def __init__(self, configs: Sequence[Config], scales: Sequence[InputScales]):
        self._lengths = [config.history_len for config in configs]
        self.width = max(input_width(config) for config in configs)
        by_kind: dict[str, list[int]] = {}
        for lane, config in enumerate(configs):
            by_kind.setdefault(str(config.feature_type), []).append(lane)
        self._groups = [_Group(lanes, configs, scales, self.width) for lanes in by_kind.values()]

    def empty(self, state: State) -> Windows:
        """Windows without a past for ``state`` (L, B, N, D)."""
        batch = state.mass.shape[1]
        windows = []
        for group in self._groups:
            lanes = group.log_scales.shape[0]
            windows.append(state.mass.new_zeros((lanes, batch, group.history_len, group.columns)))
        return tuple(windows)

    def slide(self, windows: Windows, before: State, after: State, dt: Tensor) -> Windows:
        """Append the row of the step from ``before`` to ``after`` that took ``dt`` (L, B); the oldest row goes."""
        moved = []
        for group, window in zip(self._groups, windows, strict=True):
            if group.history_len:
                old = group.pick(before)
                if group.kind == "delta_mag":
                    row = transition_rows(old, group.pick(after), dt[group.lanes])
                else:
                    row = group.row(old)
                window = torch.cat([window[..., 1:, :], row.unsqueeze(-2)], -2)
            moved.append(window)
        return tuple(moved)

    def own(self, windows: Windows, lane: int) -> Tensor:
        """Return the newest rows of one lane's window, as many as its own history is long, (B, K, C) (a view)."""
        for group, window in zip(self._groups, windows, strict=True):
            if lane in group.numbers:
                return window[group.numbers.index(lane), :, group.history_len - self._lengths[lane] :]
        raise IndexError(lane)

    def keep_where(self, keep: Tensor, new: Windows, old: Windows) -> Windows:
        """Choose the ``new`` window where ``keep`` (L, B) is true and the ``old`` one elsewhere."""
        return tuple(
            torch.where(keep[group.lanes][..., None, None], one, other)
            for group, one, other in zip(self._groups, new, old, strict=True)
        )

    def inputs(self, state: State, windows: Windows, units: Units | None) -> Tensor:
        """Return the network's input (L, B, F); ``units`` are those of ``state`` with dt_scale "pair", else None."""
        if len(self._groups) == 1:
            return self._groups[0].inputs(state, windows[0], units)
        inputs = state.mass.new_empty((*state.mass.shape[:2], self.width))
        for group, window in zip(self._groups, windows, strict=True):
            scale = None if units is None else Units(units.length[group.lanes], units.time[group.lanes])
            inputs[group.lanes] = group.inputs(group.pick(state), window, scale)
        return inputs
