"""Simulate many systems in one batch, each with its own steps, until times or a number of steps. G = 1.

A *step* is a block of ``n_steps`` leapfrog steps of one dt: one proposal, one verdict.
"""

from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from core.batch import choose, join, take
from core.config import StepRule
from core.forces import Forces, State, by_component, relative_energy_scale
from core.leapfrog import leapfrog
from core.record import Outcome, Run, Sums, record_of
from core.step_rule import reversible_step
from core.timestep import Criterion

#: Most steps in a period: beyond them a model makes no progress that anybody would wait for.
STEPS_PER_PERIOD = 20_000
#: A relative energy error above this is a failed orbit.
FAILED_ERROR = 0.1
#: The guard halves a step at most so many times (to a millionth), and then takes it as it is.
GUARD_HALVINGS = 20
#: Ticks between two looks at whether finished systems should leave the batch.
_COMPACT_EVERY = 32


class Moved(NamedTuple):
    """The k systems that a tick moved, as an observer gets them; all (k, ...).

    ``number`` counts from 0 in the order of the batch that was given; ``dt`` is that of the leapfrog
    (the time grows by n_steps of them), 0 in the first call, which shows how all systems start;
    ``force_evaluations`` is the number spent so far.
    """

    number: Tensor
    time: Tensor
    dt: Tensor
    state: State
    energy: Tensor
    force_evaluations: Tensor


Observer = Callable[[Moved], None]
Result = TypeVar("Result")


class _Rules(NamedTuple):
    """What is the same for all systems and ticks."""

    criterion: Criterion
    forces: Forces
    n_steps: int
    reversible: bool | Tensor
    threshold: float | Tensor
    guard: float | None
    fail_above: float
    steps: int | None
    steps_per_period: float
    observer: Observer | None


def simulate(
    state: State,
    criterion: Criterion,
    forces: Forces,
    period: Tensor,
    periods: tuple[float, ...] = (),
    *,
    duration: float | None = None,
    steps: int | None = None,
    n_steps: int = 1,
    step_rule: StepRule | Tensor = "direct",
    threshold: float | Tensor = torch.inf,
    guard: float | None = None,
    fail_above: float = FAILED_ERROR,
    steps_per_period: float = STEPS_PER_PERIOD,
    observer: Observer | None = None,
) -> Outcome:
    """Integrate ``state`` (M, N, D) with the criterion's own steps.

    A system ends when it has passed the last of ``periods`` (increasing, multiples of its own
    ``period`` (M,)), the time ``duration``, or ``steps`` steps, whichever is first; at least one of them is
    needed. There is a record for each of ``periods``, else one. The step that passes a horizon is its
    last, and is not cut.

    ``step_rule`` says how a proposed step becomes a taken one (core/step_rule.py); as a tensor (M,) of bools it
    says which systems have the reversible rule. After a step that the guard cut, that rule starts again.

    A system fails, and stops, when its error |E - E(0)| / |E(0)| exceeds ``fail_above`` or is not
    finite, when its step is not finite and positive, or, without ``steps``, when it uses more than
    ``steps_per_period`` force evaluations a period. A step whose own rel_dE exceeds ``threshold`` is
    a violation; it may be one for each system (M,).

    With ``guard`` a step whose own rel_dE exceeds it is done again with half the dt, until it passes
    or has been halved GUARD_HALVINGS times; each time is a rejected step.

    ``observer`` is called with all systems at the start, and after each tick with those that moved.
    Nothing is kept for it: memory does not grow with a run's length.
    """
    flight = fly(
        state,
        criterion,
        forces,
        period,
        periods,
        duration=duration,
        steps=steps,
        n_steps=n_steps,
        step_rule=step_rule,
        threshold=threshold,
        guard=guard,
        fail_above=fail_above,
        steps_per_period=steps_per_period,
        observer=observer,
    )
    return land(flight)


def land(flight: Generator[None, None, Result]) -> Result:
    """Run what goes tick by tick to its end, and return its result."""
    while True:
        try:
            next(flight)
        except StopIteration as end:
            result: Result = end.value
            return result


def fly(
    state: State,
    criterion: Criterion,
    forces: Forces,
    period: Tensor,
    periods: tuple[float, ...] = (),
    *,
    duration: float | None = None,
    steps: int | None = None,
    n_steps: int = 1,
    step_rule: StepRule | Tensor = "direct",
    threshold: float | Tensor = torch.inf,
    guard: float | None = None,
    fail_above: float = FAILED_ERROR,
    steps_per_period: float = STEPS_PER_PERIOD,
    observer: Observer | None = None,
) -> Generator[None, None, Outcome]:
    """Do as :func:`simulate` does, tick by tick: pause after each, and return the outcome at the end."""
    if not periods and duration is None and steps is None:
        raise ValueError("None of `periods`, `duration` and `steps` is given; the run would never end.")
    rule = step_rule if isinstance(step_rule, Tensor) else step_rule == "reversible"
    rules = _Rules(criterion, forces, n_steps, rule, threshold, guard, fail_above, steps, steps_per_period, observer)
    run = _start(state.map(lambda tensor: by_component(tensor, 1)), criterion, forces)
    if observer is not None:
        observer(Moved(run.number, run.time, torch.zeros_like(run.energy), run.state, run.energy, run.steps))
    records = []
    rest: list[Run] = []
    last = torch.full_like(run.time, torch.inf if duration is None else duration)
    ends = [torch.minimum(horizon * period, last) for horizon in periods] or [last]
    for number, end in enumerate(ends, 1):
        run, left = yield from _run_to(run, end, period, rules, last=number == len(ends))
        rest += left
        records.append(record_of([run, *rest], state, n_steps))
    return Outcome(records)


def _start(state: State, criterion: Criterion, forces: Forces) -> Run:
    energy, magnitude = forces.energy(state)
    whole = torch.zeros_like(energy, dtype=torch.int64)
    return Run(
        number=torch.arange(len(whole), device=whole.device),
        state=state,
        memory=criterion.init(state),
        initial=energy,
        initial_scale=relative_energy_scale(energy, magnitude),
        energy=energy,
        magnitude=magnitude,
        time=torch.zeros_like(energy, dtype=torch.float64),
        steps=whole,
        error=torch.zeros_like(energy),
        final=torch.zeros_like(energy),
        violations=whole,
        failed=torch.zeros_like(whole, dtype=torch.bool),
        rejected=whole,
        retry=torch.zeros_like(energy),
        halvings=whole,
        previous=torch.zeros_like(energy),
        fallbacks=whole,
        sums=Sums(*[torch.zeros_like(energy, dtype=torch.float64)] * 4),
    )


def _run_to(
    run: Run, end: Tensor, period: Tensor, rules: _Rules, *, last: bool
) -> Generator[None, None, tuple[Run, list[Run]]]:
    """Advance all systems to their ``end`` (M,). Return all that go on together, and those that failed."""
    finished: list[Run] = []
    ticks = 0
    look = run.time.device.type == "cpu"  # at each tick it would make a GPU wait
    ends, lengths = end[run.number], period[run.number]
    while True:
        active = ~run.failed & (run.time < ends)
        if rules.steps is not None:
            active = active & (run.steps < rules.steps)
        if look and not active.any():
            break
        ticks += 1
        if ticks % _COMPACT_EVERY == 0:
            if rules.steps is None:
                spent = (run.steps + run.rejected) * rules.n_steps
                slow = spent > rules.steps_per_period * (torch.floor(run.time / lengths) + 1)
                run = run._replace(failed=run.failed | (active & slow))
                active = active & ~slow
            remaining = int(active.sum())
            if remaining == 0:
                break
            if 2 * remaining <= len(active):
                finished.append(take(run, ~active))
                run = take(run, active)
                run = run._replace(state=run.state.map(lambda tensor: by_component(tensor, 1)))
                ends, lengths = end[run.number], period[run.number]
                active = active[active]
        run = _step(run, active, rules, waiting=not last)
        yield
    everything = [run, *finished]
    failed = [part for part in (take(part, part.failed) for part in everything) if len(part.number)]
    alive = [part for part in (take(part, ~part.failed) for part in everything) if len(part.number)]
    return (join(alive) if alive else take(run, run.failed & False)), failed


def _step(run: Run, active: Tensor, rules: _Rules, *, waiting: bool) -> Run:
    """One step of every active system; the others take one of 0, and if they are ``waiting`` keep their past."""
    n_steps = rules.n_steps
    tau = rules.criterion.propose(run.state, run.memory)
    cut = run.halvings > 0 if rules.guard is not None else None
    fallbacks, previous = run.fallbacks, run.previous
    if rules.reversible is not False:
        tau, _, fell_back = reversible_step(tau, run.previous)
        fell_back = fell_back & active
        fallbacks = fallbacks + (fell_back if cut is None else fell_back & ~cut)
    if cut is not None:
        tau = torch.where(cut, run.retry, tau)
    usable = active & (tau > 0) & (tau < torch.inf)  # a NaN is not usable
    dt = torch.where(usable, tau, 0)
    block = leapfrog(run.state, dt, rules.forces, n_steps)
    energy = block.energy
    violations = run.violations
    limit = rules.threshold
    if isinstance(limit, Tensor):
        violations = violations + (active & _exceeds(limit[run.number], run, energy))
    elif limit < torch.inf:
        violations = violations + (active & _exceeds(limit, run, energy))
    error = (energy - run.initial).abs() / run.initial_scale
    sound = usable & (error <= rules.fail_above)  # a NaN is not sound
    if rules.reversible is not False:
        # Without a step before it, the rule takes what is proposed, as `direct` does.
        keeps = active & rules.reversible[run.number] if isinstance(rules.reversible, Tensor) else active
        previous = torch.where(keeps, dt if cut is None else torch.where(cut, 0, dt), run.previous)
    memory = rules.criterion.advance(run.memory, block.state, dt * n_steps if n_steps > 1 else dt)
    if waiting:
        memory = choose(active, memory, run.memory)
    covered = torch.where(sound, dt, 0).double()  # a failed step completes no time
    time = run.time + (covered * n_steps if n_steps > 1 else covered)
    after = run._replace(
        state=block.state,
        memory=memory,
        energy=energy,
        magnitude=block.kinetic + block.potential.abs(),
        time=time,
        steps=run.steps + active,
        error=torch.where(active, torch.maximum(run.error, error), run.error),
        final=torch.where(active, error, run.final),
        violations=violations,
        failed=run.failed | (active ^ sound),
        halvings=run.halvings if cut is None else torch.zeros_like(run.halvings),
        previous=previous,
        fallbacks=fallbacks,
        sums=run.sums.add(torch.where(sound, time, 0), torch.where(sound, error, 0).double()),
    )
    taken = usable
    if rules.guard is not None:
        again = usable & _exceeds(rules.guard, run, energy) & (run.halvings < GUARD_HALVINGS)
        before = run._replace(retry=dt / 2, halvings=run.halvings + 1, rejected=run.rejected + 1)
        after, taken = choose(again, before, after), usable & ~again
    if rules.observer is not None:
        _observe(rules.observer, after, run.time, dt, taken, n_steps)
    return after


def _exceeds(limit: float | Tensor, run: Run, energy: Tensor) -> Tensor:
    """Whether the step that ends with ``energy`` has a rel_dE above ``limit`` (a NaN has), (m,)."""
    return ~((energy - run.energy).abs() <= limit * relative_energy_scale(run.energy, run.magnitude))


def _observe(observer: Observer, after: Run, begun: Tensor, dt: Tensor, taken: Tensor, n_steps: int) -> None:
    index = taken.nonzero().squeeze(-1)
    if len(index):
        time = begun + dt.double() * n_steps  # where a failed step led is worth a look, too
        spent = (after.steps + after.rejected) * n_steps
        observer(Moved(*take((after.number, time, dt, after.state, after.energy, spent), index)))
