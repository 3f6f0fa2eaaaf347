"""The study's file: an Optuna journal, mended before it is opened."""

import shutil
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock


def open_journal(path: Path) -> JournalStorage:
    """Open a journal, or start one.

    A process that dies while it writes leaves half a line. Optuna reads past it, but the next entry would be glued to
    it and make the file unreadable for ever: so it is cut off first, and what was cut stays in a file beside.
    """
    # Optuna's lock is a link to this name; a relative one dangles, and a stale lock would then never be given up.
    path = path.resolve()
    lock = JournalFileSymlinkLock(str(path))
    if path.exists():
        lock.acquire()
        try:
            _cut_torn_line(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return
    number = 1
    while (copy := path.with_name(f"{path.name}.torn-{number}")).exists():
        number += 1
    shutil.copyfile(path, copy)
    with path.open("r+b") as file:
        file.truncate(whole)
