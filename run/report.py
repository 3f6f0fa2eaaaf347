"""The report of a simulation: one JSON object of plain numbers, None where a number is not finite."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

import torch

from core.orbits import Orbits
from core.record import Record
from run.outputs import Files
from run.plan import ENDS, Plan

Report = dict[str, Any]


def make_report(plan: Plan, orbits: Orbits, record: Record, wall_time: float, files: Files) -> Report:
    """Say what was simulated and how it went. Totals are over all orbits, errors are the largest of any."""
    config = plan.config
    rows = per_orbit(record, orbits)
    if config.external_field_mass is not None:  # it changes momenta: that is no error
        rows = [row | dict.fromkeys(_CONSERVED) for row in rows]
    analytic = plan.model is None
    return {
        "mode": "simulate",
        "integrator_mode": config.integrator_mode,
        "model_path": config.model_path,
        "model_summary": None if analytic else plan.criterion_summary,
        "eps": config.eps if analytic and config.dt <= 0 else None,
        "dt": config.dt if analytic and config.dt > 0 else None,
        "n_steps": config.n_steps,
        "step_rule": config.step_rule,
        "num_orbits": len(rows),
        "num_particles": config.num_particles,
        "dim": config.dim,
        "until": {key: getattr(config, key) for key in ENDS if key in plan.ends},
        "unit_of_time": unit_of_time(plan),
        "energy_threshold": config.energy_threshold,
        "guard": plan.own.guard,
        "seed": None if plan.situation.given_systems else config.seed,
        "dtype": config.dtype,
        "device": str(config.torch_device),
        "wall_time_s": wall_time,
        **{name: sum(row[name] for row in rows) for name in _TOTALS},
        "time": _finite(min(row["time"] for row in rows)),
        **{name: _finite(max(_or_infinite(row[name]) for row in rows)) for name in _ERRORS},
        "median_max_rel_dE": _finite(statistics.median(_or_infinite(row["max_rel_dE"]) for row in rows)),
        "median_force_evaluations_per_period": _finite(
            statistics.median(
                row["force_evaluations"] / row["periods"] if row["periods"] else math.inf for row in rows
            )
        ),
        "failed_orbits": sum(row["failed"] for row in rows),
        "files": files,
        "orbits": rows,
    }


_TOTALS = ("steps", "force_evaluations", "rejected_steps", "violations", "fallbacks")
_CONSERVED = ("momentum_error", "angular_momentum_error")
_ERRORS = ("max_rel_dE", "final_rel_dE", *_CONSERVED)


def unit_of_time(plan: Plan) -> str:
    """Name what Nperiod counts."""
    return "period" if plan.config.num_particles == 2 else "crossing time"


def per_orbit(record: Record, orbits: Orbits) -> list[dict[str, Any]]:
    """Return one row of plain numbers for each system."""
    # A system whose first step was not finite failed where it started; the error of 0 there says nothing.
    known = ~(record.failed & (record.max_rel_dE == 0))
    columns = {
        "steps": record.steps,
        "force_evaluations": record.force_evaluations,
        "rejected_steps": record.rejected,
        "violations": record.violations,
        "fallbacks": record.fallbacks,
        "time": record.time,
        "periods": record.time / orbits.period,
        "initial_energy": record.initial_energy,
        "final_energy": record.final_energy,
        **{name: torch.where(known, getattr(record, name), torch.nan) for name in _ERRORS},
        "failed": record.failed,
    }
    values: Iterable[tuple[float, ...]] = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{name: _finite(value) for name, value in zip(columns, row, strict=True)} for row in values]


def summary(report: Report) -> str:
    """One line for people."""
    rejected = f"{report['rejected_steps']} steps rejected, " if report["guard"] else ""
    return (
        f"median max |dE/E| {_or_infinite(report['median_max_rel_dE']):.3g}, "
        f"{_or_infinite(report['median_force_evaluations_per_period']):.4g} force evaluations a "
        f"{report['unit_of_time']}, {rejected}{report['failed_orbits']} of {report['num_orbits']} orbits failed, "
        f"{report['wall_time_s']:.2f} s"
    )


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
