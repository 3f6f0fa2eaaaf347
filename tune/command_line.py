"""The command line of `python -m tune.search`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from core.errors import UserError, shorten
from tune.cluster import check_address
from tune.monitoring.watching import Watching
from tune.space import shipped_spaces

#: Larger numbers fit no file and no machine.
_MOST_DIGITS = 18
#: What `--resume` says already.
_NOT_WITH_RESUME = {
    "space": "searches the folder's own space.yaml",
    "trials": "runs the trials that are missing; --add-trials adds to them",
    "seed": "goes on with the search's own seed",
    "results": "writes into the folder itself",
    "set": "searches the folder's own space.yaml",
    "dry_run": "has its trials in the folder",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; --help lists the options")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line of a search (that of the program, if None). Raises UserError."""
    parser = Parser(prog="python -m tune.search", description="Search for hyperparameters.")
    parser.add_argument("--space", help=f"a YAML file, or a shipped space: {', '.join(shipped_spaces())}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any entry of the space, for example --set fixed.epochs=40 --set parameters.lr.float=[1e-4,1e-3]",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="go on with an interrupted search: results/<search>"
    )
    parser.add_argument("--trials", type=count, help="trials to run, instead of the space's number")
    parser.add_argument("--add-trials", type=count, default=0, help="with --resume: so many trials more")
    parser.add_argument("--max-concurrent", type=count, help="trials at a time, at most")
    parser.add_argument("--seed", type=count_or_zero, help="seed of the search, instead of the space's")
    parser.add_argument("--results", type=Path, help="where the results folder is made (default: results)")
    parser.add_argument(
        "--address", help="join the Ray cluster there, host:port or auto, instead of starting Ray on this machine"
    )
    parser.add_argument(
        "--storage", help="where checkpoints go on the way: a folder that all nodes of a cluster share, or a URI"
    )
    parser.add_argument(
        "--no-dashboard", dest="dashboard", action="store_false", help="start Ray without its dashboard"
    )
    parser.add_argument(
        "--metrics",
        action="store_true",
        help="export metrics for Prometheus, on a port that asks for no token (here it is on 127.0.0.1 only)",
    )
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases, a group for the search")
    parser.add_argument("--wandb-project", help="its project (default: AITimeStepper)")
    said = parser.add_mutually_exclusive_group()
    said.add_argument("--quiet", action="store_true", help="say nothing but the result")
    said.add_argument("--verbose", action="store_true", help="show Ray's logs and what its workers print")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the result as one JSON object on standard output, and everything else on standard error",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the space as it would be searched, and the first trials; no more"
    )
    options = parser.parse_args(arguments)
    for key in ("trials", "max_concurrent", "seed"):
        if getattr(options, key) is not None and any(text.partition("=")[0].strip() == key for text in options.set):
            raise UserError(f"--{key.replace('_', '-')} and --set {key} are both given; leave one out.")
    if options.dry_run and options.json:
        raise UserError("--dry-run prints a space, so --json does nothing; leave one out.")
    if options.wandb_project is not None and not options.wandb:
        raise UserError("The option --wandb-project does nothing without --wandb; add it.")
    if options.resume is None:
        if options.space is None:
            parser.error("the following arguments are required: --space, or --resume")
        if options.add_trials:
            parser.error("--add-trials is for a search that has been, so it needs --resume")
        options.results = options.results or Path("results")
    else:
        for name, instead in _NOT_WITH_RESUME.items():
            if getattr(options, name) not in (None, [], False):
                parser.error(f"--{name.replace('_', '-')} cannot be given with --resume, which {instead}")
    if options.address is not None:
        check_address(options.address)
        if not options.dashboard:
            raise UserError("The option --no-dashboard does nothing with --address; the cluster has its own.")
    return options


def watching(options: argparse.Namespace) -> Watching:
    """Return how a search is to be watched."""
    project = (options.wandb_project or "AITimeStepper") if options.wandb else None
    return Watching(options.dashboard, options.metrics, project, options.verbose)


def count(text: str) -> int:
    """Read a number of things, at least one. Raises ArgumentTypeError."""
    return _whole_number(text, at_least=1)


def count_or_zero(text: str) -> int:
    """Read a whole number, at least 0. Raises ArgumentTypeError."""
    return _whole_number(text, at_least=0)


def _whole_number(text: str, at_least: int) -> int:
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < at_least:
        shown = shorten(text) or "empty"
        rule = f"a whole number >= {at_least}, of at most {_MOST_DIGITS} digits"
        raise argparse.ArgumentTypeError(f"the value is {shown}, but must be {rule}")
    return int(text)
