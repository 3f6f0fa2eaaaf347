"""Figures of what the models do: work against precision, dt along an orbit, energy error, learning curves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from core.checkpoint import load_model
from core.errors import CheckpointError
from core.portrait import Portrait
from core.work_precision import BASELINES
from tune.folder import MODEL_FILE, SHOWN
from tune.report.data import ERRORS, ORACLE_PERIODS, NotDrawn, Search
from tune.report.theme import (
    Theme,
    baseline_style,
    canvas,
    dress,
    label_ends,
    label_point,
    legend,
    log_axis,
    note,
    settle,
)

#: Beyond so many periods a plot of the error shows the largest of each period.
_PERIODS_IN_FULL = 20


class Drawing(NamedTuple):
    """A figure: its file's name, its title, what is to be seen in it, and how it is drawn (or NotDrawn raised)."""

    name: str
    title: str
    caption: str
    draw: Callable[[Theme], Figure]


def model_drawings(search: Search) -> list[Drawing]:
    """Return the figures that compare models with the baselines, in the order of the page."""
    several = len(search.systems.periods) > 1
    drawings = []
    for horizon in search.systems.periods:
        suffix = f"_{horizon}" if several else ""
        drawings.append(
            Drawing(
                f"work_precision{suffix}",
                f"Over {search.systems.span(horizon)}",
                f"Baselines on the {len(search.systems.orbits.period)} systems of the validation set, each curve with "
                "one constant for all of them; trials that ran to their end as dots, the best as a star"
                f"{_of_repeats(search)}. Left: lower "
                "and further left is better. Right: the same as a gain, that is, how many times fewer force "
                "evaluations than the dynamical criterion at equal error, orbit by orbit, as far as no orbit fails; "
                f"the oracle is the limit of what looks at one step at a time.{_missing(search, horizon)}",
                lambda theme, horizon=horizon: _work_precision(search, horizon, theme),  # type: ignore[misc]
            )
        )
    number, eccentricity = search.orbit
    which = f"system {number} of the validation set"
    which += f" (e = {eccentricity:.2f})" if eccentricity is not None else ""
    equal = "each with the constant that gives the best model's median error on the whole set"
    drawings.append(
        Drawing(
            "dt_along_orbit",
            "The time step along an orbit",
            f"The steps that the best model, the classical criterion and the oracle take on {which}, {equal}. "
            f"The legend counts them over one {search.systems.unit}: fewer are cheaper.",
            lambda theme: _dt_along_orbit(search, theme),
        )
    )
    for horizon in search.systems.periods:
        drawings.append(
            Drawing(
                f"energy_error_{horizon}" if several else "energy_error",
                f"Energy error over {search.systems.span(horizon)}",
                f"|E - E(0)| / |E(0)| on {which}, {equal}."
                + (" Each point is the largest error of a period." if horizon > _PERIODS_IN_FULL else "")
                + " A line ends early where its run failed; the oracle is followed over "
                f"{search.systems.span(ORACLE_PERIODS)} at most.",
                lambda theme, horizon=horizon: _energy_error(search, horizon, theme),  # type: ignore[misc]
            )
        )
    drawings.append(
        Drawing(
            "learning_curves",
            "Learning curves",
            f"Epoch by epoch, of the best trials whose models are kept (at most {SHOWN}). A converged epoch is one "
            "after which every sample of the replay buffer passed; the error is the mean of accepted steps.",
            lambda theme: _learning_curves(search, theme),
        )
    )
    return drawings


def _of_repeats(search: Search) -> str:
    return " (as the search scored it; its repeats are under Confirmation)" if search.confirmation else ""


def _missing(search: Search, horizon: int) -> str:
    absent = [name for name in BASELINES if name not in search.curves[horizon]]
    if not absent:
        return ""
    which = "; ".join(absent) if search.curves[horizon] else "all baselines"
    over, why = search.systems.span(horizon), search.missing[horizon]
    return (
        f" Not drawn: {which}. Their curves over {over} are not at hand ({why}); "
        f"python -m core.evaluation, as under Commands, measures them with --periods {horizon}."
    )


def _work_precision(search: Search, horizon: int, theme: Theme) -> Figure:
    curves = search.curves[horizon]
    dots = {record.number: found for record in search.ranked if (found := _point(search, record.scores, horizon))}
    if not curves and not dots:
        raise NotDrawn("There are neither curves of the baselines nor trials that ran to their end.")
    best = search.best.trial if search.best else None
    limit = search.space.max_rel_dE if search.is_limited(horizon) else None
    costs = [cost for cost, _, _ in dots.values()] + [300.0]
    errors = [error for _, error, _ in dots.values()] + [limit or 1e-2, 1e-4]
    figure = canvas(theme, 10.0, 4.6)
    left, right = figure.subplots(1, 2)
    dress(left, theme, f"force evaluations per {search.systems.unit}", "median of max |ΔE / E|")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlim(min(min(costs) / 1.6, 60), max(max(costs) * 1.6, 4000))
    left.set_ylim(max(min(errors) / 5, 1e-9), min(max(max(errors) * 5, 0.1), 1.0))
    for name, curve in curves.items():
        median = np.median(curve.error, axis=0)
        left.plot(curve.evaluations.mean(0), median, label=name, linewidth=1.6, **baseline_style(theme, name))
    dress(right, theme, "median of max |ΔE / E|", "work gain over the dynamical criterion")
    right.set_xscale("log")
    lowest, highest = min(ERRORS[0], min(errors) / 2), max(ERRORS[-1], min(max(errors) * 2, 1.0))
    right.set_xlim(lowest, highest)
    ends = []
    for name, (reached, gain_at) in search.gains[horizon].items():
        style_of_line = baseline_style(theme, name)
        right.plot(reached, gain_at, linewidth=1.6, **style_of_line)
        ends.append((highest, gain_at[-1], name, str(style_of_line["color"])))
    for number, (cost, error, gain) in dots.items():
        is_best = number == best
        style: dict[str, Any] = {"color": theme.model, "marker": "*", "s": 170, "zorder": 5} if is_best else {
            "color": theme.trial, "marker": "o", "s": 26, "zorder": 4}  # fmt: skip
        for axes, x, y in ((left, cost, error), (right, error, gain)):
            axes.scatter([x], [y], edgecolors=theme.paper, linewidths=0.6, **style)
    gains = [gain for _, _, gain in dots.values() if np.isfinite(gain)] + [0.8, 1.6]
    right.set_ylim(max(min(gains) - 0.1, 0.0), max(gains) + 0.1)
    label_ends(right, ends)
    log_axis(left.xaxis)
    if limit is not None:
        left.axhline(limit, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 3)))
        right.axvline(limit, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 3)))
        edge = left.get_xlim()[1]
        note(left, edge, limit, f"max_rel_dE {limit:g}", theme.muted, va="top", ha="right", xytext=(-2, -2))
    if curves:
        legend(left, loc="upper right")
    if best in dots:
        cost, error, gain = dots[best]
        settle(figure)
        label_point(left, cost, error, f"trial {best}", theme.model)
        label_point(right, error, gain, f"trial {best}", theme.model)
    return figure


def _point(search: Search, scores: dict[str, float], horizon: int) -> tuple[float, float, float] | None:
    """Cost, error and gain of a model over a horizon, if they can be drawn."""
    suffix = search.suffix(horizon)
    cost, error, gain = (scores.get(key + suffix, np.nan) for key in ("steps_per_orbit", "rel_dE", "work_gain"))
    return (cost, error, gain) if 0 < cost < np.inf and 0 < error <= 1 else None


def _named(search: Search, name: str, theme: Theme) -> dict[str, Any]:
    if search.best is not None and name == f"trial {search.best.trial}":
        return {"color": theme.model, "linestyle": "-", "linewidth": 2.0, "zorder": 5}
    return {**baseline_style(theme, name), "linewidth": 1.5}


def _dt_along_orbit(search: Search, theme: Theme) -> Figure:
    figure = canvas(theme, 9.0, 4.4)
    portraits = search.portraits
    # A model starts cold, without a past: its second orbit is like those that follow.
    turn = 1 if max(search.systems.periods) > 1 and all(each.time[-1] > 2 for each in portraits.values()) else 0
    kepler = search.orbit[1] is not None
    unit = search.systems.unit
    axes = dress(figure.subplots(), theme, f"time in {unit}s", f"dt / {unit}")
    axes.set_yscale("log")
    for name, each in portraits.items():
        middle = (each.begun + each.time) / 2
        of_turn = (middle >= turn) & (middle <= turn + 1)
        label = f"{name}: {of_turn.sum()} steps"
        axes.plot(middle[of_turn], each.dt[of_turn], label=label, **_named(search, name, theme))
    axes.set_xlim(turn, turn + 1)
    if kepler:
        for place, text in ((turn, "pericentre"), (turn + 0.5, "apocentre"), (turn + 1, "pericentre")):
            align = "left" if place == turn else "right" if place > turn + 0.5 else "center"
            axes.annotate(
                text, (place, 1.02), xycoords=("data", "axes fraction"), ha=align, fontsize=8.5, color=theme.muted
            )
    legend(axes, loc="lower center" if kepler else "best")
    return figure


def _energy_error(search: Search, horizon: int, theme: Theme) -> Figure:
    portraits = search.portraits
    figure = canvas(theme, 9.0, 4.2)
    axes = dress(figure.subplots(), theme, f"time in {search.systems.unit}s", "|ΔE / E|")
    axes.set_yscale("log")
    ends, lows = [], []
    # The best model is drawn last, on top of the others, which swing more.
    for name, each in reversed(portraits.items()):
        time, error = _thinned(each, horizon)
        if not len(time):
            continue
        style = _named(search, name, theme)
        if name == "oracle":  # dots would not show its swings
            style["linestyle"] = "-"
        axes.plot(time, np.maximum(error, 1e-16), **{**style, "linewidth": 1.0})
        # Within a period it swings.
        last = max(len(error) // horizon, 1) if search.orbit[1] is not None else 1
        typical = float(np.median(error[-last:]))
        ends.append((float(time[-1]), max(typical, 1e-16), name, str(style["color"])))
        lows.append(max(float(np.quantile(error, 0.02)), 1e-12))
    axes.set_xlim(0, horizon)
    axes.set_ylim(bottom=min(lows) / 2)
    label_ends(axes, ends)
    return figure


def _thinned(each: Portrait, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    within = each.time <= horizon * (1 + 1e-9) + each.time[0]
    time, error = each.time[within], each.error[within]
    if horizon <= _PERIODS_IN_FULL:
        return time, error
    # The step that passes the end belongs to the last period, also where that is earlier.
    turn = np.minimum(time.astype(int), max(min(horizon, round(time[-1])) - 1, 0))
    turns = np.unique(turn)
    return turns + 0.5, np.array([error[turn == one].max() for one in turns])


_PANELS = (
    ("convergence_rate", "share of epochs converged", "linear"),
    ("rel_dE_train", "mean |ΔE / E| of accepted steps", "log"),
    ("acceptance_rate", "share of steps accepted", "linear"),
)


def _learning_curves(search: Search, theme: Theme) -> Figure:
    logs = {}
    best = search.best.trial if search.best else None
    for record in sorted(search.ranked[:SHOWN], key=lambda record: record.number != best):
        path = search.folder.checkpoint(record.number) / MODEL_FILE
        try:
            logs[record.number] = load_model(path).content["logs"]
        except CheckpointError:
            continue  # not kept: the caption says that only models that are kept are shown
    if not any(logs.values()):
        raise NotDrawn("No model with a record of its training is kept in checkpoints/.")
    figure = canvas(theme, 10.0, 3.8)
    panels = figure.subplots(1, len(_PANELS))
    for panel, (key, title, scale) in zip(panels, _PANELS, strict=True):
        axes = dress(panel, theme, "epoch")
        axes.set_title(title, fontsize=9.5, color=theme.ink, loc="left")
        axes.set_yscale(scale)
        # A confirmation may have chosen a trial whose own model is not kept: then none has the best one's colour.
        first = int(best not in logs)
        for rank, (number, epochs) in enumerate(logs.items(), first):
            known = [(entry["epoch"], entry[key]) for entry in epochs if entry.get(key) is not None]
            if known:
                x, y = zip(*known, strict=True)
                top: dict[str, Any] = {"linewidth": 1.9, "zorder": 5} if rank == 0 else {"linewidth": 1.1}
                color = theme.several[(rank - 1) % (len(theme.several) - 1) + 1 if rank else 0]
                axes.plot(x, y, color=color, label=f"trial {number}", **top)
        if scale == "linear":
            axes.set_ylim(0, None)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    legend(panels[0], loc="best")
    return figure
