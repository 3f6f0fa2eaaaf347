"""What a long simulation shows on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

import time
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch import Tensor

from core.forces import Forces, State, relative_energy_scale
from core.simulation import FAILED_ERROR
from core.timestep import Criterion

#: Seconds before anything is shown, between two looks at a bar, and between two lines.
QUIET, BAR_EVERY, LINE_EVERY = 2.0, 0.5, 10.0


class Goal(NamedTuple):
    """Where a simulation ends: ``amount`` times ``unit`` (M,) of each system's time, or of its steps."""

    amount: float
    unit: Tensor
    name: str
    in_steps: bool = False


class _Memory(NamedTuple):
    """The criterion's own memory, each system's number (m,), and how far it is (m,), in time or steps."""

    own: Any
    number: Tensor
    done: Tensor


class SimulationProgress:
    """A criterion that does what another one does, and shows how far it is: use as a context.

    It is no observer, for which what moved is picked out of the batch at each tick: that costs 30 us, up to a third
    of the tick. This costs 2 us.
    """

    def __init__(self, criterion: Criterion, forces: Forces, goal: Goal):
        self._criterion, self._forces, self._goal = criterion, forces, goal
        self._began = time.monotonic()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._next = self._began + (QUIET if self.console.is_terminal else LINE_EVERY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def init(self, state: State) -> _Memory:
        """Remember where all systems start."""
        energy, magnitude = self._forces.energy(state)
        self._energy, self._scale = energy, relative_energy_scale(energy, magnitude)
        number = torch.arange(len(energy), device=energy.device)
        return _Memory(self._criterion.init(state), number, torch.zeros_like(energy, dtype=torch.float64))

    def propose(self, state: State, memory: _Memory) -> Tensor:
        """Propose the criterion's step, and show something if it is time to."""
        if time.monotonic() >= self._next:
            self._show(state, memory)
        return self._criterion.propose(state, memory.own)

    def advance(self, memory: _Memory, state: State, dt: Tensor) -> _Memory:
        """Advance the criterion's memory, and count."""
        done = memory.done + (1 if self._goal.in_steps else dt)
        return _Memory(self._criterion.advance(memory.own, state, dt), memory.number, done)

    def _show(self, state: State, memory: _Memory) -> None:
        number, goal = memory.number, self._goal
        error = (self._forces.energy(state)[0] - self._energy[number]).abs() / self._scale[number]
        reached = memory.done / goal.unit[number]
        running = (reached < goal.amount) & (error <= FAILED_ERROR)
        count = int(running.sum())
        if count:
            largest = float(error[running].max())
            text = f"{count} of {len(goal.unit)} orbits running  largest |dE/E| {largest:.1e}"
            self._print(float(reached[running].min()), text)
        self._next = time.monotonic() + (BAR_EVERY if self.console.is_terminal else LINE_EVERY)

    def _print(self, reached: float, numbers: str) -> None:
        goal = self._goal
        far = f"{reached:.0f}" if goal.in_steps else f"{reached:.4g}"
        text = f"{far}/{goal.amount:g} {goal.name}"
        elapsed = f"{time.monotonic() - self._began:.0f} s"
        if not self.console.is_terminal:
            self.console.print(f"{text}  {numbers}  {elapsed}", markup=False)
            return
        if self._bar is None:
            # Its own thread would take a share of the one core.
            columns = (TextColumn("{task.fields[far]}"), BarColumn(bar_width=20), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, auto_refresh=False, transient=True)
            self._task = self._bar.add_task("", total=goal.amount, far=text)
            self._bar.start()
        self._bar.update(self._task, completed=reached, description=f"{numbers}  {elapsed}", far=text, refresh=True)
