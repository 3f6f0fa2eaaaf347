"""Simulate many systems in one batch, each with its own steps, to one or more points in time. G = 1."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.forces import Forces, State, relative_energy_scale
from core.leapfrog import leapfrog
from core.timestep import Criterion

#: Most steps in a period: beyond them a model makes no progress that anybody would wait for.
STEPS_PER_PERIOD = 20_000
#: A relative energy error above this is a failed orbit.
FAILED_ERROR = 0.1
#: Ticks between two looks at whether finished systems should leave the batch.
_COMPACT_EVERY = 32


class Record(NamedTuple):
    """How each of M systems fared up to a point in time; all (M,)."""

    time: Tensor
    force_evaluations: Tensor
    max_rel_dE: Tensor
    final_rel_dE: Tensor
    steps: Tensor
    violations: Tensor
    failed: Tensor


class Outcome(NamedTuple):
    """One record for each horizon, and the states (M, N, D) where the systems stopped."""

    records: list[Record]
    state: State


class _Run(NamedTuple):
    """What moves along with each system that is still in the batch; all (m, ...)."""

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


def simulate(
    state: State,
    criterion: Criterion,
    forces: Forces,
    period: Tensor,
    periods: tuple[float, ...],
    *,
    n_steps: int = 1,
    threshold: float = torch.inf,
    fail_above: float = FAILED_ERROR,
    steps_per_period: int = STEPS_PER_PERIOD,
) -> Outcome:
    """Integrate ``state`` (M, N, D) with the criterion's own steps until each of ``periods`` (increasing).

    The step that passes a horizon is its last, and is not cut. A system fails, and stops, when its
    error |E - E(0)| / |E(0)| exceeds ``fail_above`` or is not finite, when its step is not finite and
    positive, or when it uses more than ``steps_per_period`` force evaluations a period. A step whose
    own rel_dE exceeds ``threshold`` is a violation.
    """
    count = state.mass.shape[0]
    energy, magnitude = forces.energy(state)
    zero = torch.zeros_like(period, dtype=torch.float64)
    whole = torch.zeros_like(period, dtype=torch.int64)
    run = _Run(
        number=torch.arange(count, device=period.device),
        state=state,
        memory=criterion.init(state),
        initial=energy,
        initial_scale=relative_energy_scale(energy, magnitude),
        energy=energy,
        magnitude=magnitude,
        time=zero,
        steps=whole,
        error=zero.to(energy.dtype),
        final=zero.to(energy.dtype),
        violations=whole.clone(),
        failed=torch.zeros_like(whole, dtype=torch.bool),
    )
    records = []
    rest: list[_Run] = []
    for horizon in periods:
        run, left = _run_to(
            run, horizon * period, period, criterion, forces, n_steps, threshold, fail_above, steps_per_period
        )
        rest += left
        records.append(_gather([run, *rest], count, n_steps))
    final = State(*(_scatter([part.state[i] for part in [run, *rest]], [run, *rest], count) for i in range(4)))
    return Outcome(records, final)


def _run_to(
    run: _Run,
    end: Tensor,
    period: Tensor,
    criterion: Criterion,
    forces: Forces,
    n_steps: int,
    threshold: float,
    fail_above: float,
    steps_per_period: int,
) -> tuple[_Run, list[_Run]]:
    """Advance all systems to their ``end`` (M,). Return all that go on together, and those that failed."""
    finished: list[_Run] = []
    ticks = 0
    ends, lengths = end[run.number], period[run.number]
    while True:
        active = ~run.failed & (run.time < ends)
        ticks += 1
        if ticks % _COMPACT_EVERY == 0:
            slow = run.steps * n_steps > steps_per_period * (torch.floor(run.time / lengths) + 1)
            run = run._replace(failed=run.failed | (active & slow))
            active = active & ~slow
            remaining = int(active.sum())
            if remaining == 0:
                break
            if 2 * remaining <= len(active):
                finished.append(take(run, ~active))
                run = take(run, active)
                ends, lengths = end[run.number], period[run.number]
                active = active[active]
        run = _step(run, active, criterion, forces, n_steps, threshold, fail_above)
    everything = [run, *finished]
    failed = [part for part in (take(part, part.failed) for part in everything) if len(part.number)]
    alive = [part for part in (take(part, ~part.failed) for part in everything) if len(part.number)]
    return (_join(alive) if alive else take(run, run.failed & False)), failed


def _step(
    run: _Run,
    active: Tensor,
    criterion: Criterion,
    forces: Forces,
    n_steps: int,
    threshold: float,
    fail_above: float,
) -> _Run:
    """One step of every active system; the others take a step of 0 and stay where they are."""
    tau = criterion.propose(run.state, run.memory)
    usable = active & torch.isfinite(tau) & (tau > 0)
    dt = torch.where(usable, tau, 0)
    block = leapfrog(run.state, dt, forces, n_steps)
    energy = block.energy
    violations = run.violations
    if threshold < torch.inf:
        scale = relative_energy_scale(run.energy, run.magnitude)
        violations = violations + (active & ~((energy - run.energy).abs() <= threshold * scale))
    error = (energy - run.initial).abs() / run.initial_scale
    sound = usable & (error <= fail_above)  # a NaN is not sound
    memory = criterion.advance(run.memory, block.state, dt * n_steps)
    return _Run(
        number=run.number,
        state=block.state,
        memory=memory,
        initial=run.initial,
        initial_scale=run.initial_scale,
        energy=energy,
        magnitude=block.kinetic + block.potential.abs(),
        time=run.time + torch.where(sound, dt, 0).double() * n_steps,  # a failed step completes no time
        steps=run.steps + active,
        error=torch.where(active, torch.maximum(run.error, error), run.error),
        final=torch.where(active, error, run.final),
        violations=violations,
        failed=run.failed | (active & ~sound),
    )


def take(tree: Any, index: Tensor) -> Any:
    """Pick systems out of a nested tuple of tensors whose first dimension counts systems."""
    if isinstance(tree, Tensor):
        return tree[index]
    if isinstance(tree, tuple):
        parts = (take(part, index) for part in tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def _join(parts: list[_Run]) -> Any:
    return parts[0] if len(parts) == 1 else _cat(parts)


def _cat(trees: list[Any]) -> Any:
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.cat(trees)
    if isinstance(first, tuple):
        parts = (_cat(list(group)) for group in zip(*trees, strict=True))
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return first


def _scatter(values: list[Tensor], runs: list[_Run], count: int) -> Tensor:
    target = torch.empty((count, *values[0].shape[1:]), dtype=values[0].dtype, device=values[0].device)
    for value, run in zip(values, runs, strict=True):
        target[run.number] = value
    return target


def _gather(runs: list[_Run], count: int, n_steps: int) -> Record:
    def all_of(name: str) -> Tensor:
        return _scatter([getattr(run, name) for run in runs], runs, count)

    steps = all_of("steps")
    return Record(
        time=all_of("time"),
        force_evaluations=steps * n_steps,
        max_rel_dE=all_of("error"),
        final_rel_dE=all_of("final"),
        steps=steps,
        violations=all_of("violations"),
        failed=all_of("failed"),
    )
