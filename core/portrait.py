"""One system of a held-out set, step by step: which dt a criterion takes along its way, and what energy that costs."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from core.checkpoint import Model
from core.config import StepRule
from core.forces import Forces, State
from core.held_out import HeldOut
from core.kepler import eccentricity
from core.simulation import FAILED_ERROR, STEPS_PER_PERIOD, Moved, simulate
from core.timestep import Criterion
from core.work_precision import BASELINES

Array = NDArray[np.float64]


class Portrait(NamedTuple):
    """The T steps of a system; all (T,), times in its own periods (crossing times for more than two bodies).

    A step begins at ``begun`` and ends at ``time``; ``dt`` is that of its leapfrog steps, ``error`` is
    |E - E(0)| / |E(0)| at its end. ``failed`` says that the system was given up at the last one.
    """

    begun: Array
    time: Array
    dt: Array
    error: Array
    failed: bool


def nearest_to(systems: HeldOut, wanted: float) -> tuple[int, float | None]:
    """Return the number of the two-body system whose eccentricity is nearest to ``wanted``, and that eccentricity.

    Of more bodies it is the first system, which has none.
    """
    if systems.config.num_particles != 2:
        return 0, None
    values = eccentricity(systems.orbits.state)
    number = int((values - wanted).abs().argmin())
    return number, float(values[number])


def of_model(model: Model, systems: HeldOut, number: int, periods: float) -> Portrait:
    """Simulate system ``number`` with a model, in its own dtype and by its own n_steps and step_rule."""
    config = model.config
    state, forces = systems.on(config)
    return _follow(state, forces, systems, number, model.criterion, periods, config.n_steps, config.step_rule)


def of_baseline(name: str, constant: float, systems: HeldOut, number: int, periods: float) -> Portrait:
    """Simulate system ``number`` with a baseline of core.work_precision and its constant."""
    state, forces = systems.on(systems.config)
    baseline, period = BASELINES[name], systems.orbits.period[number : number + 1]
    criterion = baseline.build(torch.tensor([constant], dtype=torch.float64), forces, period)
    return _follow(state, forces, systems, number, criterion, periods, 1, baseline.step_rule)


def _follow(
    states: State,
    forces: Forces,
    systems: HeldOut,
    number: int,
    criterion: Criterion,
    periods: float,
    n_steps: int,
    step_rule: StepRule,
) -> Portrait:
    period = systems.orbits.period[number : number + 1].to(states.mass.device)
    rows: list[tuple[float, float, float]] = []

    def note(moved: Moved) -> None:
        rows.append((float(moved.time[0]), float(moved.dt[0]), float(moved.energy[0])))

    with torch.no_grad():
        outcome = simulate(
            states.map(lambda tensor: tensor[number : number + 1]),
            criterion,
            forces,
            period,
            (periods,),
            n_steps=n_steps,
            step_rule=step_rule,
            fail_above=FAILED_ERROR,
            steps_per_period=STEPS_PER_PERIOD,
            observer=note,
        )
    time, dt, energy = np.array(rows, dtype=np.float64).T
    time, dt = time / float(period), dt / float(period)
    error = np.abs(energy[1:] - energy[0]) / abs(energy[0])
    return Portrait(time[:-1], time[1:], dt[1:], error, bool(outcome.records[-1].failed[0]))
