"""Pictures of runs: a still and a movie of tracks with panels of energy error, momentum error and dt.

Bodies in two or three dimensions, any number of them; one orbit or several. Frames are uniform in
time. A movie is an MP4 made by ffmpeg; without ffmpeg it is a GIF.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]

#: What to tell a user who asked for a movie where :func:`find_ffmpeg` finds none.
WITHOUT_FFMPEG = (
    "There is no ffmpeg on the PATH, so the movie will be a GIF; for an MP4 install it (Debian: apt-get install "
    "ffmpeg)."
)


class Orbit(Protocol):
    """What a picture needs of one orbit: ``trajectory.Trajectory`` has it. Arrays may be memory-mapped.

    ``time``, ``dt`` and ``energy`` (T,), ``position`` and ``velocity`` (T, N, D), ``mass`` (N,). Time must
    not decrease. A row whose position is NaN separates what an orbit did before a fresh start from
    what it did after it: tracks break there, and errors are measured from the next row.
    """

    @property
    def time(self) -> Array: ...  # noqa: D102
    @property
    def dt(self) -> Array: ...  # noqa: D102
    @property
    def energy(self) -> Array: ...  # noqa: D102
    @property
    def position(self) -> Array: ...  # noqa: D102
    @property
    def velocity(self) -> Array: ...  # noqa: D102
    @property
    def mass(self) -> Array: ...  # noqa: D102


def find_ffmpeg() -> str | None:
    """Return the path of ffmpeg, or None: to be asked before a run that ends in a movie."""
    raise NotImplementedError


def still(
    orbits: Sequence[Orbit], path: Path | str, *, title: str = "", dpi: int = 120, warmup: Sequence[Array] | None = None
) -> None:
    """Write a picture of whole runs to ``path``; its ending says in which format (.png, .pdf, .svg).

    ``warmup`` has one mask (T,) for each orbit: steps that a training took to fill its history,
    which are marked. Raises UserError if the format is unknown or the file cannot be written.
    """
    raise NotImplementedError


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
    raise NotImplementedError
