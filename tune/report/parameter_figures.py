"""Figures of what the parameters do: parallel coordinates, slices, importances."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tune.parameters import Parameter, as_text
from tune.report.data import NotDrawn, Search
from tune.report.model_figures import Drawing
from tune.report.theme import Theme, canvas, dress, log_axis
from tune.report.trial_figures import robust_limits, scored
from tune.study import TrialRecord

#: Fewer trials than this say nothing about which parameter matters.
_FEWEST = 4
_SLICE_COLUMNS = 4


def parameter_drawings(search: Search) -> list[Drawing]:
    """Return the figures of the parameters, in the order of the page."""
    return [
        Drawing(
            "parallel_coordinates",
            "Parallel coordinates",
            f"Each line is a trial, coloured by {search.objective}, the best drawn thick; those beyond a limit are "
            "grey. A line has a gap where a trial does not have the parameter.",
            lambda theme: _parallel(search, theme),
        ),
        Drawing(
            "importances",
            "Parameter importances",
            "Which parameters tell the best trials from the rest (PED-ANOVA over trials that ran to their end; shares "
            "of 1). A parameter with a range for each value of another counts once; one that only some trials have is "
            "left out. Few trials make it rough.",
            lambda theme: _importances(search, theme),
        ),
        Drawing(
            "slice",
            "Slices",
            f"{search.objective} against each parameter alone: filled dots ran to their end, hollow ones were stopped, "
            "crosses are beyond a limit. Colours go from the first trial (violet) to the last (yellow).",
            lambda theme: _slice(search, theme),
        ),
    ]


class _Axis:
    """Where a parameter's values lie between 0 and 1, and how its ends and choices are written."""

    def __init__(self, parameter: Parameter):
        every = [value for domain in parameter.domains for value in domain]
        self.choices: list[str] = []
        self.log = bool(getattr(parameter, "log", False))
        self.whole = parameter.kind == "int"
        if parameter.kind == "choice":
            self.choices = list(dict.fromkeys(map(as_text, every)))
        else:
            self.low, self.high = float(min(every)), float(max(every))

    def place(self, value: Any) -> float:
        """A value's place."""
        if self.choices:
            return self.choices.index(as_text(value)) / max(len(self.choices) - 1, 1)
        if self.low == self.high:
            return 0.5
        scale: Callable[[float], float] = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts."""
        if self.choices:
            return [(index / max(len(self.choices) - 1, 1), text) for index, text in enumerate(self.choices)]
        if self.low == self.high:
            return [(0.5, f"{self.low:g}")]
        values = np.geomspace(self.low, self.high, 4) if self.log else np.linspace(self.low, self.high, 4)
        if self.whole:
            values = np.unique(values.round())
        return [(self.place(value), f"{value:.2g}" if not self.whole else f"{value:.0f}") for value in values]


def _drawable(search: Search) -> list[TrialRecord]:
    """Trials with a score and parameters."""
    return [record for record in scored(search, search.objective) if record.parameters]


def _parallel(search: Search, theme: Theme) -> Figure:
    records = _drawable(search)
    if not records:
        raise NotDrawn(f"No trial has a {search.objective}.")
    axes_of = {key: _Axis(parameter) for key, parameter in search.space.parameters.items()}
    kept = [record for record in records if search.within(record.scores)] or records
    values = [record.scores[search.objective] for record in kept]
    low, high = robust_limits(values)
    low, high = max(low, min(values)), min(high, max(values))
    span = max(high - low, 1e-12)
    colours = ScalarMappable(Normalize(low, low + span), theme.scale)
    figure = canvas(theme, max(9.0, 1.6 * (len(axes_of) + 1)), 4.4)
    axes = dress(figure.subplots(), theme, grid=False)
    best = search.best.trial if search.best else None
    for record in sorted(records, key=lambda record: (record.number == best, record in kept)):
        drawn = record.parameters
        places = [axis.place(drawn[key]) if key in drawn else math.nan for key, axis in axes_of.items()]
        places.append(min(max((record.scores[search.objective] - low) / span, -0.03), 1.03))
        top = record.number == best
        color = colours.to_rgba(np.array(record.scores[search.objective])) if record in kept else theme.grid
        axes.plot(
            range(len(places)), places, color=theme.model if top else color, linewidth=2.6 if top else 1.1,
            alpha=1.0 if top else 0.85, zorder=6 if top else 4 if record in kept else 3,
        )  # fmt: skip
    for index, (key, axis) in enumerate(axes_of.items()):
        _upright(axes, index, key + (", log" if axis.log else ""), axis.ticks, theme)
    # One value, of the only trial within the limit say, is no scale.
    shares = (0.0, 0.5, 1.0) if high - low > 1e-3 * abs(high) else (0.0,)
    ends = [(share, f"{low + share * span:.3g}") for share in shares]
    _upright(axes, len(axes_of), search.objective, ends, theme)
    axes.set_xlim(-0.15, len(axes_of) + 0.35)
    axes.set_ylim(-0.08, 1.05)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _upright(axes: Any, x: int, title: str, ticks: list[tuple[float, str]], theme: Theme) -> None:
    axes.add_collection(LineCollection([[(x, 0), (x, 1)]], colors=theme.muted, linewidths=1.0, zorder=5))
    axes.annotate(title, (x, 1.0), xytext=(0, 14), textcoords="offset points", ha="center", fontsize=9.5,
                  color=theme.ink, annotation_clip=False)  # fmt: skip
    for place, text in ticks:
        axes.annotate(
            text, (x, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=theme.ink,
            zorder=7, annotation_clip=False,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": theme.paper, "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip


def _importances(search: Search, theme: Theme) -> Figure:
    shares = importances(search)
    figure = canvas(theme, 9.0, 1.1 + 0.34 * len(shares))
    axes = dress(figure.subplots(), theme, "importance")
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh(names, [shares[name] for name in names], color=theme.states["COMPLETE"], height=0.6)
    for place, name in enumerate(names):
        axes.annotate(f"{shares[name]:.2f}", (shares[name], place), xytext=(5, 0), textcoords="offset points",
                      va="center", fontsize=8.5, color=theme.ink)  # fmt: skip
    axes.set_xlim(0, max(shares.values()) * 1.12)
    axes.tick_params(axis="y", colors=theme.ink)
    axes.grid(visible=False, axis="y")
    return figure


def importances(search: Search) -> dict[str, float]:
    """Share of each parameter in what tells good trials from others. Raises NotDrawn.

    Optuna knows a conditional parameter under several names. Here it has one, with all of its ranges put together, and
    a trial's value is what ranks it, so that a loose energy error does not count as a gain.
    """
    space = {key: _distribution(parameter) for key, parameter in search.space.parameters.items()}
    records = [record for record in _drawable(search) if record.state == "COMPLETE"]
    free = {
        key: distribution
        for key, distribution in space.items()
        if not distribution.single() and all(key in record.parameters for record in records)
    }
    if len(free) < 2:
        raise NotDrawn("Fewer than two parameters vary, so there is nothing to weigh against each other.")
    merit = search.ranking.merit
    values = [float(merit(record.scores)) for record in records]
    if len(records) < _FEWEST or len(set(values)) < 2:
        raise NotDrawn(
            f"{len(records)} trials ran to their end; with fewer than {_FEWEST} that differ nothing can be said."
        )
    study = optuna.create_study(direction="maximize")
    for record, value in zip(records, values, strict=True):
        parameters = {key: _plain(record.parameters[key]) for key in free}
        study.add_trial(optuna.trial.create_trial(params=parameters, distributions=free, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return dict(optuna.importance.get_param_importances(study))


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    axis = _Axis(parameter)
    if axis.choices:
        every = [_plain(value) for domain in parameter.domains for value in domain]
        return optuna.distributions.CategoricalDistribution(list(dict.fromkeys(every)))
    if parameter.kind == "int":
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _plain(value: Any) -> Any:
    return as_text(value) if isinstance(value, list | tuple) else value


def _slice(search: Search, theme: Theme) -> Figure:
    records = _drawable(search)
    if not records:
        raise NotDrawn(f"No trial has a {search.objective}.")
    axes_of = {key: _Axis(parameter) for key, parameter in search.space.parameters.items()}
    columns = min(len(axes_of), _SLICE_COLUMNS)
    rows = -(-len(axes_of) // columns)
    figure = canvas(theme, 10.0 if columns > 1 else 5.0, 3.0 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    newest = ScalarMappable(Normalize(0, max(record.number for record in records) or 1), theme.scale)
    scores = [record.scores[search.objective] for record in records]
    for panel, (key, axis) in zip(grid.flat, axes_of.items(), strict=False):
        axes = dress(panel, theme, key, search.objective if panel in grid[:, 0] else "")
        for index, record in enumerate(records):
            if key not in record.parameters:
                continue
            # Choices are spread a little, the same way each time, so that dots do not hide each other.
            shift = 0.12 * math.sin(2.4 * index) if axis.choices else 0.0
            value = record.parameters[key]
            x = axis.choices.index(as_text(value)) + shift if axis.choices else value
            color = newest.to_rgba(np.array(record.number))
            look: dict[str, Any] = {"marker": "o", "s": 26, "color": color}
            if not search.within(record.scores):
                look = {"marker": "x", "s": 20, "color": theme.states["FAIL"], "linewidths": 0.9}
            elif record.state != "COMPLETE":
                look = {"marker": "o", "s": 20, "facecolors": "none", "edgecolors": [color]}
            if search.best and record.number == search.best.trial:
                look = {"marker": "*", "s": 130, "color": theme.model, "zorder": 5, "edgecolors": theme.paper}
            axes.scatter([x], [record.scores[search.objective]], **look)
        if axis.choices:
            axes.set_xticks(range(len(axis.choices)), axis.choices)
            axes.set_xlim(-0.5, len(axis.choices) - 0.5)
        elif axis.log:
            axes.set_xscale("log")
            log_axis(axes.xaxis, 4)
        elif axis.whole:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.set_ylim(*robust_limits(scores))
    for panel in list(grid.flat)[len(axes_of) :]:
        panel.set_visible(False)
    return figure
