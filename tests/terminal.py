"""A program in a terminal of its own, and what one would see there."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyte


class Terminal:
    """Runs a command in a pseudo-terminal; :attr:`seen` are the lines of its screen."""

    def __init__(self, command: Sequence[str], folder: Path, columns: int = 80, rows: int = 24) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        held = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**held, "TERM": "xterm-256color"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)

    @property
    def seen(self) -> list[str]:
        """The lines of the screen, without trailing space; empty ones at the end are left out."""
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def watch(self, until: Callable[[list[str]], bool], seconds: float = 300) -> list[str]:
        """Read what the program writes until its screen is as wanted; return the screen."""
        end = time.monotonic() + seconds
        while not until(self.seen):
            assert time.monotonic() < end, "\n".join(self.seen)
            assert self.read(0.1) or self.process.poll() is None, "\n".join(self.seen)
        return self.seen

    def read(self, seconds: float) -> bool:
        """Read what comes within some time; return whether anything did."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            content = os.read(self._master, 65536)
        except OSError:  # it has ended
            return False
        self._stream.feed(content)
        return bool(content)

    def write(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def finish(self) -> int:
        """Read to the end; return the exit status."""
        while self.read(0.5) or self.process.poll() is None:
            pass
        return self.process.wait()
