"""Errors that a user can mend: one line each, saying what was given, what it must be and how to fix it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any

#: Characters of a message.
_LONGEST = 900


class UserError(ValueError):
    """Bad input. Its message is one complete line; command-line programs print it and exit with status 2.

    What was given may be long, or hold line breaks: the message keeps its start and its end.
    """

    def __init__(self, message: str) -> None:
        line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in message)
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 3 :]}")


class ConfigError(UserError):
    """A configuration key or value that cannot be honoured."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or that does not fit what is asked of it."""


def shorten(text: str) -> str:
    """Return what a user wrote as a message can show it: on one line, and not too long."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 100 else f"{text[:97]}..."


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
    """Turn a :class:`UserError` into one line on standard error and exit status 2.

    A program whose output nobody reads any more (`| head`) goes on to its end: it may have files to write.
    """
    before = sys.stdout, sys.stderr
    streams: list[Any] = [stream and _Unread(stream) for stream in before]  # one that is closed is None
    sys.stdout, sys.stderr = streams
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        for stream in filter(None, streams):
            with suppress(OSError):  # Python says at its end that a disk is full
                stream.flush()
        sys.stdout, sys.stderr = before


class _Unread:
    """A stream that takes what is written to it also when its reader has gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if somebody reads."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, if somebody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # what the stream still holds goes there too
        os.close(nowhere)
