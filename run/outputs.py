"""Files that a run leaves: pictures and movies, and beside each the resolved values as TOML."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.config import Config
from core.errors import UserError
from run.curves import Array, Orbit
from run.flags import flag
from run.keys import ACTS_ON, FIELDS, FLAG_ONLY, RunnerKeys
from run.settings import Situation, inert_keys
from run.toml_file import write_keys

#: The name of a run that was given none.
DEFAULT_NAME = "run_nbody"

#: Paths of files that were asked for by name, None for one that could not be written.
Files = dict[str, str | None]


def check_output(path: str, suffix: str) -> None:
    """Refuse a file that could not be written at the end of a run."""
    if Path(path).suffix != suffix:
        raise UserError(f"{path}: the name must end in {suffix}.")
    if Path(path).is_dir() or any(parent.exists() and not parent.is_dir() for parent in Path(path).parents):
        raise UserError(f"{path}: a file cannot be written there; give another place.")


def check_name(name: str | None) -> None:
    """Refuse a save_name that is not the name of one folder."""
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise UserError(f"The value of `save_name` is {name!r}, but must be the name of a folder, without a path.")


def draw_pictures(
    orbits: Sequence[Orbit],
    config: Config,
    own: RunnerKeys,
    *,
    title: str,
    ending: str = "",
    ffmpeg: str | None,
    warmup: Sequence[Array] | None = None,
) -> Files:
    """Make the still and the movie that were asked for; return their paths by name.

    One that cannot be written has the path None and is a line on standard error: the run behind it is not lost.
    """
    files: Files = {}
    if own.plot is not None or config.movie:
        # matplotlib takes longer to import than many a run takes.
        from run.pictures import movie, still
    if own.plot is not None:
        files["plot"] = None
        with _reported():
            still(orbits, own.plot, title=title, dpi=config.movie_dpi, warmup=warmup)
            files["plot"] = own.plot
    if config.movie:
        files["movie"] = None
        stem = Path(config.movie_dir) / f"nbody_movie_{config.save_name or DEFAULT_NAME}{ending}"
        with _reported():
            made = movie(
                orbits,
                stem,
                ffmpeg=ffmpeg,
                max_frames=config.movie_max_frames,
                fps=config.movie_fps,
                dpi=config.movie_dpi,
                title=title,
                warmup=warmup,
            )
            files["movie"] = str(made)
    return files


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        print(f"runner: {error}", file=sys.stderr)


def resolved(situation: Situation, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the resolved values that act on a run, by key, such that a file of them does the same again."""
    dropped = inert_keys(situation).keys() | without | FLAG_ONLY
    values: Mapping[str, Any] = situation.own.model_dump() | situation.config.to_dict()
    return {key: value for key, value in values.items() if key in ACTS_ON[situation.mode] and key not in dropped}


def write_beside(files: Files, situation: Situation, without: frozenset[str] = frozenset()) -> None:
    """Write the resolved values beside each file: run.config.toml beside run.npz."""
    for path in {Path(file).with_suffix(".config.toml") for file in files.values() if file is not None}:
        write_resolved(path, situation, without)


def write_resolved(path: Path, situation: Situation, without: frozenset[str] = frozenset()) -> None:
    """Write the resolved values, and the command that they make again."""
    flags = []
    for key in sorted(FLAG_ONLY & ACTS_ON[situation.mode] - {"config"}):
        value = getattr(situation.own, key)
        if value != FIELDS[key].default:
            flags.append(flag(key) if value is True else f"{flag(key)} {value}")
    command = " ".join([f"python run/runner.py {situation.mode} --config {path.name}", *flags])
    write_keys(path, resolved(situation, without), command)
