"""Work-precision curves of the classical criteria and the oracle on a held-out set, measured once and kept.

A curve is what a model's cost is compared with at its own error, orbit by orbit (DESIGN.md section 7).
Those of the default systems come with the package; others are kept in the user's cache folder.
"""

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.config import StepRule
from core.errors import UserError
from core.forces import Forces
from core.held_out import RANKING_SETS, HeldOut
from core.measuring import Say, Watched
from core.oracle import Oracle
from core.orbits import forces_of
from core.simulation import STEPS_PER_PERIOD, simulate
from core.timestep import PRS23, Criterion, Dynamical, Fixed
from core.whole_file import whole_file, writing

#: The error of a failed orbit, and of a curve where it blows up: a score is always a number.
LARGEST_ERROR = 1e3
#: Most force evaluations a period on a curve of two bodies, whose finest points take about 50,000.
_STEPS_PER_PERIOD = 400_000
#: Curves that come with the package.
_SHIPPED = Path(__file__).parent / "curves"
#: What to do where curves cannot be kept.
_ELSEWHERE = "free space, or set XDG_CACHE_HOME to a folder that can be written"
#: Goes into a file's name: change it with anything that changes a curve.
_VERSION = 2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """A criterion with one constant, the values it is measured at, and how it is made of them and the periods.

    The last ``finest`` values are left out on sets that no search ranks models by.
    """

    constants: Array
    build: Callable[[Tensor, Forces, Tensor], Criterion]
    step_rule: StepRule = "direct"
    finest: int = 0

    def constants_on(self, systems: HeldOut) -> Array:
        """Return the values that a set's curve has points at, from coarse to fine."""
        ranks = systems.name in RANKING_SETS
        return self.constants if ranks else self.constants[: len(self.constants) - self.finest]


def _dynamical(constant: Tensor, forces: Forces, period: Tensor) -> Criterion:
    return Dynamical(constant)


def _prs23(constant: Tensor, forces: Forces, period: Tensor) -> Criterion:
    return PRS23(constant, forces)


def _fixed(constant: Tensor, forces: Forces, period: Tensor) -> Criterion:
    return Fixed(constant * period)


def _oracle(constant: Tensor, forces: Forces, period: Tensor) -> Criterion:
    return Oracle(constant, forces)


_FINE, _SHORT = np.geomspace(0.3, 3e-4, 19), np.geomspace(0.3, 3e-3, 13)  # the short one ends at errors of 1e-5
#: Baselines that are measured over every horizon of a set; the others over the shortest, and shown for longer ones
#: where their curve is at hand. (The oracle tries some forty steps for each one, a fixed step needs very many.)
_OVER_ALL = frozenset({"dynamical", "prs23", "dynamical, reversible"})
#: From coarse to fine. A fixed step's constant is its share of the system's period, the oracle's its tolerance.
BASELINES = {
    "fixed": Baseline(np.geomspace(1 / 30, 1 / 10_000, 13), _fixed),
    # The six finest points, below PRS23's, take nine tenths of the steps.
    "dynamical": Baseline(_FINE, _dynamical, finest=6),
    "prs23": Baseline(_SHORT, _prs23),
    "dynamical, reversible": Baseline(_SHORT, _dynamical, "reversible"),
    "prs23, reversible": Baseline(_SHORT, _prs23, "reversible"),
    "oracle": Baseline(np.geomspace(1e-2, 1e-6, 9), _oracle),
}


@dataclass(frozen=True)
class Curve:
    """A baseline's cost and error on a held-out set over a number of periods, arrays (M, constants).

    ``evaluations`` are force evaluations per period; ``error`` is max |E - E(0)| / |E(0)|.
    """

    evaluations: Array
    error: Array

    def evaluations_at(self, error: Array) -> Array:
        """Force evaluations per period (M,) that the baseline needs for each orbit's own ``error`` (M,).

        The running minimum of the measured error makes the curve monotonic; it is read log-log,
        and beyond an end it is that end.
        """
        logs = np.log(np.maximum(error, 1e-300))
        return np.exp([np.interp(at, *points) for at, points in zip(logs, self._monotonic, strict=True)])

    @cached_property
    def _monotonic(self) -> list[tuple[Array, Array]]:
        """For each orbit, logarithms of the error and of the cost, by increasing error."""
        best = np.minimum.accumulate(np.maximum(self.error, 1e-300), axis=1)
        points = []
        for errors, costs in zip(np.log(best[:, ::-1]), np.log(self.evaluations[:, ::-1]), strict=True):
            keep = np.append(np.diff(errors) > 0, True)  # of equal errors the cheapest
            points.append((errors[keep], costs[keep]))
        return points

    def at_median_error(self, error: float) -> tuple[Array, Array]:
        """Cost and error (M,) with the one constant for all orbits whose median error is ``error``, log-log."""
        low, share = self._place(error)

        def between(values: Array) -> Array:
            logs = np.log(np.maximum(values, 1e-300))
            result: Array = np.exp((1 - share) * logs[:, low] + share * logs[:, low + 1])
            return result

        return between(self.evaluations), between(self.error)

    def constant_at(self, error: float, constants: Array) -> float:
        """The constant whose median error is ``error``, log-log between the ``constants`` of the curve's points."""
        low, share = self._place(error)
        return float(constants[low] ** (1 - share) * constants[low + 1] ** share)

    @property
    def least_error(self) -> float:
        """The smallest median error of a point: below it, the curve is its end."""
        return float(np.median(self.error, axis=0).min())

    def _place(self, error: float) -> tuple[int, float]:
        """Where between two points, the lower one and the share of the way to the next, the median error is ``error``.

        The running minimum of the medians is read log-log; beyond an end, it is that end.
        """
        medians = np.log(np.minimum.accumulate(np.median(np.maximum(self.error, 1e-300), axis=0)))
        keep = np.append(np.diff(medians[::-1]) > 0, True)
        place = float(np.interp(np.log(error), medians[::-1][keep], np.arange(len(medians))[::-1][keep]))
        low = min(int(place), len(medians) - 2)
        return low, place - low


def measure_missing(systems: HeldOut, progress: Say) -> None:
    """Have the curves of all baselines on a set at hand. Raises UserError as :func:`curves_of` does."""
    missing = [name for name in BASELINES if _missing(systems, name, horizons_of(systems, name))]
    for index, name in enumerate(missing, 1):
        place = f"{index} of {len(missing)}"
        curves_of(systems, name, progress=lambda text: progress(f"{place}: {text}"))  # noqa: B023


def curves_of(
    systems: HeldOut, name: str, periods: tuple[int, ...] | None = None, progress: Say | None = None
) -> dict[int, Curve]:
    """Return a baseline's curve for each of ``periods`` (by default the set's own), measured where it is not kept.

    Measured for the first time, 10 periods take about a minute and 100 about ten; ``progress`` is told how far it is.
    Raises UserError where the cache folder cannot be written, before it measures, and for a file that is damaged.
    """
    periods = horizons_of(systems, name) if periods is None else periods
    missing = _missing(systems, name, periods)
    if missing:
        folder = _cache_folder()
        _check_writable(folder)
        if progress is not None:
            shown = " and ".join(map(str, missing))
            minutes = "up to a minute or two" if max(missing) <= 10 else "ten minutes or more"
            progress(f"measuring {name} on the {systems.name} set over {shown} periods: {minutes}, kept for later runs")
        for horizon, curve in measure(systems, name, missing, progress).items():
            _keep(folder / _file_name(systems, name, horizon), curve)
    return {horizon: _read(_kept(systems, name, horizon)) for horizon in periods}


def _missing(systems: HeldOut, name: str, periods: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(horizon for horizon in periods if not has_curve(systems, name, horizon))


def horizons_of(systems: HeldOut, name: str) -> tuple[int, ...]:
    """Return the horizons of a set over which a baseline is measured, or has been."""
    shortest = min(systems.periods)
    return tuple(h for h in systems.periods if h == shortest or name in _OVER_ALL or has_curve(systems, name, h))


def has_curve(systems: HeldOut, name: str, horizon: int) -> bool:
    """Whether a baseline's curve over so many periods is at hand."""
    return _kept(systems, name, horizon).exists()


def measure(
    systems: HeldOut, name: str, periods: tuple[int, ...], progress: Say | None = None
) -> dict[int, Curve]:
    """Simulate a baseline with all of its constants at once, and return its curve for each of ``periods``."""
    baseline, orbits = BASELINES[name], systems.orbits
    constants = baseline.constants_on(systems)
    count, points = len(orbits.period), len(constants)
    state = orbits.state.map(lambda tensor: tensor.repeat_interleave(points, 0))
    period = orbits.period.repeat_interleave(points)
    forces = forces_of(systems.config)
    criterion = baseline.build(torch.from_numpy(constants).repeat(count), forces, period)
    if progress is not None:
        criterion = Watched(criterion, period * max(periods), lambda far: progress(f"{name}: {far}"))
    with torch.no_grad():
        outcome = simulate(
            state,
            criterion,
            forces,
            period,
            periods,
            step_rule=baseline.step_rule,
            fail_above=LARGEST_ERROR,
            steps_per_period=_STEPS_PER_PERIOD if systems.config.num_particles == 2 else STEPS_PER_PERIOD,
        )
    curves = {}
    for horizon, record in zip(periods, outcome.records, strict=True):
        cost = record.force_evaluations / (record.time / period).clamp_min(1e-12)
        error = record.max_rel_dE.nan_to_num(LARGEST_ERROR, LARGEST_ERROR).clamp_max(LARGEST_ERROR)
        # A system that was given up has no error that a criterion could be said to reach at its cost.
        error = torch.where(record.failed, LARGEST_ERROR, error)
        curves[horizon] = Curve(cost.numpy().reshape(count, points), error.numpy().reshape(count, points))
    return curves


def _file_name(systems: HeldOut, name: str, horizon: int) -> str:
    """Say what a curve depends on, most of it as a hash."""
    constants = [f"{constant:.12g}" for constant in BASELINES[name].constants_on(systems)]
    values = {**systems.identity, "constants": constants, "version": _VERSION}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    return f"{name.replace(', ', '-')}-{systems.name}-{horizon}-{digest}.npz"


def _cache_folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aitimestepper"
    except RuntimeError:  # a user whom the system does not know, as in some containers
        raise UserError(f"There is no home folder to keep curves in; {_ELSEWHERE}.") from None


def _check_writable(folder: Path) -> None:
    """Raise UserError if files cannot be kept there: it is better to know before minutes of measuring."""
    with writing(folder, _ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _kept(systems: HeldOut, name: str, horizon: int) -> Path:
    file = _file_name(systems, name, horizon)
    shipped = _SHIPPED / file
    return shipped if shipped.exists() else _cache_folder() / file


def _read(path: Path) -> Curve:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Curve(stored["evaluations"].astype(np.float64), stored["error"].astype(np.float64))
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path}: no curve can be read from it; remove it, and it is measured again.") from None


def _keep(path: Path, curve: Curve) -> None:
    arrays = {"evaluations": curve.evaluations, "error": curve.error}
    with whole_file(path, _ELSEWHERE) as file:
        np.savez_compressed(file, allow_pickle=False, **{k: v.astype(np.float32) for k, v in arrays.items()})
