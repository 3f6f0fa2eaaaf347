"""What networks of several lanes see of the past, whatever their features and histories: one gather for all.

Each lane's own input is a sequence of rows, oldest first, as :mod:`core.history` says: K transitions for delta_mag, K
past states and the current one for basic and rich. They are kept as they are, zeros where there is no past; a step
adds a row behind, and the oldest goes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import Config
from core.features import COLUMNS, InputScales, Units, state_rows, transition_rows
from core.forces import State
from core.history import LOG_LIMIT, input_width


class Chosen(NamedTuple):
    """What an :class:`InputRows` knows of some lanes, or of each system's lane; all (n, F).

    For each input: its column of a row, where its number comes from when a row is added, the logarithm of its scale.
    """

    column: Tensor
    source: Tensor
    log_scale: Tensor


class InputRows:
    """The inputs of L lanes."""

    def __init__(self, configs: Sequence[Config], scales: Sequence[InputScales]):
        device, dtype = configs[0].torch_device, configs[0].torch_dtype
        kinds = {str(config.feature_type) for config in configs}
        self._softening, self._rich, self._transitions = configs[0].softening, "rich" in kinds, "delta_mag" in kinds
        self._states = bool(kinds - {"delta_mag"})
        columns = list(COLUMNS["rich" if self._rich else "basic"]) if self._states else []
        state_columns = len(columns)
        columns += COLUMNS["delta_mag"] if self._transitions else []
        # A mass is a length^3 / time^2 when G = 1.
        exponents = [(length + 3 * mass, time - 2 * mass) for _, (length, time, mass), _ in columns]
        self._powers = torch.tensor(exponents, device=device, dtype=dtype).T
        widths = [input_width(config) for config in configs]
        #: Length F of the widest lane's input.
        self.width = max(widths)
        column, source, factors = [], [], []
        for config, own, scale in zip(configs, widths, scales, strict=True):
            assert config.feature_type is not None
            kind = COLUMNS[config.feature_type]
            begin = state_columns if config.feature_type == "delta_mag" else 0
            unused, added = self.width - own, range(self.width + begin, self.width + begin + len(kind))
            column.append([begin + number % len(kind) for number in range(own)] + [0] * unused)
            source.append([*range(len(kind), own), *added, *([self.width + len(columns)] * unused)])
            factors.append([scale.product(kind[number % len(kind)][2]) for number in range(own)] + [1.0] * unused)
        # What is added comes from the rows that are there, the new row, or the zero behind it.
        self._all = Chosen(
            torch.tensor(column, device=device),
            torch.tensor(source, device=device),
            torch.tensor(factors, device=device, dtype=dtype).log(),
        )

    def choose(self, where: slice | Tensor) -> Chosen:
        """Pick lanes for rows (n, B, F), or say each system's lane (m,) for rows (m, F)."""
        return Chosen(*(tensor[where] for tensor in self._all))

    def begun(self, chosen: Chosen, state: State) -> Tensor:
        """Return the rows (..., F) of systems without a past."""
        nothing = state.mass.new_zeros((*state.mass.shape[:-1], self.width))
        return self.added(nothing, chosen, state, state, torch.zeros_like(state.mass[..., 0]))

    def added(self, rows: Tensor, chosen: Chosen, before: State, after: State, dt: Tensor) -> Tensor:
        """Add the row of the step of ``dt`` (...) from ``before`` to ``after``; the oldest row goes."""
        new = [state_rows(after, self._softening, rich=self._rich)] if self._states else []
        if self._transitions:
            new.append(transition_rows(before, after, dt))
        zero = torch.zeros_like(rows[..., :1])
        return torch.cat([rows, *new, zero], -1).gather(-1, _for_each(chosen.source, rows))

    def inputs(self, rows: Tensor, chosen: Chosen, units: Units | None) -> Tensor:
        """Return the network's input (..., F); ``units`` are those of the current states with dt_scale "pair"."""
        logs = rows.log() - _for_each(chosen.log_scale, rows)
        if units is not None:
            unit_logs = torch.stack(units, -1).log() @ self._powers
            logs = logs - unit_logs.gather(-1, _for_each(chosen.column, rows))
        # The logarithm of a zero is -inf, and stands for "nothing there".
        return torch.where(rows > 0, logs.clamp(-LOG_LIMIT, LOG_LIMIT), 0)


def _for_each(by_lane: Tensor, rows: Tensor) -> Tensor:
    return by_lane if rows.dim() == by_lane.dim() else by_lane.unsqueeze(1).expand(-1, rows.shape[1], -1)
