"""Search for hyperparameters: `python -m tune.search --space history`."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from core.interrupts import exit_on_interrupt, leave_at_once

if __name__ == "__main__":
    leave_at_once("tune.search")

from rich.console import Console

from core.config import Config
from core.errors import UserError, exit_on_user_error
from core.held_out import held_out
from core.scores import References, references_on
from core.work_precision import measure_missing
from tune.command_line import parse, watching
from tune.conclusion import conclude, saying_how_to_go_on, write_results
from tune.confirmation import Confirmation
from tune.dry_run import dry_run, this_machine
from tune.folder import ResultsError, SearchFolder
from tune.monitoring.watching import Watching
from tune.opening import open_study
from tune.output import Output
from tune.progress import Progress
from tune.ray_session import RaySession, prepare_environment, ray_session
from tune.space import Resources, Space, find_space, load_space
from tune.space_checks import check_trials
from tune.storage import Storage, remember, shared_storage
from tune.summary import (
    print_candidates,
    print_machine,
    print_question,
    print_resumed,
    print_warm_start,
    print_watching,
)
from tune.warm_start import WarmStart, take_over

#: Trials in one pack where the space does not say: about where the throughput of 64-64 networks saturates.
_CPU_LANES, _GPU_LANES = 16, 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a search from the command line; return the exit status."""
    with exit_on_user_error("tune.search"), exit_on_interrupt("tune.search"):
        options = parse(arguments)
        output = Output(quiet=options.quiet, as_json=options.json)
        if options.resume is not None:
            with output.running(), saying_how_to_go_on(SearchFolder(options.resume)):
                changes = {"max_concurrent": options.max_concurrent, "storage": options.storage}
                watched = watching(options)
                return resume(options.resume, options.add_trials, changes, watched, output, options.address)
        file = find_space(options.space)
        space = load_space(file, options.set).changed(
            trials=options.trials, max_concurrent=options.max_concurrent, seed=options.seed, storage=options.storage
        )
        check_trials(space)
        if options.dry_run:
            warm = WarmStart.of(space)
            if options.address is not None:
                return dry_run(space, None, 0, file, warm)
            return dry_run(*fit_to_machine(space, this_machine()), file, warm)
        folder = SearchFolder.named_after(options.results, Path(file.name).stem)
        with output.running(), saying_how_to_go_on(folder):
            print_question(space, file)
            return search(space, folder, watching(options), output, options.address)


def resume(
    path: Path,
    more: int,
    changes: Mapping[str, Any],
    watched: Watching,
    output: Output,
    address: str | None,
) -> int:
    """Go on with the search of a folder, with so many trials more; return the exit status."""
    folder = SearchFolder.existing(path)
    space = load_space(path / "space.yaml")
    folder.check_study()
    folder.lock()
    with folder.writing():
        folder.tidy()
        if more:
            space = space.changed(trials=space.trials + more)
            folder.write_space(space)
    study = open_study(space, folder)
    print_question(space, path / "space.yaml")
    print_resumed(study, folder)
    return search(space.changed(**changes), folder, watched, output, address)


def search(space: Space, folder: SearchFolder, watched: Watching, output: Output, address: str | None) -> int:
    """Run a search to its end, on the cluster at an address or on this machine, and print its result.

    Its folder may have trials already. Return the exit status.
    """
    start, ending = time.monotonic(), _Ending()
    warm = WarmStart([], 0) if folder.is_claimed else WarmStart.of(space)
    validation = reference_set(space, "validation")
    test = reference_set(space, "test") if space.confirm else None
    sets = (validation.systems, test.systems if test else None)
    if folder.is_claimed and not (study := open_study(space, folder)).is_interrupted:
        confirmation = Confirmation(study) if space.confirm else None
        if not (confirmation and confirmation.due()):  # all that is left is to write it down again
            model = write_results(study, folder, validation.systems)
            with output.ending():
                return conclude(study, folder, sets, model, confirmation, output, start)
    prepare_environment(address)
    options = {"dashboard": watched.dashboard, "metrics": watched.metrics, "verbose": watched.verbose}
    with (
        shared_storage(space.storage, folder.path.name) as shared,
        ray_session(address, **options) as session,
    ):
        storage = shared or Storage.find(str(session.folder), "tune")
        from tune.packed.packs import measured_lanes

        fitted, concurrent, packs = fit_to_machine(space, session, measured_lanes)
        dropped_gpu = space.resources.gpu - fitted.resources.gpu
        try:
            if not folder.is_claimed:
                folder.create(fitted)
                folder.lock()
            print_machine(fitted, folder, concurrent, packs, dropped_gpu)
            print_warm_start(warm, space)
            study = open_study(fitted, folder)
            with folder.writing():
                take_over(study, warm)
            if shared:
                with folder.writing():
                    remember(shared, study)
        except ResultsError:
            folder.remove()
            raise
        # Ray is slow to import, and reads its environment when it is: so it comes in here.
        from tune.driver import Driver
        from tune.monitoring.start import watch

        # Ray's own lines would tear a live view.
        console = Console(force_terminal=False if watched.verbose else None)
        before = Counter(record.state for record in study.records() if record.state != "RUNNING")
        with watch(watched, study, folder) as monitoring:
            print_watching(folder, session.dashboard, monitoring.hints)
            driver = Driver(fitted.resources, concurrent, storage, packs, fitted.lanes or 1, [monitoring])
            with ending.early(), Progress(
                "trial", fitted.trials, console, before, fitted.time_budget
            ) as progress:
                driver.run_trials(study, folder, progress, validation)
            model = write_results(study, folder, validation.systems)
            confirmation = None
            if test and not folder.failure and not study.is_interrupted:
                confirmation = Confirmation(study, driver.repeats_at_once)
                if confirmation.due():
                    print_candidates(confirmation)
                    before = confirmation.states()
                    with ending.early(), Progress("repeat", confirmation.most, console, before) as progress:
                        driver.run_repeats(confirmation, folder, progress, validation, test)
            with output.ending():
                return conclude(study, folder, sets, model, confirmation, output, start, hurried=ending.hurried)


def reference_set(space: Space, name: str) -> References:
    """Draw a held-out set, and have the curves of every baseline on it at hand. Says what has to be measured first."""

    def say(text: str) -> None:
        print(f"first       {text}", flush=True)

    systems = held_out(space.example(), name)
    measure_missing(systems, say)
    return references_on(systems, say)


@dataclass
class _Ending:
    """Ends runs that cannot go on as such that have ended: `conclude` shows what there is, and says why."""

    #: Whether it was the second Ctrl-C; the first one ends a run in good order.
    hurried: bool = False

    @contextmanager
    def early(self) -> Iterator[None]:
        """Surround a run."""
        try:
            yield
        except ResultsError:
            pass
        except KeyboardInterrupt:
            self.hurried = True


class Fit(NamedTuple):
    """A space as a machine can run it, how many trials at a time, and in how many packs (none with trainer solo)."""

    space: Space
    concurrent: int
    packs: int


def usual_lanes(config: Config, share: Resources, most: int) -> int:
    """Return what a measurement of a 64-64 network says, without one."""
    return min(_GPU_LANES if share.gpu else _CPU_LANES, most)


def fit_to_machine(
    space: Space, session: RaySession, measure: Callable[[Config, Resources, int], int] = usual_lanes
) -> Fit:
    """Return the space as this machine can run it.

    Where the space does not say how many trials go into a pack, ``measure`` says it: of a config, of what a pack takes
    of the machine, and of how many it could be given.

    Raises UserError if a single trial does not fit.
    """
    if len(session.nodes) > 1 and space.storage is None:
        raise UserError(
            f"The cluster has {len(session.nodes)} nodes, whose checkpoints must meet in a place that all of them "
            "reach; give one with --storage (a shared folder, or a URI such as s3://bucket/folder)."
        )
    share = space.resources
    gpu = share.gpu if any(node.gpus for node in session.nodes) else 0.0
    slots = sum(node.slots(share.cpu, gpu) for node in session.nodes)
    if not slots:
        where = "this machine" if len(session.nodes) == 1 else "one node"
        raise UserError(
            f"The value of `resources` is cpu {share.cpu:g} and gpu {share.gpu:g}, but must fit {where}: "
            f"{'; or '.join(sorted(set(map(str, session.nodes))))}."
        )
    device = space.fixed.get("device", "auto")
    if device == "cuda" and not gpu:
        raise UserError(
            "The value of `fixed.device` is cuda, but trials get no GPU here; set `resources.gpu` on a machine that "
            "has one, or leave `device` out."
        )
    if device == "auto":
        # A trial without a share of the GPU sees it all the same, and must leave it alone.
        space = space.changed(fixed={**space.fixed, "device": "cuda" if gpu else "cpu"})
    fitted = space.changed(resources=Resources(cpu=share.cpu, gpu=gpu))
    if space.trainer == "solo":
        return Fit(fitted, min(slots, space.max_concurrent or slots, space.trials), 0)
    # More at once than a quarter of the trials, and the sampler would choose most of them without having seen any.
    most = min(space.max_concurrent or max(2, space.trials // 4), space.trials)
    repeats = space.confirm.top * space.confirm.seeds if space.confirm else 0
    lanes = space.lanes or measure(fitted.example(), fitted.resources, -(-max(most, repeats) // slots))
    concurrent = min(slots * lanes, most)
    return Fit(fitted.changed(lanes=lanes), concurrent, min(slots, concurrent))


if __name__ == "__main__":
    sys.exit(main())
