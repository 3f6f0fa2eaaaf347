"""How figures look: on white paper and in a dark room, in colours that colour-blind people can tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

#: Pixels of a PNG to an inch: a figure of 9 inches is sharp on a laptop's screen and in a paper's column.
_DPI = 150
_SMALL, _NORMAL = 8.5, 9.5


@dataclass(frozen=True)
class Theme:
    """Colours for one kind of light. ``model`` is the best model's, ``several`` those of other trials."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    model: str
    trial: str
    several: tuple[str, ...]
    baselines: dict[str, str]
    states: dict[str, str]
    scale_range: tuple[float, float]

    @cached_property
    def scale(self) -> Colormap:
        """Colours from low to high, without the end that drowns in the paper."""
        return ListedColormap(mpl.colormaps["viridis"](np.linspace(*self.scale_range, 256)))


# Okabe and Ito's colours (the dark set lighter), without the yellow that white paper swallows. Reversible versions of a
# criterion have its colour, dashed.
LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1c2128",
    muted="#5b6470",
    grid="#e4e7eb",
    model="#d55e00",
    trial="#e69f00",
    several=("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#8c6d31"),
    baselines={"fixed": "#7d8590", "dynamical": "#0072b2", "prs23": "#009e73", "oracle": "#1c2128"},
    states={"COMPLETE": "#0072b2", "PRUNED": "#9aa5b1", "FAIL": "#d55e00", "RUNNING": "#e69f00", "WAITING": "#cc79a7"},
    scale_range=(0.0, 0.88),
)
DARK = Theme(
    name="dark",
    paper="#14181e",
    ink="#e8ebef",
    muted="#9aa5b1",
    grid="#2b323b",
    model="#ff8f45",
    trial="#f0c05a",
    several=("#ff8f45", "#56b4e9", "#3fd0a0", "#e79cc6", "#c9a96a"),
    baselines={"fixed": "#98a2ae", "dynamical": "#56b4e9", "prs23": "#3fd0a0", "oracle": "#f2f4f7"},
    states={"COMPLETE": "#56b4e9", "PRUNED": "#66717d", "FAIL": "#ff8f45", "RUNNING": "#f0c05a", "WAITING": "#e79cc6"},
    scale_range=(0.22, 1.0),
)


def baseline_style(theme: Theme, name: str) -> dict[str, Any]:
    """Return how a baseline is drawn: its criterion's colour, dashed where it is reversible, dotted for the limit."""
    criterion, _, rule = name.partition(", ")
    dashes = (0, (4, 2)) if rule else (0, (1, 1.2)) if criterion == "oracle" else "-"
    return {"color": theme.baselines[criterion], "linestyle": dashes}


def canvas(theme: Theme, width: float = 9.0, height: float = 4.4) -> Figure:
    """Return an empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, theme: Theme, x: str = "", y: str = "", *, grid: bool = True) -> Axes:
    """Give axes the theme's colours and labels."""
    axes.set_facecolor(theme.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)
    axes.tick_params(which="both", colors=theme.muted, labelsize=_SMALL)
    axes.set_xlabel(x, color=theme.ink, fontsize=_NORMAL)
    axes.set_ylabel(y, color=theme.ink, fontsize=_NORMAL)
    if grid:
        axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def log_axis(axis: Axis, most: int = 8) -> None:
    """Put at most so many plain numbers on a logarithmic axis whose limits are known."""
    low, high = sorted(axis.get_view_interval())
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        places = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(places) <= most:
            break
    if len(places) < 2:  # so narrow that no round number lies in it
        places = [float(f"{place:.2g}") for place in np.geomspace(low, high, 5)[1:4:2]]
    axis.set_major_locator(FixedLocator(places[:: -(-len(places) // most)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, **options: Any) -> None:
    """Name lines in their own colours."""
    axes.legend(frameon=False, fontsize=_SMALL, labelcolor="linecolor", handlelength=1.8, **options)


def note(axes: Axes, x: float, y: float, text: str, color: str, **options: Any) -> None:
    """Write beside a point of the axes."""
    axes.annotate(
        text, (x, y), color=color, fontsize=_SMALL, annotation_clip=False,
        **{"xytext": (5, 0), "textcoords": "offset points", "va": "center", **options},
    )  # fmt: skip


def legend_above(axes: Axes, columns: int, **options: Any) -> None:
    """As :func:`legend`, above the axes, where it hides nothing."""
    legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, columnspacing=1.4, **options)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names (x, y, text, colour) right of where lines end, moved apart where they would overlap."""
    bottom, top = sorted(axes.get_ylim())
    inside = [(x, min(max(y, bottom), top), text, color) for x, y, text, color in ends]
    points = [(float(axes.transData.transform((x, y))[1]), x, y, text, color) for x, y, text, color in inside]
    least = _SMALL * _DPI / 72 * 1.15
    height = -np.inf
    for pixel, x, y, text, color in sorted(points):
        height = max(pixel, height + least)
        note(axes, x, y, text, color, xytext=(5, (height - pixel) * 72 / _DPI))


#: Places around a point: where a text stands, in points from it, and how it is aligned.
_AROUND = tuple(
    (side * right, up, "left" if side > 0 else "right") for up in (6, -8, 15, -15) for side, right in ((1, 8), (-1, 8))
)


def label_point(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """Write in bold beside a point, on the side where the text hides least of what is there and has been drawn."""
    inked, point = _inked(axes), axes.transData.transform((x, y))
    inked = inked[np.hypot(*(inked - point).T) > 1]
    scale = _DPI / 72
    half = np.array([0.33 * len(text), 0.6]) * _SMALL * scale

    def hidden(place: tuple[int, int, str]) -> tuple[bool, int]:
        right, up, align = place
        centre = point + np.array([right * scale + (half[0] if align == "left" else -half[0]), up * scale])
        inside = axes.bbox.x0 <= centre[0] - half[0] and centre[0] + half[0] <= axes.bbox.x1
        return not inside, int((np.abs(inked - centre) <= half).all(1).sum())

    right, up, align = min(_AROUND, key=hidden)
    note(axes, x, y, text, color, xytext=(right, up), ha=align, fontweight="bold", zorder=6)


def _inked(axes: Axes) -> np.ndarray:
    """Pixels (n, 2) on the lines and at the dots of axes; a dot weighs as much as a line through the text."""
    pieces = [axes.transData.transform(np.ma.getdata(dots.get_offsets())).repeat(10, 0) for dots in axes.collections]
    for line in axes.get_lines():
        ends = line.get_transform().transform(line.get_xydata())
        ends = ends[np.isfinite(ends).all(1)]
        if len(ends) > 1:
            length = np.append(0, np.hypot(*np.diff(ends, axis=0).T).cumsum())
            every = np.arange(0, min(length[-1], 1e5), 4.0)
            pieces.append(np.stack([np.interp(every, length, part) for part in ends.T], 1))
    return np.concatenate([np.empty((0, 2)), *pieces])


def settle(figure: Figure) -> None:
    """Put everything where it will be, so that what is added can go by it."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")


def png(figure: Figure, arranged_as: Figure | None = None) -> bytes:
    """Return a figure as a PNG, the same bytes each time. (Figure.savefig would draw it twice.)

    ``arranged_as`` has been drawn in another theme: finding the places of things takes most of the time, and they are
    the same in all themes.
    """
    if arranged_as is not None:
        figure.set_layout_engine("none")
        for axes, other in zip(figure.axes, arranged_as.axes, strict=True):
            axes.set_position(other.get_position())
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
