"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import UserError

_ADVICE = "free space or give another place"


@contextmanager
def whole_file(path: Path, advice: str = _ADVICE) -> Iterator[Path]:
    """Give a name beside ``path`` to write to, which becomes ``path`` if all goes well. Folders are made.

    Otherwise nothing is left of it, and an older file is as it was. Raises UserError, which ends in ``advice``, where
    it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with writing(path, advice):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):  # the reason why it could not be made is in the way of removing it, too
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, advice: str = _ADVICE) -> Iterator[None]:
    """Turn an OSError, of a full disk say, into a UserError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {advice}.") from error
