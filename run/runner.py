"""One model without a search: `python run/runner.py train|simulate|both`, from a TOML file and flags.

Standard output is one JSON object; everything else goes to standard error.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: its own folder is on the path, but `run` and `core` are next to each other
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.interrupts import exit_on_interrupt, leave_at_once

if __name__ == "__main__":
    leave_at_once("runner")

import torch

from core.errors import UserError, exit_on_user_error
from run.flags import parse
from run.modes import run_mode
from run.report import Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status.

    0 is success, 1 a training that failed, 130 a run that was interrupted, by Ctrl-C or SIGTERM. Bad input, or
    a file that cannot be written, is one line on standard error, and status 2.
    """
    if sys.stderr is None:  # closed: print would take standard output for it
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    with exit_on_user_error("runner"), exit_on_interrupt("runner"):
        if sys.stdout is None:
            raise UserError("Standard output is closed, and the report goes there; send it to a file or to /dev/null.")
        line = parse(sys.argv[1:] if arguments is None else arguments)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # the tensors are small: more threads wait for each other (measured 4 to 7 times)
        try:
            status, report = run_mode(line)
        except OSError as error:
            where = error.filename or "a file of this run"
            raise UserError(f"{where}: cannot be read or written ({error.strerror or error}).") from error
        _print(report)
        return status


def _print(report: Report) -> None:
    try:
        print(json.dumps(report, indent=2, allow_nan=False), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        if not isinstance(error, BrokenPipeError):  # whoever reads (head, say) has seen enough
            raise UserError(
                f"standard output: the report cannot be written ({error.strerror}); free space or send it elsewhere."
            ) from error


if __name__ == "__main__":
    sys.exit(main())
