"""Where checkpoints go while a search runs: a folder that all nodes share, or whatever pyarrow has a filesystem for.

Workers write there and the driver copies what it keeps into the results folder, so that nothing in the storage is
needed once the search has ended: it is removed then.
"""

import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow.fs import FileSystem, FileType, LocalFileSystem, copy_files

from core.errors import UserError
from tune.study import SearchStudy

#: The attribute of a study that says where its checkpoints are while it runs.
_NOTE = "storage"
#: The file by which a folder of ours is known.
_MARK = "writable"


@dataclass(frozen=True)
class Storage:
    """A folder of one search, by its name in a place (a path or a URI)."""

    place: str
    name: str
    filesystem: FileSystem
    path: str

    @classmethod
    def find(cls, place: str, name: str) -> "Storage":
        """The folder of that name, whether it is there or not. Raises OSError or ValueError for an impossible place."""
        if "://" in place:
            filesystem, path = FileSystem.from_uri(place)
        else:
            filesystem, path = LocalFileSystem(), str(Path(place).absolute())
        return cls(place, name, filesystem, f"{path.rstrip('/')}/{name}")

    def make(self) -> None:
        """Make the folder, which nobody else may enter if it is one of this machine. Raises OSError."""
        if isinstance(self.filesystem, LocalFileSystem):
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            Path(self.path).mkdir(mode=0o700)
        else:
            self.filesystem.create_dir(self.path)
        with self.filesystem.open_output_stream(f"{self.path}/{_MARK}"):
            pass

    def put(self, file: Path, folder: str) -> str:
        """Copy a file into a folder of this one, and return the path of that folder. Raises OSError."""
        target = f"{self.path}/{folder}"
        self.filesystem.create_dir(target)
        copy_files(str(file), f"{target}/{file.name}", LocalFileSystem(), self.filesystem)
        return target

    def is_here(self) -> bool:
        """Whether this machine sees the folder."""
        return bool(self.filesystem.get_file_info(self.path).type is FileType.Directory)

    def is_ours(self) -> bool:
        """Whether a search has made the folder: it has the name that a search gives, and the file that it leaves."""
        marked = self.filesystem.get_file_info(f"{self.path}/{_MARK}").type is FileType.File
        return marked and re.fullmatch(r"[^/]+-[0-9a-f]{8}", self.name) is not None

    def remove(self) -> None:
        """Remove the folder, if it is there. What cannot be removed is said and left."""
        try:
            if self.is_here():
                self.filesystem.delete_dir(self.path)
        except OSError as error:
            print(f"The storage {self.path} could not be removed ({error}).", file=sys.stderr)


@contextmanager
def shared_storage(place: str | None, search: str) -> Iterator[Storage | None]:
    """Make a folder for a search in the place that its space names, if it names one, and remove it at the end.

    Raises UserError if nothing can be written there.
    """
    if place is None:
        yield None
        return
    try:
        storage = Storage.find(place, f"{search}-{secrets.token_hex(4)}")
        storage.make()
    except (OSError, ValueError, NotImplementedError) as error:
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0].rstrip(".")
        raise UserError(
            f"The value of `storage` is {place}, but must be a folder that can be written, or the URI of one, such as "
            f"s3://bucket/folder ({reason})."
        ) from None
    try:
        yield storage
    finally:
        storage.remove()


def remember(storage: Storage, study: SearchStudy) -> None:
    """Note in the study where its checkpoints go, and remove what a search that was killed has left there."""
    if left := study.attributes.get(_NOTE):
        folder = Storage.find(*left)
        if folder.is_ours():  # a journal may come from anybody
            folder.remove()
    study.keep(_NOTE, [storage.place, storage.name])
