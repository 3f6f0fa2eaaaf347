"""The study's file: an Optuna journal, mended before it is opened."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult


def open_journal(path: Path, *, reading: bool = False, ends: Collection[str] = ()) -> JournalStorage:
    """Open a journal, or start one.

    A process that dies while it writes leaves half a line. Optuna reads past it, but the next entry would be glued to
    it and make the file unreadable for ever: so it is cut off before anything is written, and what was cut stays in a
    file beside. So is a last trial that was being made, that is, without any of the user attributes ``ends``: with some
    of its parameters there, a sampler would draw other ones than before. For ``reading`` nothing is changed: another
    program may be writing.
    """
    if reading:
        return JournalStorage(_ReadOnly(str(path)))
    # Optuna's lock is a link to this name; a relative one dangles, and a stale lock would then never be given up.
    path = path.resolve()
    lock = JournalFileSymlinkLock(str(path))
    if path.exists():
        lock.acquire()
        try:
            _cut_torn_line(path)
            if ends:
                _cut_half_made(path, ends)
        finally:
            lock.release()
    return JournalStorage(_Journal(path, lock))


class _ReadOnly(JournalFileBackend):
    """A journal that takes no entries."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise AssertionError(f"{self._file_path} was opened for reading.")


class _Journal(JournalFileBackend):
    """A journal that stays whole if an entry does not fit the disk, and takes no other one after it."""

    def __init__(self, path: Path, lock: JournalFileSymlinkLock) -> None:
        super().__init__(str(path), lock_obj=lock)
        self._path = path
        self._failure: OSError | None = None
        self._together = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries. Raises OSError, from the first failure on."""
        if self._failure:
            raise self._failure
        try:
            with get_lock_file(self._lock), self._path.open("ab") as file:
                file.write(b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs))
                file.flush()
                if not self._together:
                    os.fsync(file.fileno())
        except OSError as failure:
            self._failure = failure
            _cut_torn_line(self._path, keep=False)
            raise

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for the disk once after all entries that are written inside, and not for each: 3 ms and more."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            with self._path.open("ab") as file:
                os.fsync(file.fileno())


def together(storage: BaseStorage) -> AbstractContextManager[None]:
    """What is written to a journal inside reaches the disk together; a power cut may keep the first part of it."""
    if isinstance(storage, JournalStorage) and isinstance(storage._backend, _Journal):
        return storage._backend.together()
    return nullcontext()


def damaged_line(path: Path) -> int | None:
    """The number of the first line that is no entry, or that does not fit those before it, counted from 1."""
    state = JournalStorageReplayResult("")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            state.apply_logs([json.loads(line)])
        except Exception:  # whatever Optuna stumbles over
            return number
    return None


def _cut_torn_line(path: Path, keep: bool = True) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    is_torn = whole < len(content)
    while content[:whole].endswith(b"\n\n"):  # empty lines, of an editor: Optuna knows none
        whole -= 1
    if whole == len(content):
        return
    if keep and is_torn:
        number = 1
        while (copy := path.with_name(f"{path.name}.torn-{number}")).exists():
            number += 1
        shutil.copyfile(path, copy)
    with path.open("r+b") as file:
        file.truncate(whole)


def _cut_half_made(path: Path, ends: Collection[str]) -> None:
    """Cut the last trial if it was being made. Whoever makes one writes nothing else until it is."""
    lines = path.read_bytes().splitlines(keepends=True)
    for index in range(len(lines) - 1, -1, -1):
        entry = json.loads(lines[index])
        if not isinstance(entry, dict):
            raise TypeError("not an entry")
        attributes = [*(entry.get("user_attr") or ()), *(entry.get("user_attrs") or ())]
        if any(name in attributes for name in ends):
            return
        if entry.get("op_code") == JournalOperation.CREATE_TRIAL:
            with path.open("r+b") as file:
                file.truncate(sum(map(len, lines[:index])))
            return
