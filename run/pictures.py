"""Pictures of runs: a still and a movie of tracks with panels of energy error, momentum error and dt.

Bodies in two or three dimensions, any number of them; one orbit or several. Frames are uniform in
time. A movie is an MP4 made by ffmpeg; without ffmpeg it is a GIF.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter, NullLocator

from core.errors import UserError
from core.whole_file import whole_file
from run.curves import Array, Curves, Orbit, reach
from run.encoders import WITHOUT_FFMPEG, find_ffmpeg, write_gif, write_mp4

__all__ = ["WITHOUT_FFMPEG", "Array", "Orbit", "find_ffmpeg", "movie", "still"]

#: Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#999999")
#: Orbits that get axes of their own; a picture says how many more there are.
MOST_ORBITS = 9
#: Share of a movie's time that the bright tail behind a body lasts.
_TAIL = 0.04
_SIZE = (12.8, 7.2)
_PANELS = (
    ("energy_error", r"energy error $|\Delta E\,/\,E_0|$"),
    ("momentum_error", r"momentum error $|\Delta P|\,/\,\Sigma m|v|$"),
    ("dt", r"time step $\mathrm{d}t$"),
)
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}


def still(
    orbits: Sequence[Orbit], path: Path | str, *, title: str = "", dpi: int = 120, warmup: Sequence[Array] | None = None
) -> None:
    """Write a picture of whole runs to ``path``; its ending says in which format (.png, .pdf, .svg).

    ``warmup`` has one mask (T,) for each orbit: steps that a training took to fill its history,
    which are marked. Raises UserError if the format is unknown or the file cannot be written.
    """
    path = Path(path)
    formats = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise UserError(f"{path}: the name must end in .png, .pdf or .svg.")
    with mpl.rc_context(_STYLE):
        scene = _Scene(orbits, title, dpi, warmup)
        with whole_file(path) as temporary:
            scene.figure.savefig(temporary)


def movie(
    orbits: Sequence[Orbit],
    stem: Path | str,
    *,
    ffmpeg: str | None,
    max_frames: int = 1000,
    fps: int = 30,
    dpi: int = 120,
    title: str = "",
    warmup: Sequence[Array] | None = None,
) -> Path:
    """Write a movie of runs as ``stem`` + ``.mp4``, or + ``.gif`` if ``ffmpeg`` is None; return its path.

    ``ffmpeg`` is what :func:`find_ffmpeg` said; for example ``stem = Path(movie_dir) /
    f"nbody_movie_{save_name}_train"``. Folders are made. There are as many frames as the longest
    orbit has rows, but at most ``max_frames``, uniform in time. ``warmup`` as in :func:`still`.
    Raises UserError if the file cannot be written or ffmpeg fails.
    """
    count = min(max_frames, max(len(orbit.time) for orbit in orbits))
    stem = Path(stem)
    path = stem.with_name(stem.name + (".gif" if ffmpeg is None else ".mp4"))
    with mpl.rc_context(_STYLE):
        film = _Film(_Scene(orbits, title, dpi, warmup), count)
        if ffmpeg is None:
            write_gif(path, film.frame, count, fps)
        else:
            write_mp4(path, film.frame, count, fps, ffmpeg)
    return path


class _Scene:
    """The figure of whole runs, and every artist on it that a movie moves."""

    def __init__(self, orbits: Sequence[Orbit], title: str, dpi: int, warmup: Sequence[Array] | None):
        shown = list(orbits[:MOST_ORBITS])
        masks: Sequence[Array | None] = warmup[: len(shown)] if warmup else [None] * len(shown)
        self.curves = [Curves(orbit, mask) for orbit, mask in zip(shown, masks, strict=True)]
        self.end = max(float(curve.time[-1]) for curve in self.curves)
        self.spatial = self.curves[0].track.shape[-1] == 3
        self.figure = Figure(figsize=_SIZE, dpi=dpi)
        self.canvas: Any = FigureCanvasAgg(self.figure)  # its methods have no types
        self.tracks = self._track_axes(0.57)
        self.panels = self._panels(0.645, 0.975)
        self.figure.text(0.03, 0.955, title, fontsize=12, color="#111111", va="center")
        self.clock = self.figure.text(0.975, 0.955, "", fontsize=12, color="#111111", va="center", ha="right")
        if len(orbits) > len(shown):
            note = f"the first {len(shown)} of {len(orbits)} orbits"
            self.figure.text(0.03, 0.025, note, fontsize=9, color="#555555", va="center")
        self.trails: list[tuple[Curves, int, Any, Any, Any]] = []  # curve, body, past, tail, dot
        self.warm_dots: list[tuple[Curves, Any]] = []
        self.lines: list[tuple[Curves, str, Any]] = []
        for number, curve in enumerate(self.curves):
            self._draw_tracks(number, curve)
            self._draw_panels(number, curve)
        self._legend()

    # Axes ------------------------------------------------------------------------------------------

    def _track_axes(self, right: float) -> list[Any]:
        """One square for each orbit, in rows."""
        count = len(self.curves)
        columns = 1 if count == 1 else 2 if count <= 4 else 3
        rows = -(-count // columns)
        grid = self.figure.add_gridspec(
            rows, columns, left=0.055 if count == 1 and not self.spatial else 0.03, right=right, bottom=0.11, top=0.9,
            wspace=0.16, hspace=0.26,
        )  # fmt: skip
        made = []
        for number, curve in enumerate(self.curves):
            place = grid[number // columns, number % columns]
            axes: Any = self.figure.add_subplot(place, projection="3d" if self.spatial else None)
            centre, half = reach([curve])
            limits = [(float(middle - half), float(middle + half)) for middle in centre]
            axes.set_xlim(limits[0])
            axes.set_ylim(limits[1])
            if self.spatial:
                axes.set_zlim(limits[2])
                axes.set_box_aspect((1, 1, 1), zoom=1.05)
                axes.view_init(elev=24, azim=-58)
                for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
                    axis.set_pane_color((0.985, 0.985, 0.985, 1))
            else:
                axes.set_aspect("equal", adjustable="box")
            axes.set_axisbelow(True)
            if count == 1:
                for name in "xyz"[: len(limits)]:
                    getattr(axes, f"set_{name}label")(name)
            else:
                axes.set_title(f"orbit {number}", color=COLOURS[number], fontsize=10, pad=3)
                axes.tick_params(labelsize=7, pad=1, length=2)
                for axis in (axes.xaxis, axes.yaxis, *([axes.zaxis] if self.spatial else [])):
                    axis.set_major_locator(MaxNLocator(3))
            made.append(axes)
        return made

    def _panels(self, left: float, right: float) -> list[Axes]:
        grid = self.figure.add_gridspec(3, 1, left=left, right=right, bottom=0.09, top=0.9, hspace=0.24)
        made: list[Axes] = []
        for number, (name, label) in enumerate(_PANELS):
            axes = self.figure.add_subplot(grid[number], sharex=made[0] if made else None)
            axes.set_title(label, loc="left", fontsize=10, pad=4, color="#222222")
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            values = np.concatenate([getattr(curve, name) for curve in self.curves])
            values = values[np.isfinite(values) & (values > 0)]
            if len(values):
                top = float(values.max())
                # A crossing of zero is no reason to show ten decades of nothing.
                bottom = max(float(np.quantile(values, 0.01)), 1e-8 * top)
                room = max((top / bottom) ** 0.08, 1.3)
                axes.set_ylim(bottom / room, top * room)
                axes.yaxis.set_minor_formatter(NullFormatter())
                if np.floor(np.log10(top * room)) - np.floor(np.log10(bottom / room)) < 2:  # one power of ten or none
                    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5), numticks=6))
                    axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
            else:
                axes.yaxis.set_major_locator(NullLocator())
                axes.yaxis.set_minor_locator(NullLocator())
                axes.text(0.5, 0.5, "0 at every step", transform=axes.transAxes, ha="center", color="#555555")
            if number < len(_PANELS) - 1:
                axes.tick_params(labelbottom=False)
            made.append(axes)
        made[-1].set_xlabel("time (G = 1)")
        made[-1].set_xlim(0, self.end if self.end > 0 else 1)
        return made

    # Artists ---------------------------------------------------------------------------------------

    def body_colour(self, number: int, body: int) -> Any:
        """Bodies of a single orbit have colours of their own; of several, each orbit has one."""
        if len(self.curves) > 1:
            return COLOURS[number]
        bodies = len(self.curves[0].mass)
        return COLOURS[body] if bodies <= len(COLOURS) else mpl.colormaps["cividis"](0.9 * body / (bodies - 1))

    def _draw_tracks(self, number: int, curve: Curves) -> None:
        axes, several = self.tracks[number], len(self.curves) > 1
        bodies = len(curve.mass)
        heaviest = max(float(curve.mass.max()), 1e-300)
        for body in range(bodies):
            colour = self.body_colour(number, body)
            light = 0.45 if several and body else 0.75
            (past,) = axes.plot(*_columns(axes, curve.track[:, body]), color=colour, lw=0.9, alpha=light)
            (tail,) = axes.plot(*_columns(axes, curve.track[:0, body]), color=colour, lw=2.2, solid_capstyle="round")
            size = (3.5 if several else 6) * (0.6 + 0.6 * (float(curve.mass[body]) / heaviest) ** (1 / 3))
            size = size if bodies <= 8 else 0.6 * size
            last = curve.at(np.array([self.end]))[:, body]
            face = "white" if several and body else colour
            (dot,) = axes.plot(*_columns(axes, last), "o", ms=size, mfc=face, mec=colour, mew=1.2)
            dot.set_label(f"body {body}, m = {curve.mass[body]:.3g}")
            self.trails.append((curve, body, past, tail, dot))
        if len(curve.warm_time):
            points = curve.warm.reshape(-1, curve.warm.shape[-1])
            (dots,) = axes.plot(*_columns(axes, points), "x", ms=4, mew=0.9, color="#222222", label="warm-up step")
            self.warm_dots.append((curve, dots))

    def _draw_panels(self, number: int, curve: Curves) -> None:
        colour = COLOURS[number] if len(self.curves) > 1 else "#333333"
        for axes, (name, _) in zip(self.panels, _PANELS, strict=True):
            values = getattr(curve, name)
            (line,) = axes.plot(curve.time, np.where(values > 0, values, np.nan), color=colour, lw=0.9)
            if np.isfinite(values).sum() < 60:
                line.set(marker=".", markersize=4)
            self.lines.append((curve, name, line))

    def _legend(self) -> None:
        handles, labels = self.tracks[0].get_legend_handles_labels()
        single = len(self.curves) == 1 and len(self.curves[0].mass) <= len(COLOURS)
        chosen = [
            (handle, label) for handle, label in zip(handles, labels, strict=True) if single or label == "warm-up step"
        ]
        if chosen:
            self.figure.legend(
                *zip(*chosen, strict=True), loc="lower center", bbox_to_anchor=(0.3, 0.0), ncols=min(len(chosen), 5),
                handletextpad=0.3, columnspacing=1.4,
            )  # fmt: skip


class _Film:
    """Frames of a scene: what stands still is drawn once, and the rest anew on a copy of it."""

    def __init__(self, scene: _Scene, count: int):
        self._scene = scene
        self._times: Array = np.linspace(0, scene.end, count) if count > 1 else np.array([scene.end])
        self._positions = {id(curve): curve.at(self._times) for curve in scene.curves}
        for _, _, line in scene.lines:  # the whole curve, faint, says where the run is going
            line.axes.plot(*line.get_data(), color="#D0D0D0", lw=0.7, zorder=1)
        self._cursors = [axes.axvline(0, color="#888888", lw=0.8) for axes in scene.panels]
        trails = [artist for trail in scene.trails for artist in trail[2:]]
        warm = [dots for _, dots in scene.warm_dots]
        self._moving = [*trails, *warm, *(line for _, _, line in scene.lines), *self._cursors, scene.clock]
        for artist in self._moving:
            artist.set_animated(True)
        for _, _, past, _, _ in scene.trails:
            past.set_alpha(0.35)
        scene.canvas.draw()
        self._background = scene.canvas.copy_from_bbox(scene.figure.bbox)

    def frame(self, number: int) -> Any:
        """Pixels (H, W, 4), height and width even as video wants them."""
        scene, now = self._scene, self._times[number]
        for curve, body, past, tail, dot in scene.trails:
            first, last = np.searchsorted(curve.track_time, [now - _TAIL * scene.end, now], side="right")
            here = self._positions[id(curve)][number : number + 1, body]
            _move(past, curve.track[:last, body])
            _move(tail, np.concatenate([curve.track[first:last, body], here]))
            _move(dot, here)
        for curve, dots in scene.warm_dots:
            done = np.searchsorted(curve.warm_time, now, side="right")
            _move(dots, curve.warm[:done].reshape(-1, curve.warm.shape[-1]))
        for curve, name, line in scene.lines:
            last = np.searchsorted(curve.time, now, side="right")
            values = getattr(curve, name)[:last]
            line.set_data(curve.time[:last], np.where(values > 0, values, np.nan))
        for cursor in self._cursors:
            cursor.set_xdata([now, now])
        scene.clock.set_text(f"t = {now:.3f}" if scene.end < 100 else f"t = {now:.1f}")
        canvas = scene.canvas
        canvas.restore_region(self._background)
        for artist in self._moving:
            (artist.axes or scene.figure).draw_artist(artist)
        pixels: Array = np.asarray(canvas.buffer_rgba())
        return pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]


def _columns(axes: Any, points: Array) -> list[Array]:
    """Coordinates of points (K, D) for ``axes``; in 3-D, where nothing is clipped, those outside are left out."""
    if points.shape[-1] == 3:
        low, high = np.array([axes.get_xlim(), axes.get_ylim(), axes.get_zlim()]).T
        inside: Array = np.logical_and(points >= low, points <= high).all(-1)
        points = np.where(inside[:, None], points, np.nan)
    return list(points.T)


def _move(artist: Any, points: Array) -> None:
    columns = _columns(artist.axes, points)
    if len(columns) == 3:
        artist.set_data_3d(*columns)
    else:
        artist.set_data(*columns)
