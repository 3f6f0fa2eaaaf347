"""Search for hyperparameters: `python -m tune.search --space history`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from core.interrupts import STATUS, exit_on_interrupt, leave_at_once

if __name__ == "__main__":
    leave_at_once("tune.search")

from rich.console import Console

from core.errors import UserError, exit_on_user_error
from core.scores import references
from tune.folder import SHOWN, ResultsError, SearchFolder
from tune.progress import Progress
from tune.ray_session import RaySession, prepare_environment, ray_session
from tune.space import Resources, Space, find_space, load_space
from tune.study import SearchStudy
from tune.summary import print_machine, print_question, print_results

_ALL_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a search from the command line; return the exit status."""
    with exit_on_user_error("tune.search"), exit_on_interrupt("tune.search"):
        options = _parser().parse_args(arguments)
        file = find_space(options.space)
        space = load_space(file).changed(
            trials=options.trials, max_concurrent=options.max_concurrent, seed=options.seed
        )
        folder = SearchFolder.named_after(options.results, Path(file.name).stem)
        print_question(space, file)
        return search(space, folder, dashboard=options.dashboard)


def search(space: Space, folder: SearchFolder, *, dashboard: bool) -> int:
    """Run a whole search and print its result; return the exit status."""
    curves = references(space.example(), progress=lambda text: print(f"first       {text}", flush=True))
    prepare_environment()
    with ray_session(dashboard=dashboard) as session:
        fitted, concurrent = fit_to_machine(space, session)
        dropped_gpu = space.resources.gpu - fitted.resources.gpu
        print_machine(fitted, folder, concurrent, session.dashboard, dropped_gpu)
        try:
            folder.create(fitted)
            with folder.writing():
                study = SearchStudy(fitted, folder.journal, folder.path.name)
        except ResultsError:
            folder.remove()
            raise
        # Ray is slow to import, and reads its environment when it is: so it comes in here.
        from tune.driver import run_trials

        try:
            with Progress(fitted, Console()) as progress:
                run_trials(study, folder, progress, curves, concurrent=concurrent, storage=session.storage)
        except ResultsError:
            pass  # `conclude` tries once more, shows what there is, and says it
        except KeyboardInterrupt:  # a second Ctrl-C; the first one ends the run in good order
            pass
        return conclude(study, folder)


def fit_to_machine(space: Space, session: RaySession) -> tuple[Space, int]:
    """Return the space as this machine can run it, and how many trials fit at a time.

    Raises UserError if a single trial does not fit.
    """
    share = space.resources
    gpu = share.gpu if session.gpus else 0.0
    if share.cpu > session.cpus or gpu > session.gpus:
        raise UserError(
            f"The value of `resources` is cpu {share.cpu:g} and gpu {share.gpu:g}, but must fit this machine: "
            f"{session.cpus:g} CPUs, {session.gpus:g} GPUs."
        )
    device = space.fixed.get("device", "auto")
    if device == "cuda" and not gpu:
        raise UserError(
            "The value of `fixed.device` is cuda, but trials get no GPU here; set `resources.gpu` on a machine that "
            "has one, or leave `device` out."
        )
    slots = min(int(session.cpus / share.cpu + 1e-9), int(session.gpus / gpu + 1e-9) if gpu else space.trials)
    if device == "auto":
        # A trial without a share of the GPU sees it all the same, and must leave it alone.
        space = space.changed(fixed={**space.fixed, "device": "cuda" if gpu else "cpu"})
    fitted = space.changed(resources=Resources(cpu=share.cpu, gpu=gpu))
    return fitted, min(slots, space.max_concurrent or slots, space.trials)


def conclude(study: SearchStudy, folder: SearchFolder) -> int:
    """Write the table and the best model, print both, and return the exit status.

    Raises ResultsError, after the table, if something could not be written.
    """
    records, best, model = study.records(), study.best(SHOWN), None
    with suppress(ResultsError), folder.writing():
        folder.write_trials(records)
    if best:
        with suppress(ResultsError), folder.writing():
            model = folder.write_best(best[0], study.config(best[0]))
    print_results(study, folder, best, model)
    if folder.failure:
        raise folder.failure
    ended = sum(record.state != "RUNNING" for record in records)
    if ended < study.space.trials:
        print("The search was interrupted; what had ended is kept.")
        return STATUS
    return 0 if best else _ALL_FAILED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m tune.search", description="Search for hyperparameters.")
    parser.add_argument("--space", required=True, help="a YAML file, or the name of a shipped space (history, quick)")
    parser.add_argument("--trials", type=_count, help="trials to run, instead of the space's number")
    parser.add_argument("--max-concurrent", type=_count, help="trials at a time, at most")
    parser.add_argument("--seed", type=_count_or_zero, help="seed of the search, instead of the space's")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the results folder is made")
    parser.add_argument(
        "--no-dashboard", dest="dashboard", action="store_false", help="start Ray without its dashboard"
    )
    return parser


def _count(text: str) -> int:
    return _whole_number(text, at_least=1)


def _count_or_zero(text: str) -> int:
    return _whole_number(text, at_least=0)


def _whole_number(text: str, at_least: int) -> int:
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"the value is {text}, but must be a whole number >= {at_least}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
