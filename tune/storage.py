"""Where checkpoints go while a search runs: a folder that all nodes share, or whatever pyarrow has a filesystem for.

Workers write there and the driver copies what it keeps into the results folder, so that nothing in the storage is
needed once the search has ended: it is removed then.
"""

import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from core.errors import UserError
from tune.folder import ResultsError
from tune.study import SearchStudy

#: The attribute of a study that says where its checkpoints are while it runs.
_NOTE = "storage"


@dataclass(frozen=True)
class Storage:
    """A folder of one search. ``place`` is its path or URI, ``path`` what its filesystem calls it."""

    place: str
    filesystem: FileSystem
    path: str

    @classmethod
    def at(cls, place: str | Path) -> "Storage":
        """The folder at a path or a URI, whether it is there or not.

        Raises OSError, ValueError or NotImplementedError for a URI that no filesystem takes.
        """
        if "://" in str(place):
            return cls(str(place), *FileSystem.from_uri(str(place)))
        path = str(Path(place).absolute())
        return cls(path, LocalFileSystem(), path)

    def make(self) -> None:
        """Make the folder, which nobody else may enter if it is in a filesystem with owners. Raises OSError."""
        if isinstance(self.filesystem, LocalFileSystem):
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            Path(self.path).mkdir(mode=0o700)
        else:
            self.filesystem.create_dir(self.path)
        with self.filesystem.open_output_stream(f"{self.path}/writable"):
            pass

    def share(self, file: Path, name: str) -> str:
        """Copy a file of this machine into the folder; return what :func:`fetched` finds it by, on any node.

        Raises ResultsError.
        """
        try:
            with file.open("rb") as source, self.filesystem.open_output_stream(f"{self.path}/{name}") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise ResultsError(f"storage {self.place}: cannot be written ({_reason(error)})") from None
        return _within(self.place, name)

    def remove(self) -> None:
        """Remove the folder, if it is there. What cannot be removed is said and left."""
        try:
            if self.filesystem.get_file_info(self.path).type is FileType.Directory:
                self.filesystem.delete_dir(self.path)
        except OSError as error:
            print(f"The storage {self.place} could not be removed ({_reason(error)}).", file=sys.stderr)


@contextmanager
def shared_storage(place: str | None, search: str) -> Iterator[Storage | None]:
    """Make a folder for a search in the place that its space names, if it names one, and remove it at the end.

    Raises UserError if nothing can be written there.
    """
    if place is None:
        yield None
        return
    try:
        # A name that no other search has, even if two machines start one in the same second.
        storage = Storage.at(_within(place, f"{search}-{secrets.token_hex(4)}"))
        storage.make()
    except (OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"The value of `storage` is {place}, but must be a folder that can be written, or the URI of one, such as "
            f"s3://bucket/folder ({_reason(error)})."
        ) from None
    try:
        yield storage
    finally:
        storage.remove()


def remember(storage: Storage, study: SearchStudy) -> None:
    """Note in the study where its checkpoints go, and remove what a search that was killed has left there."""
    if left := study.attributes.get(_NOTE):
        Storage.at(left).remove()
    study.keep(_NOTE, storage.place)


@contextmanager
def fetched(place: str | Path | None) -> Iterator[Path | None]:
    """Give a file at a path or a URI: itself if it is on this machine, else a copy for as long as it is needed."""
    if place is None or "://" not in str(place):
        yield None if place is None else Path(place)
        return
    found = Storage.at(place)
    with tempfile.NamedTemporaryFile() as copy:
        with found.filesystem.open_input_stream(found.path) as source:
            shutil.copyfileobj(source, copy)
        copy.flush()
        yield Path(copy.name)


def _within(place: str, name: str) -> str:
    """The place of a name in a place; a URI may end with options, behind a question mark."""
    base, mark, options = place.partition("?") if "://" in place else (place, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0].rstrip(".")
