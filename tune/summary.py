"""What a search prints before it starts and when it has ended."""

import os
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path

import tune
from tune.folder import SearchFolder
from tune.parameters import Parameter, as_text
from tune.progress import WORDS, describe
from tune.space import Space
from tune.study import SearchStudy, TrialRecord

_COLUMNS = {
    "work_gain": ".3f",
    "rel_dE": ".1e",
    "steps_per_orbit": ".0f",
    "convergence_rate": ".2f",
    "failed_orbits": ".0f",
}


def print_question(space: Space, file: object) -> None:
    """Say what is searched, and how."""
    _line("space", file)
    _line("question", space.question)
    width = max(map(len, space.parameters))
    for index, (key, parameter) in enumerate(space.parameters.items()):
        _line("" if index else "parameters", f"{key:{width}}  {_domains(parameter)}")
    every = space.example().evaluate_every
    scored = f"after every {every} epochs" if every > 1 else "after every epoch" if every else "at the end"
    _line("trials", f"{space.trials} of {space.epochs} epochs, scored {scored}; early stopping: {space.scheduler.name}")
    _line("sampler", f"{space.sampler.name}, seed {space.seed}")
    _line("best", f"the highest {space.objective} with rel_dE <= {space.max_rel_dE:g}")


def print_machine(
    space: Space, folder: SearchFolder, concurrent: int, dashboard: str | None, dropped_gpu: float
) -> None:
    """Say what it takes of the machine, and where to look."""
    share = f"{space.resources.cpu:g} CPU" + (f" and {space.resources.gpu:g} GPU" if space.resources.gpu else "")
    dropped = f" (no GPU here: the share of {dropped_gpu:g} is dropped)" if dropped_gpu else ""
    _line("resources", f"{share} a trial{dropped}, {concurrent} at a time")
    _line("results", folder.path)
    if dashboard:
        _line("dashboard", f"{dashboard} (its token is in {Path('~/.ray/auth_token')})")
    print(flush=True)


def print_results(study: SearchStudy, folder: SearchFolder, best: list[TrialRecord], model: Path | None) -> None:
    """Print the table of the best trials, and what to do with the best model."""
    records = study.records()
    counts = Counter(record.state for record in records)
    words = {**WORDS, "RUNNING": "interrupted"}
    states = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])
    print(f"\n{len(records)} trials{': ' if states else ''}{states}")
    reasons = Counter(record.reason for record in records if record.reason)
    for reason, count in reasons.most_common(3):
        print(f"  failed {count} x: {reason}")
    if best:
        _print_table(best)
        if study.ranking.excess(best[0].scores) > 0:
            print(f"No trial kept rel_dE within {study.ranking.max_rel_dE:g}: the first is the nearest to it.")
    elif records:
        print("No trial ran to its end, so there is no best model.")
    if (table := folder.path / "trials.csv").exists():
        _line("all trials", table)
    if model is not None:
        _line("best model", model)
        command = [*_runner(), "simulate", "--model-path", str(model)]
        print(f"simulate    {shlex.join([*command, '--num-orbits', '8', '--multi-orbit-sim', '--Nperiod', '10'])}")


def _runner() -> list[str]:
    """The start of a command that runs the runner, as it works from here when it is pasted."""
    found = shutil.which("python")
    # The same environment: `python` of a virtual environment is a link to one that does not know its packages.
    ours = found is not None and Path(found).parent.resolve() == Path(sys.executable).parent.resolve()
    return [
        "python" if ours else _shorter(sys.executable),
        _shorter(str(Path(tune.__file__).parents[1] / "run/runner.py")),
    ]


def _shorter(path: str) -> str:
    try:
        return min(os.path.relpath(path), path, key=len)
    except ValueError:  # another drive
        return path


def _print_table(best: list[TrialRecord]) -> None:
    # The parameters have a line of their own, so that 80 columns are enough.
    print(f"\ntrial  {'  '.join(_COLUMNS)}")
    for record in best:
        scores = [format(record.scores[key], style).rjust(len(key)) for key, style in _COLUMNS.items()]
        print(f"{record.number:5}  {'  '.join(scores)}\n       {describe(record.parameters)}")
    print()


def _domains(parameter: Parameter) -> str:
    texts = [_domain(parameter, parameter.domain)]
    if parameter.when and parameter.parent:
        for value, domain in parameter.when[parameter.parent].items():
            texts.append(f"{_domain(parameter, domain)} where {parameter.parent} is {value}")
    return "; ".join(texts) + (", log" if getattr(parameter, "log", False) else "")


def _domain(parameter: Parameter, domain: list[object]) -> str:
    texts = [f"{value:g}" if isinstance(value, float) else as_text(value) for value in domain]
    return ", ".join(texts) if parameter.kind == "choice" else " to ".join(texts)


def _line(label: str, value: object) -> None:
    print(f"{label:11} {value}", flush=True)
