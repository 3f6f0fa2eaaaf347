"""One model without a search: `python run/runner.py train|simulate|both`, from a TOML file and flags.

Standard output is one JSON object; everything else goes to standard error.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: its own folder is on the path, but `run` and `core` are next to each other
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import exit_on_user_error
from run.flags import parse
from run.modes import run_mode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status.

    0 is success, 1 a training that failed, 130 one that was interrupted. Bad input is one line on
    standard error, and status 2.
    """
    with exit_on_user_error("runner"):
        try:
            status, report = run_mode(parse(sys.argv[1:] if arguments is None else arguments))
        except KeyboardInterrupt:
            print("runner: interrupted.", file=sys.stderr)
            return 130
        print(json.dumps(report, indent=2, allow_nan=False))
        return status


if __name__ == "__main__":
    sys.exit(main())
