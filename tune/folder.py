"""The results folder of one search: results/<space>-<UTC time>/. results/README.md says what is in it."""

import csv
import errno
import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from core.checkpoint import load_state
from core.config import Config
from core.errors import CheckpointError, UserError, shorten
from core.toml_file import to_toml
from tune.space import Space
from tune.study import TrialRecord

#: So many of the best trials keep their checkpoints, and are shown in the table at the end.
SHOWN = 5
#: Files of a checkpoint: what a simulation needs, and what training needs to go on.
MODEL_FILE, STATE_FILE = "model.pt", "state.pt"
_COLUMNS = ("number", "state", "reason", "seed", "epochs")


class ResultsError(UserError):
    """The results folder cannot be written."""


class SearchFolder:
    """Writes what a search leaves behind. Files appear whole: they are written under another name and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The first thing that could not be written.
        self.failure: ResultsError | None = None
        #: What :meth:`create` makes: the folder, and those above it.
        self._is_made = False
        #: Whether it is that of a search that begins here: one that goes on cannot choose another.
        self._is_new = False
        self._parents: list[Path] = []
        self._lock: BinaryIO | None = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an OSError of what is done inside, also by the study, into a ResultsError, and remember the first."""
        try:
            yield
        except ResultsError as known:
            self.failure = self.failure or known
            raise
        except OSError as error:
            failure = ResultsError(f"results folder {self.path}: cannot be written {self._reason(error)}")
            self.failure = self.failure or failure
            raise failure from None

    def _reason(self, error: OSError) -> str:
        """Why a file cannot be written, and what helps."""
        reason, file = error.strerror or str(error), error.filename2 or error.filename
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY) and file:
            return f"({reason}: {file}); move that away"
        advice = "make it writable" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "free space"
        return f"({reason}); {advice}{' or give --results' if self._is_new else ''}"

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """As :meth:`writing`, for what Ray calls: Ray would swallow an error, or log it. The callback ends the run."""
        with suppress(ResultsError), self.writing():
            yield

    @classmethod
    def named_after(cls, results: Path, space_name: str) -> "SearchFolder":
        """Choose the name of a new folder; :meth:`create` makes it. Raises UserError where none can be made."""
        try:
            check_writable(results)
        except OSError as error:
            raise UserError(
                f"The value of `--results` is {results}, but must be a folder that can be written ({error.strerror})."
            ) from None
        folder = cls(results / f"{space_name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        folder._is_new = True
        return folder

    @classmethod
    def existing(cls, path: Path, *needed: str) -> "SearchFolder":
        """Open the folder of a search that has been. Raises UserError if it is none, or has not the files needed."""
        for name in ("space.yaml", *needed):
            try:
                why = "" if (path / name).is_file() else f"there is no {name} in it"
            except OSError as error:
                why = error.strerror or str(error)
            if why:
                raise UserError(
                    f"{shorten(str(path))}: not the results of a search ({why}); give a folder such as "
                    "results/history-20260131T120000Z."
                )
        return cls(path)

    def create(self, space: Space) -> None:
        """Make the folder, with the space as it is searched. Its name gets a number if there is such a one already."""
        base = self.path
        self._parents = [folder for folder in base.parents if not folder.exists()]
        with self.writing():
            for number in count(1):
                self.path = base.with_name(f"{base.name}-{number}") if number > 1 else base
                with suppress(FileExistsError):  # another search may have begun in the same second
                    self.path.mkdir(parents=True)
                    break
            self._is_made = True
            self.write_space(space)

    def check_study(self) -> None:
        """Raise UserError where there are results, but not the study that they belong to: it must not begin anew."""
        try:
            if self.journal.stat().st_size:
                return
            what = "is empty"
        except FileNotFoundError:
            what = "is missing"
        if left := [name for name in ("trials.csv", "best", "checkpoints") if (self.path / name).exists()]:
            raise UserError(
                f"{self.journal}: {what}, though there is {left[0]}; restore it from a copy, or search anew with "
                f"--space {self.path / 'space.yaml'}."
            )

    def lock(self) -> None:
        """Claim the folder for this process, until it ends. Raises UserError if another search has claimed it.

        The journal is what is locked: it is never replaced. The system lets go of it however a process ends.
        """
        with self.writing():
            lock = self.journal.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(
                f"{self.path}: a search is running in this folder; wait for its end, or stop it first."
            ) from None
        self._lock = lock

    @property
    def is_claimed(self) -> bool:
        """Whether this process holds the folder: before a search starts, only that of an earlier one is held."""
        return self._lock is not None

    def tidy(self) -> None:
        """Remove what a killed search has left half-written. Nobody else may be writing."""
        for part in (*self.path.rglob("*.part"), *self.path.glob(f"{self.journal.name}.lock*")):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what :meth:`create` made, for a search that could not start."""
        if self._is_made:
            shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._parents:
            with suppress(OSError):
                folder.rmdir()

    @property
    def journal(self) -> Path:
        """The study's file."""
        return self.path / "study.journal"

    def checkpoint(self, number: int, repeat: int = 0) -> Path:
        """The folder of the newest checkpoint of a trial, or of one of its repeats (counted from 1)."""
        if repeat:
            return self.path / "confirmation" / f"{number:05d}-{repeat}"
        return self.path / "checkpoints" / f"{number:05d}"

    def state(self, number: int, repeat: int = 0, *, note: Callable[[str], None]) -> Path | None:
        """The file that a training can go on from, if there is one. A damaged one is noted, and is none."""
        path = self.checkpoint(number, repeat) / STATE_FILE
        if not path.is_file():
            return None
        try:
            load_state(path, device="cpu")
        except CheckpointError as error:
            what = f"repeat {number}-{repeat}" if repeat else f"trial {number}"
            note(f"{what} starts again: {error}")
            return None
        return path.resolve()

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def keep_checkpoint(self, source: Path, target: Path) -> None:
        """Copy a training's newest checkpoint into the results."""
        target.mkdir(parents=True, exist_ok=True)
        for name in (STATE_FILE, MODEL_FILE):
            _copy(source / name, target / name)

    def drop_checkpoints(self, beside: Path, best: Collection[Path], unfinished: Collection[Path]) -> None:
        """Remove what is not needed: the best trainings keep their models, unfinished ones all they need to go on.

        ``beside`` is the folder of a checkpoint: those of trials are apart from those of repeats.
        """
        for folder in beside.parent.glob("*"):
            if folder not in unfinished:
                (folder / STATE_FILE).unlink(missing_ok=True)
                if folder not in best:
                    shutil.rmtree(folder, ignore_errors=True)

    def write_space(self, space: Space) -> None:
        """Write the space as it is searched."""
        self._write("space.yaml", space.to_yaml())

    def write_trials(self, records: Sequence[TrialRecord]) -> None:
        """Write trials.csv: one row for each trial."""
        columns = [*_COLUMNS, *(["pareto"] if any(record.pareto is not None for record in records) else [])]
        parameters = list(dict.fromkeys(key for record in records for key in record.parameters))
        scores = list(dict.fromkeys(key for record in records for key in record.scores))
        with _part(self.path / "trials.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, *parameters, *scores])
            for record in records:
                row = [getattr(record, column) for column in columns]
                row += [record.parameters.get(key, "") for key in parameters]
                row += [record.scores.get(key, "") for key in scores]
                writer.writerow(row)

    def write_best(self, checkpoint: Path, config: Config, metrics: Mapping[str, Any]) -> Path:
        """Write best/: the model of a checkpoint, its settings and its scores. Return the model's path."""
        model = self.path / "best" / MODEL_FILE
        model.parent.mkdir(exist_ok=True)
        try:
            _copy(checkpoint / MODEL_FILE, model)
        except OSError:
            with suppress(OSError):
                model.parent.rmdir()
            raise
        self._write("best/config.toml", to_toml(config.to_dict()))
        self.write_json("best/metrics.json", metrics)
        return model

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of plain values; a number that is not finite becomes null."""
        self._write(name, json.dumps(finite(content), indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        with _part(self.path / name) as part:
            part.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """Return plain values with null where a number is not finite: JSON has no others."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _copy(source: Path, target: Path) -> None:
    with _part(target) as part:
        shutil.copyfile(source, part)
        with part.open("rb") as written:  # or a power cut could leave an empty file under the new name
            os.fsync(written.fileno())


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """Give a file to write, which takes the target's place if nothing went wrong and is removed if something did."""
    part = target.with_name(f"{target.name}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raise OSError if a folder can be neither written nor made. Nothing is made yet."""
    for existing in (folder, *folder.absolute().parents):
        try:
            existing.stat()
        except FileNotFoundError:
            continue
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
