"""Scores on held-out orbits that cannot be gamed: work at equal error (DESIGN.md section 7)."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.batch import take
from core.config import Config, StepRule
from core.held_out import HeldOut, held_out
from core.kepler import kepler_separation, relative, semi_major_axis
from core.learned_lanes import LearnedLanes
from core.measuring import Say
from core.record import Record
from core.simulation import FAILED_ERROR, fly, land, simulate
from core.timestep import Criterion, Dynamical, Learned
from core.work_precision import LARGEST_ERROR, Array, Curve, curves_of

#: The baselines whose curves scores are made of.
SCORED_AGAINST = ("dynamical", "prs23", "oracle")
#: A failed orbit's gain is this times the share of time that it completed, and not below the least.
_FAILED_GAIN = 0.01
_LEAST_GAIN = 1e-6
#: Periods that a run which never moved is said to have completed: its cost is still a number.
_LEAST_TIME = 1e-3
#: Steps of each criterion that wall times are measured over.
_TIMED_STEPS = 100


@dataclass(frozen=True)
class References:
    """A held-out set and the curves that scores on it are made of, by baseline and horizon in periods."""

    systems: HeldOut
    curves: dict[str, dict[int, Curve]]


def references(config: Config, name: str = "validation", progress: Say | None = None) -> References:
    """Draw a held-out set as ``config`` describes its systems, and read or measure the curves for its ``eval_periods``.

    Raises UserError where a curve has to be kept and cannot be.
    """
    return references_on(held_out(config, name), progress)


def references_on(systems: HeldOut, progress: Say | None = None) -> References:
    """Read or measure the curves of a set."""
    return References(systems, {name: curves_of(systems, name, progress=progress) for name in SCORED_AGAINST})


def evaluate(criterion: Criterion, config: Config, against: References) -> dict[str, float]:
    """Score a criterion on a held-out set, cold start included, with the n_steps and step_rule of ``config``.

    Plain names are for the first horizon; further ones end in ``_<periods>``. For more than two
    bodies the period is the crossing time.

    - ``rel_dE``: median over orbits of max_t |E(t) - E(0)| / |E(0)|; a failed orbit counts as 1000
    - ``steps_per_orbit``: force evaluations per period, over all orbits
    - ``work_gain``, ``work_gain_prs23``: geometric mean over orbits of the force evaluations that the
      classical criterion needs for the same error over the criterion's own
    - ``oracle_share``: (n_prs23 - n) / (n_prs23 - n_oracle) at the same errors, n summed over the orbits; for the
      first horizon, and where the oracle is better than PRS23
    - ``energy_drift``: median least-squares slope of |E(t) - E(0)| / |E(0)|, per period
    - ``phase_error``: median of |x - x_Kepler| / |a| at the end, x the separation of two point masses without a
      field; for more bodies see :func:`core.reference.phase_error`
    - ``violations``: share of steps whose own rel_dE exceeds energy_threshold
    - ``fallbacks``: share of steps in which the reversible rule was not followed
    - ``failed_orbits``: orbits with an error above 0.1, a value that is not finite, or the cap on steps reached
    """
    with torch.no_grad():
        (scores,) = land(_evaluating(criterion, [config], against))
    return scores


def evaluating(criteria: Sequence[Learned], against: References) -> Generator[None, None, list[dict[str, float]]]:
    """Score several trained criteria of one pack in one batch, each as :func:`evaluate` does, bit for bit.

    It pauses after each tick of the simulation, and returns the scores at the end. Whoever runs it turns gradients off.
    """
    configs = [criterion.config for criterion in criteria]
    criterion = criteria[0] if len(criteria) == 1 else LearnedLanes(criteria, len(against.systems.orbits.period))
    return (yield from _evaluating(criterion, configs, against))


def _evaluating(
    criterion: Criterion, configs: Sequence[Config], against: References
) -> Generator[None, None, list[dict[str, float]]]:
    """Score a criterion that moves the set's systems once for each config, with each one's energy_threshold."""
    config, systems, count = configs[0], against.systems, len(configs)
    horizons = tuple(sorted(systems.periods))
    state, forces = systems.on(config)
    state = state.map(lambda tensor: tensor.repeat(count, *[1] * (tensor.dim() - 1)))
    period = systems.orbits.period.to(config.torch_device).repeat(count)
    limits = torch.tensor([one.energy_threshold for one in configs], dtype=torch.float64, device=period.device)
    each = len(period) // count
    rules = {one.step_rule for one in configs}
    reversible = torch.tensor([one.step_rule == "reversible" for one in configs], device=period.device)
    outcome = yield from fly(
        state,
        criterion,
        forces,
        period,
        horizons,
        n_steps=config.n_steps,
        step_rule=reversible.repeat_interleave(each) if len(rules) > 1 else config.step_rule,
        threshold=limits.to(state.mass.dtype).repeat_interleave(each),
    )
    scores: list[dict[str, float]] = [{} for _ in configs]
    for horizon, record in zip(horizons, outcome.records, strict=True):
        curves = {name: curve[horizon] for name, curve in against.curves.items() if horizon in curve}
        suffix = "" if horizon == horizons[0] else f"_{horizon}"
        for number, own in enumerate(scores):
            part = slice(number * each, (number + 1) * each)
            of_horizon = _scores(take(record, part), systems, horizon, curves)
            own |= {f"{key}{suffix}": value for key, value in of_horizon.items()}
    return scores


def baseline_scores(curve: Curve, against: dict[str, Curve], error: float) -> dict[str, float]:
    """Return the scores of a baseline with the one constant that gives the median error ``error`` on the set."""
    evaluations, errors = curve.at_median_error(error)
    failed = errors > FAILED_ERROR
    scores = {"rel_dE": float(np.median(errors)), "steps_per_orbit": float(evaluations.mean())}
    return scores | _gains(evaluations, errors, failed, np.ones_like(errors), against) | {
        "failed_orbits": int(failed.sum())
    }


def wall_gain(criterion: Criterion, config: Config, against: References, work_gain: float) -> float:
    """Return ``work_gain`` in wall time: times a force evaluation of the dynamical criterion over one of ``criterion``.

    What proposals and the rest of a step cost is counted in, by the n_steps and step_rule of ``config``; the
    dynamical criterion is asked at each step. Both are measured on the same orbits, in the same number of
    threads; the best of three each.
    """
    state, forces = against.systems.on(config)
    period = against.systems.orbits.period.to(config.torch_device)

    def seconds(one: Criterion, n_steps: int, step_rule: StepRule) -> float:
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            with torch.no_grad():
                simulate(
                    state,
                    one,
                    forces,
                    period,
                    steps=_TIMED_STEPS,
                    n_steps=n_steps,
                    step_rule=step_rule,
                    fail_above=float("inf"),
                )
            best = min(best, time.perf_counter() - started)
        return best / n_steps

    return work_gain * seconds(Dynamical(0.03), 1, "direct") / seconds(criterion, config.n_steps, config.step_rule)


def _scores(record: Record, systems: HeldOut, horizon: int, curves: dict[str, Curve]) -> dict[str, float]:
    failed = record.failed.cpu().numpy()
    period = systems.orbits.period.numpy()
    completed = record.time.cpu().numpy() / period
    # A failed orbit stopped on its way: what its error would have been at the end is not known.
    error = np.where(failed, LARGEST_ERROR, record.max_rel_dE.double().cpu().numpy())
    spent = record.force_evaluations.cpu().numpy()
    steps = max(int(record.steps.sum()), 1)
    scores = {
        "rel_dE": float(np.median(error)),
        "steps_per_orbit": float(spent.sum() / max(completed.sum(), _LEAST_TIME)),
        **_gains(spent / np.maximum(completed, _LEAST_TIME), error, failed, completed / horizon, curves),
        "energy_drift": float(np.median(np.where(failed, LARGEST_ERROR, record.drift.cpu().numpy() * period))),
    }
    if systems.is_kepler:
        start = systems.orbits.state
        away = relative(record.state.map(lambda tensor: tensor.double().cpu()))[0]
        away = away - kepler_separation(start, record.time.cpu())
        phase = torch.linalg.vector_norm(away, dim=-1) / semi_major_axis(start).abs()
        scores["phase_error"] = float(np.median(np.where(failed, LARGEST_ERROR, phase.numpy())))
    return scores | {
        "violations": float(record.violations.sum() / steps),
        "fallbacks": float(record.fallbacks.sum() / steps),
        "failed_orbits": int(failed.sum()),
    }


def _gains(
    spent: Array, error: Array, failed: NDArray[np.bool_], share: Array, curves: dict[str, Curve]
) -> dict[str, float]:
    """Gains over baselines, given force evaluations per period, error, and the share of time completed, (M,) each."""
    needed = {name: curve.evaluations_at(error) for name, curve in curves.items()}
    gains = {}
    for name, key in (("dynamical", "work_gain"), ("prs23", "work_gain_prs23")):
        if name in needed:
            gain = np.where(failed, _FAILED_GAIN * np.minimum(share, 1), needed[name] / spent)
            gains[key] = float(np.exp(np.log(np.maximum(gain, _LEAST_GAIN)).mean()))
    if "oracle" in needed and "prs23" in needed:
        possible = needed["prs23"].sum() - needed["oracle"].sum()
        if possible > 0:
            gains["oracle_share"] = float((needed["prs23"].sum() - spent.sum()) / possible)
    return gains
