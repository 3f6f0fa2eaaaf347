"""The end of a search: what is written into its folder, what is printed, and the status it exits with."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.held_out import HeldOut
from core.interrupts import STATUS
from tune.baselines import BASELINES, baselines_at
from tune.confirmation import Confirmation
from tune.folder import SHOWN, ResultsError, SearchFolder
from tune.output import Output
from tune.result import result_of
from tune.study import SearchStudy
from tune.summary import (
    print_confirmation,
    print_ending,
    print_model,
    print_trials,
    resume_command,
    say_of_report,
)
from tune.tables import Baselines

_ALL_FAILED = 1


@contextmanager
def saying_how_to_go_on(folder: SearchFolder) -> Iterator[None]:
    """Name the command that goes on with a search, if it is interrupted where it has no other end."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.journal.exists():
            print(f"The search was interrupted; it goes on with: {resume_command(folder)}")
        raise


def write_results(study: SearchStudy, folder: SearchFolder, systems: HeldOut) -> Path | None:
    """Write the table, the best model and the baselines beside it; return the model's path, if there is one.

    A failure is the folder's to remember.
    """
    best, model = study.best(1), None
    with folder.remembering():
        folder.write_trials(study.records())
    for first in best:
        with folder.remembering():
            metrics = {"trial": first.number, "epochs": first.epochs, **first.scores}
            model = folder.write_best(folder.checkpoint(first.number), study.config(first), metrics)
        with folder.remembering():
            beside = {"trial": first.number, "set": systems.name, "baselines": baselines_at(first.scores, systems)}
            study.keep(BASELINES, beside)
            folder.write_json("baselines.json", beside)
    return model


def write_confirmed(
    confirmation: Confirmation, folder: SearchFolder, systems: HeldOut
) -> tuple[Path | None, Baselines]:
    """Write what came of the repeats, and the best one of who got furthest in the place of the search's best model.

    Return the model's path, if there is one, and the baselines beside the first candidate, on the test set.
    """
    model, baselines, content = None, {}, confirmation.to_dict()
    for first in confirmation.order()[:1]:
        baselines = baselines_at(confirmation.summary(first.number, "test")["mean"], systems)
        content["baselines"] = {"trial": first.number, "set": systems.name, "baselines": baselines}
    with folder.remembering():
        folder.write_json("confirmation.json", content)
        furthest = confirmation.furthest()
        if furthest is not None and (repeat := confirmation.best_repeat(furthest)):
            checkpoint = folder.checkpoint(furthest, repeat.repeat)
            metrics = confirmation.metrics(repeat)
            model = folder.write_best(checkpoint, confirmation.config(furthest, repeat.repeat), metrics)
    return model, baselines


def report_of(folder: SearchFolder) -> Path | None:
    """Write the report, once all that it shows has been written; a failure is the folder's to remember."""
    # Matplotlib is slow to import, and only needed here.
    from tune.report.write import write_report

    if not folder.failure:
        try:
            return write_report(folder.path, say_of_report)
        except ResultsError as failure:
            folder.failure = failure
    return None


def conclude(
    study: SearchStudy,
    folder: SearchFolder,
    sets: tuple[HeldOut, HeldOut | None],
    model: Path | None,
    confirmation: Confirmation | None,
    output: Output,
    start: float,
    *,
    hurried: bool = False,
) -> int:
    """Print the result, of the confirmation too if there is one, and return the exit status.

    ``sets`` are validation and test. Who is ``hurried`` gets no report, nor who interrupts a search: it takes seconds,
    and SLURM kills half a minute after its SIGTERM. Raises ResultsError, after the tables, if something could not be
    written.
    """
    (validation, test), best = sets, study.best(SHOWN)
    beside = study.attributes.get(BASELINES, {}).get("baselines", {})
    print_trials(study, folder, best, beside, validation)
    if confirmation is not None and test is not None:
        confirmed, baselines = write_confirmed(confirmation, folder, test)
        model = confirmed or model
        print_confirmation(confirmation, baselines, test)
    print_ending(study, folder)
    cut_short = study.is_interrupted or (confirmation is not None and bool(confirmation.due()))
    with output.running():
        report = None if hurried or cut_short else report_of(folder)
    print_model(model, report, folder)
    output.result(result_of(study, folder, model, report, confirmation, time.monotonic() - start))
    if folder.failure:
        raise folder.failure
    if study.is_interrupted:
        print(f"The search was interrupted; it goes on with: {resume_command(folder)}")
        return STATUS
    if confirmation is not None and confirmation.due():
        print(f"The confirmation was interrupted; it goes on with: {resume_command(folder)}")
        return STATUS
    return 0 if best else _ALL_FAILED
