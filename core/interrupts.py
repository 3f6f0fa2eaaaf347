"""What ends a program from outside: one line, exit status 130.

Ctrl-C, SIGTERM and SIGUSR1 (of SLURM, `timeout`, a container), and SIGHUP of a terminal that is closed.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STATUS = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def leave_at_once(program: str) -> None:
    """Let a signal end the program as long as it has nothing to lose: to be called before slow imports."""

    def leave(*_: object) -> None:
        with suppress(OSError):
            os.write(2, f"{program}: interrupted.\n".encode())
        os._exit(STATUS)

    _handle(leave)


@contextmanager
def exit_on_interrupt(program: str) -> Iterator[None]:
    """Let these signals raise KeyboardInterrupt, and turn one that nobody caught into a line and the exit status."""
    before = _handle(signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted.", file=sys.stderr)
        raise SystemExit(STATUS) from None
    finally:
        _restore(before)


@contextmanager
def stop_later(say: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Give a function that is true after the first signal, which only calls ``say``; the second interrupts."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        with suppress(RuntimeError):  # it came in the middle of writing another line
            say()

    before = _handle(note)
    try:
        yield lambda: bool(asked)
    finally:
        _restore(before)


def _handle(handler: Callable[[int, Any], Any]) -> dict[int, Any]:
    """Install a handler and return those before it. A signal that is ignored (of a job in the background) stays so."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING}
    before = {number: held for number, held in before.items() if held is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
