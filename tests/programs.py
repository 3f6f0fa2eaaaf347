"""Programs that tests need and pip cannot bring, and servers that they start."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

Answer = TypeVar("Answer")


def needed(program: str, package: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where REQUIRE_PROGRAMS is set."""
    if found := shutil.which(program):
        return found
    reason = f"needs {program} (Debian: apt-get install {package})"
    if os.environ.get("REQUIRE_PROGRAMS"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(ask: Callable[[], Answer], seconds: float = 300) -> Answer:
    """Ask until there is an answer; not to be there yet is none."""
    until = time.monotonic() + seconds
    while True:
        try:
            if answer := ask():
                return answer
        except (OSError, ValueError):
            if time.monotonic() > until:
                raise
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.25)
