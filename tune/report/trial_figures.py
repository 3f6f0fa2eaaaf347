"""Figures of how a search went: its history, what stopped trials, what was gained at which error, and when."""

from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator
from optuna.trial import FrozenTrial

from tune.first_objective import curve_of
from tune.progress import WORDS
from tune.report.data import NotDrawn, Search
from tune.report.model_figures import Drawing
from tune.report.theme import Theme, baseline_style, canvas, dress, label_ends, legend_above, log_axis, note
from tune.study import TrialRecord

#: Optuna's states in the words that a search prints.
STATES = {**WORDS, "RUNNING": "not ended", "WAITING": "waiting"}
#: Values outside these quantiles of all trials do not set the scale of an axis.
_QUANTILE = 0.1


def trial_drawings(search: Search) -> list[Drawing]:
    """Return the figures of the search's course, in the order of the page."""
    objective = search.objective
    gains = " Gains are larger at loose errors." if objective.startswith("work_gain") else ""
    return [
        Drawing(
            "history",
            "Optimization history",
            f"{objective} of each trial at its last evaluation, and the best so far among those that ran to their end "
            f"with {search.ranking}. Crosses are beyond a limit; trials without a score are marked below.",
            lambda theme: _history(search, theme),
        ),
        Drawing(
            "intermediate_values",
            "Intermediate values",
            f"What early stopping compares at each evaluation: {objective} while a trial is within the limits, "
            "and beyond one a number worse than those of honest trials by how far. Grey trials were stopped.",
            lambda theme: _intermediate(search, theme),
        ),
        Drawing(
            "pareto_front",
            "Pareto front",
            f"{objective} against {' and '.join(_against(search))}. The line joins trials within the limits that "
            f"no other beats in both.{gains}",
            lambda theme: _pareto(search, theme),
        ),
        Drawing(
            "timeline",
            "Timeline",
            "From each trial's start to its end; while the search was interrupted, nothing ran.",
            lambda theme: _timeline(search, theme),
        ),
    ]


def scored(search: Search, key: str) -> list[TrialRecord]:
    """The trials that have a finite score of this name."""
    return [record for record in search.records if np.isfinite(record.scores.get(key, np.nan))]


def robust_limits(values: list[float], *include: float) -> tuple[float, float]:
    """Limits of an axis that a few wild values do not set."""
    low, high = np.quantile(values, [_QUANTILE, 1 - _QUANTILE])
    spread = max(high - low, 0.05 * abs(high), 1e-3)
    low = max(min(values), low - 1.5 * spread)
    high = min(max(values), high + 1.5 * spread)
    low, high = min([low, *include]), max([high, *include])
    margin = 0.08 * max(high - low, 1e-3)
    return float(low - margin), float(high + margin)


def _history(search: Search, theme: Theme) -> Figure:
    key, upwards = search.objective, search.objectives[search.objective]
    records = scored(search, key)
    if not records:
        raise NotDrawn(f"No trial has a {key}: {_states(search)}.")
    figure = canvas(theme, 9.0, 4.2)
    axes = dress(figure.subplots(), theme, "trial", key)
    groups = {
        "ran to the end": [r for r in records if r.state == "COMPLETE" and search.within(r.scores)],
        "stopped early": [r for r in records if r.state != "COMPLETE" and search.within(r.scores)],
        "beyond a limit": [r for r in records if not search.within(r.scores)],
    }
    looks: dict[str, dict[str, Any]] = {
        "ran to the end": {"color": theme.states["COMPLETE"], "marker": "o", "s": 34},
        "stopped early": {"facecolors": "none", "edgecolors": theme.states["PRUNED"], "marker": "o", "s": 26},
        "beyond a limit": {"color": theme.states["FAIL"], "marker": "x", "s": 26, "linewidths": 1.1},
    }
    for name, members in groups.items():
        if members:
            axes.scatter([r.number for r in members], [r.scores[key] for r in members], label=name, **looks[name])
    leaders = groups["ran to the end"]
    last = max(record.number for record in search.records)
    if leaders:
        running = (np.maximum if upwards else np.minimum).accumulate([record.scores[key] for record in leaders])
        x, y = [*(record.number for record in leaders), last], [*running, running[-1]]
        axes.step(x, y, where="post", color=theme.model, linewidth=1.6, label="best so far")
    limits = _baseline_levels(search, key)
    for name, level in limits.items():
        axes.axhline(level, linewidth=1.1, **baseline_style(theme, name))
    tops = [float(running[-1])] if leaders else []
    axes.set_ylim(*robust_limits([record.scores[key] for record in records], *tops, *limits.values()))
    axes.set_xlim(-0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if limits:
        names = {"dynamical": "dynamical", "oracle": "oracle, at the\nbest's error"}
        label_ends(axes, [(last + 0.5, y, names[name], theme.baselines[name]) for name, y in limits.items()])
    _failures(axes, search, theme, [r for r in search.records if r not in records])
    legend_above(axes, 4)
    return figure


def _baseline_levels(search: Search, key: str) -> dict[str, float]:
    """Where the criterion that gains are measured by stands, and the limit at the best model's error."""
    horizon = next((each for each in search.systems.periods if key == f"work_gain{search.suffix(each)}"), None)
    if horizon is None:
        return {}
    scores = {row.name: row.scores.get("work_gain") for row in search.rows(horizon)}
    return {name: level for name in ("dynamical", "oracle") if (level := scores.get(name)) is not None}


def _failures(axes: Axes, search: Search, theme: Theme, without: list[TrialRecord]) -> None:
    for record in without:
        color = theme.states.get(record.state, theme.muted)
        axes.plot([record.number], [0.02], marker="|", markersize=9, color=color, transform=axes.get_xaxis_transform())
    if without:
        text = f"| no score: {len(without)}"
        axes.annotate(text, (0.0, 0.06), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
                      fontsize=8.5, color=theme.states["FAIL"])  # fmt: skip


def _states(search: Search) -> str:
    counts = {state: sum(record.state == state for record in search.records) for state in STATES}
    return ", ".join(f"{count} {STATES[state]}" for state, count in counts.items() if count) or "there are no trials"


def _intermediate(search: Search, theme: Theme) -> Figure:
    curves = {trial.number: _reported(trial) for trial in search.trials}
    curves = {number: curve for number, curve in curves.items() if curve}
    if not curves:
        raise NotDrawn(f"No trial has reported a score: {_states(search)}.")
    figure = canvas(theme, 9.0, 4.2)
    axes = dress(figure.subplots(), theme, "epoch", search.objective)
    best = search.best.trial if search.best else None
    states = {record.number: record.state for record in search.records}
    ranks = {record.number: rank for rank, record in enumerate(search.ranked)}
    ends: list[tuple[float, float, str, str]] = []
    values: list[float] = []
    for number, curve in curves.items():
        x, y = list(curve), list(curve.values())
        values += y
        style: dict[str, Any] = {"color": theme.states["PRUNED"], "linewidth": 0.9}
        if number == best:
            style = {"color": theme.model, "linewidth": 2.0, "zorder": 5}
        elif states[number] == "COMPLETE":
            style = {"color": theme.states["COMPLETE"], "linewidth": 1.1, "zorder": 4}
        axes.plot(x, y, marker="o", markersize=3, **style)
        if number == best or ranks.get(number, 99) < 5:
            ends.append((x[-1], y[-1], f"trial {number}", str(style["color"])))
    axes.set_ylim(*robust_limits(values, *[y for _, y, _, _ in ends]))
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    axes.xaxis.set_major_locator(FixedLocator(epochs) if len(epochs) <= 12 else MaxNLocator(integer=True))
    label_ends(axes, ends)
    return figure


def _reported(trial: FrozenTrial) -> dict[int, float]:
    """A trial's curve, in the order of epochs."""
    return {epoch: value for epoch, value in sorted(curve_of(trial).items()) if np.isfinite(value)}


def _pareto(search: Search, theme: Theme) -> Figure:
    y, others = search.objective, _against(search)
    records = [r for r in scored(search, y) if all(np.isfinite(r.scores.get(x, np.nan)) for x in others)]
    if not records:
        raise NotDrawn(f"No trial has both {y} and {' and '.join(others)}: {_states(search)}.")
    figure = canvas(theme, 9.0 if len(others) == 1 else 10.0, 4.4)
    panels = figure.subplots(1, len(others), sharey=True, squeeze=False)[0]
    for x, panel in zip(others, panels, strict=True):
        _front_panel(dress(panel, theme, x, y if panel is panels[0] else ""), search, records, x, theme)
    marks = [
        Line2D([], [], color=theme.model, marker="*", markersize=10, linestyle="none", label="best"),
        Line2D([], [], color=theme.states["COMPLETE"], marker="o", linestyle="none", label="ran to the end"),
        Line2D([], [], color=theme.states["PRUNED"], marker="o", markerfacecolor="none", linestyle="none",
               label="stopped early"),
    ]  # fmt: skip
    legend_above(panels[0], 3, handles=marks)
    return figure


def _front_panel(axes: Axes, search: Search, records: list[TrialRecord], x: str, theme: Theme) -> None:
    y = search.objective
    upwards = (search.objectives.get(x, False), search.objectives[y])
    points = np.array([[record.scores[x], record.scores[y]] for record in records])
    if (points[:, 0] > 0).all():
        axes.set_xscale("log")
    for record, (px, py) in zip(records, points, strict=True):
        done = record.state == "COMPLETE"
        look: dict[str, Any] = {"color": theme.states["COMPLETE"], "s": 34, "zorder": 4}
        if not done:
            look = {"facecolors": "none", "edgecolors": theme.states["PRUNED"], "s": 24, "zorder": 3}
        if search.best and record.number == search.best.trial:
            look = {"color": theme.model, "marker": "*", "s": 190, "zorder": 6, "edgecolors": theme.paper}
        axes.scatter([px], [py], **look)
    # As Optuna's: those beyond a limit are not on it.
    complete = [i for i, record in enumerate(records) if record.state == "COMPLETE" and search.within(record.scores)]
    front = [complete[index] for index in front_of(points[complete], upwards)]
    front.sort(key=lambda index: points[index, 0])
    if front:
        axes.plot(*points[front].T, color=theme.model, linewidth=1.3, zorder=5)
        for index in front:
            place = {"xytext": (6, 7), "fontweight": "bold"}
            note(axes, points[index, 0], points[index, 1], str(records[index].number), theme.model, **place)
    if axes.get_xscale() == "log":
        log_axis(axes.xaxis, 5)
    if x == search.error:
        axes.axvline(search.space.max_rel_dE, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.annotate(
            "max_rel_dE", (search.space.max_rel_dE, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0),
            textcoords="offset points", rotation=90, fontsize=8, color=theme.muted,
        )  # fmt: skip
    axes.set_ylim(*robust_limits(list(points[:, 1]), *points[front, 1]))


def _against(search: Search) -> list[str]:
    """What the first objective is shown against: the others, or what it costs in energy, or in work."""
    first, *others = search.objectives
    return others or [search.error if first != search.error else "steps_per_orbit"]


def front_of(points: np.ndarray, upwards: tuple[bool, bool]) -> list[int]:
    """Return the points (n, 2) that no other is at least as good as in both and better in one."""
    values = points * np.where(upwards, 1.0, -1.0)
    return [
        index
        for index, own in enumerate(values)
        if not ((values >= own).all(1) & (values > own).any(1)).any()
    ]


def _timeline(search: Search, theme: Theme) -> Figure:
    trials = [trial for trial in search.trials if trial.datetime_start]
    if not trials:
        raise NotDrawn("No trial has started.")
    starts: list[datetime] = [trial.datetime_start for trial in trials if trial.datetime_start]
    begin, latest = min(starts), max([*starts, *(t.datetime_complete for t in trials if t.datetime_complete)])
    seconds = max((latest - begin).total_seconds(), 1.0)
    unit, name = (60.0, "minutes") if seconds < 7200 else (3600.0, "hours")
    figure = canvas(theme, 9.0, float(np.clip(0.09 * len(trials) + 1.6, 2.4, 7.0)))
    axes = dress(figure.subplots(), theme, f"{name} since the first trial began", "trial")
    for trial in trials:
        assert trial.datetime_start is not None
        left = (trial.datetime_start - begin).total_seconds()
        width = ((trial.datetime_complete or latest) - trial.datetime_start).total_seconds()
        is_best = search.best is not None and trial.number == search.best.trial
        color = theme.model if is_best else theme.states[trial.state.name]
        hatch: dict[str, Any] = {"color": color}
        if trial.state.name == "FAIL":  # not by colour alone
            hatch = {"hatch": "////", "fill": False, "edgecolor": color}
        axes.barh(trial.number, max(width, seconds / 400) / unit, left=left / unit, height=0.72, **hatch)
        if is_best:
            note(axes, (left + width) / unit, trial.number, "best", theme.model, fontweight="bold")
    axes.set_ylim(max(trial.number for trial in trials) + 0.6, -0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    present = {trial.state.name for trial in trials}
    handles = [
        Line2D([], [], color=theme.states[state], linewidth=6, label=word)
        for state, word in STATES.items()
        if state in present
    ]
    legend_above(axes, len(handles), handles=handles)
    return figure
