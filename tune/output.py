"""Where the words of a search go: standard output, or, with --json, one JSON object there and the words elsewhere."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from tune.folder import finite


class Output:
    """Use :meth:`running` around a whole search, and inside of it :meth:`ending` around its result."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet = quiet
        self._as_json = as_json
        self._stdout = sys.stdout

    @contextmanager
    def running(self) -> Iterator[None]:
        """Say what is said before the end: on standard output, with --json on standard error, with --quiet nowhere."""
        if self._quiet:
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                yield
        else:
            with redirect_stdout(sys.stderr if self._as_json else self._stdout):
                yield

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Say what a search ends with: with --quiet too, unless there is the JSON object."""
        with redirect_stdout(sys.stdout if self._as_json else self._stdout):
            yield

    def result(self, result: Mapping[str, Any]) -> None:
        """Print the JSON object, if it is wanted. What is not finite is null."""
        if self._as_json:
            print(json.dumps(finite(result)), file=self._stdout, flush=True)
