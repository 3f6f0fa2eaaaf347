"""Scores on held-out orbits that cannot be gamed: work at equal error (DESIGN.md section 7)."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.config import Config
from core.errors import ConfigError, UserError
from core.orbits import Orbits, draw, forces_of
from core.simulation import simulate
from core.timestep import Criterion, Dynamical

#: Held-out sets: number of orbits, and a seed that no training uses (Config refuses seeds above 2^40).
HELD_OUT = {"validation": (32, 2**40 + 1), "test": (128, 2**40 + 2)}
#: Constants of the dynamical criterion on its work-precision curve, from coarse to fine.
CURVE_EPS = np.geomspace(0.3, 3e-4, 19)
#: The error of a failed orbit, and of a curve where it blows up: a score is always a number.
_LARGEST_ERROR = 1e3
#: A failed orbit's gain is this times the share of time that it completed, and not below the least.
_FAILED_GAIN = 0.01
_LEAST_GAIN = 1e-6
#: Periods that a run which never moved is said to have completed: its cost is still a number.
_LEAST_TIME = 1e-3
#: Curves that come with the package: those of the default systems over 10 periods.
_SHIPPED = Path(__file__).parent / "curves"
#: Goes into the cache's key: change it with anything that changes a curve.
_CURVE_VERSION = 1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceCurves:
    """The dynamical criterion's cost and error on a held-out set: per horizon in periods, arrays (M, len(CURVE_EPS)).

    ``evaluations`` are force evaluations per period; ``error`` is max |E - E(0)| / |E(0)|.
    """

    held_out: str
    evaluations: dict[int, Array]
    error: dict[int, Array]

    def evaluations_at(self, error: Array, periods: int) -> Array:
        """Force evaluations per period (M,) that the criterion needs for each orbit's own ``error`` (M,).

        The running minimum of the measured error makes the curve monotonic; it is read log-log,
        and beyond an end it is that end.
        """
        best = np.minimum.accumulate(np.maximum(self.error[periods], 1e-300), axis=1)
        needed = np.empty(len(error))
        for orbit, target in enumerate(error):
            # np.interp wants increasing abscissae: from fine to coarse; equal errors keep the cheapest.
            errors, costs = np.log(best[orbit, ::-1]), np.log(self.evaluations[periods][orbit, ::-1])
            keep = np.append(np.diff(errors) > 0, True)
            needed[orbit] = np.interp(np.log(max(target, 1e-300)), errors[keep], costs[keep])
        return np.exp(needed)


def held_out_orbits(config: Config, held_out: str = "validation") -> Orbits:
    """Draw the orbits of a held-out set, as ``config`` describes its systems, in float64 on the CPU."""
    count, seed = HELD_OUT[held_out]
    plain = config.model_copy(update={"device": "cpu", "dtype": "float64"})
    return draw(plain, count, torch.Generator().manual_seed(seed))


def reference_curves(
    config: Config, held_out: str = "validation", progress: Callable[[str], None] | None = None
) -> ReferenceCurves:
    """Measure the dynamical criterion on a held-out set, or read it from where it is kept.

    It depends on the keys that describe systems and on ``eval_periods`` only. Measured for the first time, 10
    periods take about a minute and 100 about ten; the curve is then kept in the user's cache folder. That of the
    default systems over 10 periods comes with the package. Raises ConfigError for more than two bodies,
    UserError where the cache folder cannot be written.
    """
    if config.num_particles != 2:
        raise ConfigError(
            f"The value of `num_particles` is {config.num_particles}, but held-out scores of more than two bodies "
            "are not available yet in this version; search with 2."
        )
    name, periods = _curve_name(config, held_out), tuple(sorted(config.eval_periods))
    path = _SHIPPED / name
    if not path.exists():
        path = _cache_folder() / name
    if not path.exists():
        if progress is not None:
            progress("measuring the dynamical criterion on the held-out orbits: about a minute, kept for later runs")
        _keep(path, *_measure(config, held_out, periods))
    with np.load(path, allow_pickle=False) as stored:
        return ReferenceCurves(
            held_out,
            {horizon: stored[f"evaluations_{horizon}"] for horizon in periods},
            {horizon: stored[f"error_{horizon}"] for horizon in periods},
        )


def evaluate(criterion: Criterion, config: Config, curves: ReferenceCurves) -> dict[str, float]:
    """Score a criterion on the held-out set of ``curves``, cold start included.

    Plain names are for the first of ``eval_periods``; further horizons end in ``_<periods>``.

    - ``rel_dE``: median over orbits of max_t |E(t) - E(0)| / |E(0)|; a failed orbit counts as 1000
    - ``steps_per_orbit``: force evaluations per period, over all orbits
    - ``work_gain``: geometric mean over orbits of the dynamical criterion's force evaluations at
      the same error over the criterion's own
    - ``violations``: share of steps whose own rel_dE exceeds energy_threshold
    - ``failed_orbits``: orbits with an error above 0.1, a value that is not finite, or the cap on steps reached
    """
    orbits = held_out_orbits(config, curves.held_out)
    state = orbits.state.map(lambda tensor: tensor.to(config.torch_device, config.torch_dtype))
    period = orbits.period.to(config.torch_device)
    horizons = tuple(sorted(config.eval_periods))
    with torch.no_grad():
        outcome = simulate(
            state,
            criterion,
            forces_of(config),
            period,
            horizons,
            n_steps=config.n_steps,
            threshold=config.energy_threshold,
        )
    scores: dict[str, float] = {}
    for horizon, record in zip(horizons, outcome.records, strict=True):
        failed = record.failed.cpu().numpy()
        completed = (record.time / period).cpu().numpy()
        error = record.max_rel_dE.double().cpu().numpy()
        # A failed orbit stopped on its way: what its error would have been at the end is not known.
        error = np.where(failed, _LARGEST_ERROR, error)
        spent = record.force_evaluations.cpu().numpy()
        gain = np.where(
            failed,
            _FAILED_GAIN * np.minimum(completed / horizon, 1),
            curves.evaluations_at(error, horizon) * completed / spent,
        )
        suffix = "" if horizon == horizons[0] else f"_{horizon}"
        scores |= {
            f"rel_dE{suffix}": float(np.median(error)),
            f"steps_per_orbit{suffix}": float(spent.sum() / max(completed.sum(), _LEAST_TIME)),
            f"work_gain{suffix}": float(np.exp(np.log(np.maximum(gain, _LEAST_GAIN)).mean())),
            f"violations{suffix}": float(record.violations.sum() / record.steps.sum()),
            f"failed_orbits{suffix}": int(failed.sum()),
        }
    return scores


def _measure(
    config: Config, held_out: str, periods: tuple[int, ...]
) -> tuple[dict[int, Array], dict[int, Array]]:
    orbits = held_out_orbits(config, held_out)
    count, points = len(orbits.period), len(CURVE_EPS)
    state = orbits.state.map(lambda tensor: tensor.repeat_interleave(points, 0))
    period = orbits.period.repeat_interleave(points)
    plain = config.model_copy(update={"device": "cpu", "dtype": "float64"})
    with torch.no_grad():
        outcome = simulate(
            state,
            Dynamical(torch.from_numpy(CURVE_EPS).repeat(count)),
            forces_of(plain),
            period,
            periods,
            fail_above=_LARGEST_ERROR,
            steps_per_period=10 * round(1 / CURVE_EPS[-1]) * 10,
        )
    evaluations, error = {}, {}
    for horizon, record in zip(periods, outcome.records, strict=True):
        cost = record.force_evaluations / (record.time / period).clamp_min(1e-12)
        evaluations[horizon] = cost.numpy().reshape(count, points)
        measured = record.max_rel_dE.nan_to_num(_LARGEST_ERROR, _LARGEST_ERROR).clamp_max(_LARGEST_ERROR)
        error[horizon] = measured.numpy().reshape(count, points)
    return evaluations, error


def _curve_name(config: Config, held_out: str) -> str:
    """The file of a curve: it says what the curve depends on, as a hash."""
    keys = "num_particles dim mass pos_scale vel_scale softening external_field_mass external_field_position".split()
    values: dict[str, Any] = {key: config.to_dict()[key] for key in [*keys, "e_min", "e_max", "a_min", "a_max"]}
    values |= {
        "set": [held_out, *HELD_OUT[held_out]],
        "periods": sorted(config.eval_periods),
        "eps": [f"{eps:.12g}" for eps in CURVE_EPS],
        "version": _CURVE_VERSION,
    }
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    return f"dynamical-{held_out}-{digest}.npz"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aitimestepper"


def _keep(path: Path, evaluations: dict[int, Array], error: dict[int, Array]) -> None:
    """Write a curve, whole or not at all."""
    arrays = {f"evaluations_{horizon}": values for horizon, values in evaluations.items()}
    arrays |= {f"error_{horizon}": values for horizon, values in error.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    except OSError as problem:
        raise UserError(
            f"{path.parent}: the dynamical criterion's curve cannot be kept there ({problem.strerror}); set "
            "XDG_CACHE_HOME to a folder that can be written."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
