"""What a simulation tells about its systems at a point in time. G = 1."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.batch import scatter
from core.conservation import momentum_errors
from core.forces import State


class Sums(NamedTuple):
    """Sums over steps of t, t^2, y and t y (each (m,), float64), from which a straight line y(t) is fitted."""

    t: Tensor
    tt: Tensor
    y: Tensor
    ty: Tensor

    def add(self, t: Tensor, y: Tensor) -> "Sums":
        """Add a point (m,) for each system; one at the origin changes nothing."""
        return Sums(self.t + t, torch.addcmul(self.tt, t, t), self.y + y, torch.addcmul(self.ty, t, y))

    def slope(self, count: Tensor) -> Tensor:
        """Least-squares slope (m,) over ``count`` points and the origin; 0 where there is no second point."""
        points = count + 1
        spread = points * self.tt - self.t * self.t
        return torch.where(spread > 0, (points * self.ty - self.t * self.y) / spread, 0)


class Run(NamedTuple):
    """What moves along with each system that is still in the batch; all (m, ...).

    ``retry`` is the step that the guard asks for after ``halvings`` rejections in a row; ``previous`` the last
    step, 0 where the reversible rule starts; ``sums`` those of |E - E(0)| / |E(0)| against time.
    """

    number: Tensor
    state: State
    memory: Any
    initial: Tensor
    initial_scale: Tensor
    energy: Tensor
    magnitude: Tensor
    time: Tensor
    steps: Tensor
    error: Tensor
    final: Tensor
    violations: Tensor
    failed: Tensor
    rejected: Tensor
    retry: Tensor
    halvings: Tensor
    previous: Tensor
    fallbacks: Tensor
    sums: Sums


class Record(NamedTuple):
    """How each of M systems fared up to a point in time; all (M,).

    Energy errors are relative to |E(0)| (or, if that is smaller, to 1e-3 (kinetic + |potential|) at
    the start), momentum errors as :func:`core.conservation.momentum_errors` says.
    ``force_evaluations`` include those of ``rejected`` steps, which the guard had done again; ``fallbacks``
    counts the steps in which the reversible rule's own value was refused. ``drift`` is the least-squares
    slope of the energy error against time, over the steps (1 / time).
    """

    time: Tensor
    force_evaluations: Tensor
    max_rel_dE: Tensor
    final_rel_dE: Tensor
    steps: Tensor
    violations: Tensor
    failed: Tensor
    rejected: Tensor
    fallbacks: Tensor
    initial_energy: Tensor
    final_energy: Tensor
    drift: Tensor
    state: State
    momentum_error: Tensor
    angular_momentum_error: Tensor


class Outcome(NamedTuple):
    """One record for each horizon."""

    records: list[Record]

    @property
    def state(self) -> State:
        """The states (M, N, D) where the systems stopped."""
        return self.records[-1].state


def record_of(runs: Sequence[Run], start: State, n_steps: int) -> Record:
    """Put the parts of a batch together, in the order of ``start``."""
    count = len(start.mass)
    parts = [[run.state[part] for run in runs] for part in range(4)]
    numbers = [run.number for run in runs]
    state = State(*(scatter(part, numbers, count) for part in parts))
    errors = momentum_errors(start, state)

    def all_of(name: str) -> Tensor:
        return scatter([getattr(run, name) for run in runs], numbers, count)

    steps, rejected = all_of("steps"), all_of("rejected")
    return Record(
        time=all_of("time"),
        force_evaluations=(steps + rejected) * n_steps,
        max_rel_dE=all_of("error"),
        final_rel_dE=all_of("final"),
        steps=steps,
        violations=all_of("violations"),
        failed=all_of("failed"),
        rejected=rejected,
        fallbacks=all_of("fallbacks"),
        initial_energy=all_of("initial"),
        final_energy=all_of("energy"),
        drift=scatter([run.sums.slope(run.steps) for run in runs], numbers, count),
        state=state,
        momentum_error=errors.momentum,
        angular_momentum_error=errors.angular_momentum,
    )
