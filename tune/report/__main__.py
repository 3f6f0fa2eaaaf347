"""Write the report of a search: `python -m tune.report results/<search>`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from core.interrupts import exit_on_interrupt, leave_at_once

if __name__ == "__main__":
    leave_at_once("tune.report")

import torch

from core.errors import UserError, exit_on_user_error
from tune.report.write import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report from the command line; return the exit status."""
    with exit_on_user_error("tune.report"), exit_on_interrupt("tune.report"):
        options = _parser().parse_args(arguments)
        torch.set_num_threads(1)
        print(write_report(options.folder, progress=lambda text: print(text, file=sys.stderr, flush=True)))
        return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tune.report", description="Write report/index.html and its figures into a search's folder."
    )
    parser.add_argument("folder", type=Path, help="what a search wrote: results/<search>")
    return parser


if __name__ == "__main__":
    sys.exit(main())
