"""Errors that a user can mend: one line each, saying what was given, what it must be and how to fix it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input. Its message is one complete line; command-line programs print it and exit with status 2."""


class ConfigError(UserError):
    """A configuration key or value that cannot be honoured."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or that does not fit what is asked of it."""


def nearest(name: str, known: list[str]) -> str:
    """Return ``; did you mean ...?`` for the closest known name, or an empty string."""
    same = [one for one in known if _plain(one) == _plain(name)]
    matches = same or get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean `{matches[0]}`?" if matches else ""


def _plain(name: str) -> str:
    """A name without what is easily mistaken in it."""
    return name.casefold().replace("_", "-")


@contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
    """Turn a :class:`UserError` into one line on standard error and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
