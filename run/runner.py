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

import torch

from core.errors import UserError, exit_on_user_error
from run.flags import parse
from run.modes import run_mode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status.

    0 is success, 1 a training that failed, 130 one that was interrupted. Bad input is one line on
    standard error, and status 2.
    """
    with exit_on_user_error("runner"):
        line = parse(sys.argv[1:] if arguments is None else arguments)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # the tensors are small: more threads wait for each other (measured 4 to 7 times)
        try:
            status, report = run_mode(line)
        except KeyboardInterrupt:
            print("runner: interrupted.", file=sys.stderr)
            return 130
        except OSError as error:
            if error.filename is None:
                raise
            raise UserError(f"{error.filename}: cannot be read or written ({error.strerror}).") from error
        try:
            print(json.dumps(report, indent=2, allow_nan=False), flush=True)
        except BrokenPipeError:  # whoever reads (head, say) has seen enough; Python would flush once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status


if __name__ == "__main__":
    sys.exit(main())
