"""What a search prints before it starts and when it has ended."""

import os
import shlex
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import tune
from core.held_out import HeldOut
from tune.confirmation import Confirmation
from tune.folder import SearchFolder
from tune.grid import number_of_cells
from tune.objectives import score
from tune.parameters import Parameter, as_text
from tune.progress import WORDS, clock
from tune.samplers import Grid
from tune.space import Space
from tune.study import SearchStudy, TrialRecord
from tune.tables import Baselines, beside_baselines, repeats_table, test_table, trials_table
from tune.warm_start import WarmStart


def print_question(space: Space, file: object) -> None:
    """Say what is searched, and how."""
    _line("space", file)
    _words("question", space.question)
    width = max(map(len, space.parameters))
    for index, (key, parameter) in enumerate(space.parameters.items()):
        _words("" if index else "parameters", f"{key:{width}}  {_domains(parameter)}")
    every = space.example().evaluate_every
    scored = f"after every {every} epochs" if every > 1 else "after every epoch" if every else "at the end"
    stopping = f"early stopping: {space.scheduler.name}"
    _words("trials", f"{space.trials} of {space.epochs} epochs, scored {scored}; {stopping}")
    at_random = space.drawn_at_random
    unmodelled = f"; it draws {', '.join(at_random)} at random" if at_random else ""
    cells = number_of_cells(space) if isinstance(space.sampler, Grid) else None
    finite = f"; the space has {cells} configurations" if cells is not None else ""
    name = "none, the first parameters are random" if space.scheduler.name == "pbt" else space.sampler.name
    _words("sampler", f"{name}, seed {space.seed}{unmodelled}{finite}")
    if space.enqueue:
        _words("first", f"{len(space.enqueue)} configurations that are known to be good")
    ends = [f"{clock(space.time_budget)} of time"] if space.time_budget is not None else []
    if space.patience is not None:
        ends.append(f"{space.patience} trials in a row without a better best")
    if ends:
        _words("ends after", " or ".join(ends))
    ranking = space.ranking
    highest = "highest" if score(ranking.first).direction == "maximize" else "lowest"
    _words("best", f"the {highest} {ranking.first} with {ranking}")
    if len(space.objectives) > 1:
        _words("beside it", f"the Pareto front of {', '.join(space.objectives)}")
    if space.confirm:
        _words("confirmed", f"the best {space.confirm.top}, trained again with up to {space.confirm.seeds} fresh seeds")


def print_resumed(study: SearchStudy, folder: SearchFolder) -> None:
    """Say what an earlier run has left."""
    states = Counter(record.state for record in study.records())
    started = states.pop("RUNNING", 0)
    missing = study.space.trials - states.total() - started
    _line("goes on", f"{folder.path}: {states.total()} trials have ended, {started} had started, {missing} to come")


def print_machine(space: Space, folder: SearchFolder, concurrent: int, packs: int, dropped_gpu: float) -> None:
    """Say what it takes of the machine, and where its results go."""
    _words("resources", resources_of(space, concurrent, packs, dropped_gpu))
    _line("results", folder.path)


def resources_of(space: Space, concurrent: int | None, packs: int, dropped_gpu: float = 0) -> str:
    """Say what a trial or a pack takes of the machine, and how many there are at a time, if that is known."""
    share = f"{space.resources.cpu:g} CPU" + (f" and {space.resources.gpu:g} GPU" if space.resources.gpu else "")
    dropped = f" (no GPU here: the share of {dropped_gpu:g} is dropped)" if dropped_gpu else ""
    if packs:
        count = f"{packs} pack{'s' if packs > 1 else ''} of up to {space.lanes}"
        return f"{share} a pack{dropped}; {concurrent} trials at a time, in {count}"
    at_a_time = f"{concurrent} at a time" if concurrent else "as many at a time as the cluster has room for"
    return f"{share} a {'trial' if space.trainer == 'solo' else 'pack'}{dropped}, {at_a_time}"


def print_warm_start(warm: WarmStart, space: Space) -> None:
    """Say what an older search has to say here."""
    if space.warm_start is not None and (warm.trials or warm.left_out):
        left_out = f" ({warm.left_out} have no parameters, or no scores, that count here)" if warm.left_out else ""
        _words("warm start", f"from {len(warm.trials)} trials of {space.warm_start}{left_out}")


def print_watching(folder: SearchFolder, dashboard: str | None, hints: Mapping[str, str]) -> None:
    """Say where the search can be watched. The commands work as they are, from here."""
    if dashboard:
        _line("dashboard", f"{dashboard} (its token is in {Path('~/.ray/auth_token')})")
    # The whole path: Optuna's lock would dangle with a part of it.
    _line("optuna", shlex.join([program("optuna-dashboard"), "--host", "127.0.0.1", str(folder.journal.resolve())]))
    for label, hint in hints.items():
        _line(label, hint)
    print(flush=True)


def print_trials(
    study: SearchStudy, folder: SearchFolder, best: list[TrialRecord], baselines: Baselines, systems: HeldOut
) -> None:
    """Print what became of the trials: the table of the best, and the first one beside the baselines."""
    records = study.records()
    counts = Counter(record.state for record in records)
    words = {**WORDS, "RUNNING": "interrupted"}
    states = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])
    print(f"\n{len(records)} trials{': ' if states else ''}{states}")
    reasons = Counter(record.reason for record in records if record.reason)
    for reason, count in reasons.most_common(3):
        print(f"  failed {count} x: {reason}")
    if best:
        print(f"\n{trials_table(best, study.ranking)}\n")
        if study.ranking.excess(best[0].scores) > 0:
            print(f"No trial kept {study.ranking}: the first is the nearest to it.\n")
        print(f"{beside_baselines(f'trial {best[0].number}', best[0].scores, baselines, systems)}\n")
    elif records:
        print("No trial ran to its end, so there is no best model.")
        if any(record.state == "PRUNED" for record in records):
            print("Those that were stopped early go no further; more trials, or `scheduler: none`, may find one:")
            print(f"{resume_command(folder)} --add-trials {len(records)}")
    if (table := folder.path / "trials.csv").exists():
        _line("all trials", table)


def print_ending(study: SearchStudy, folder: SearchFolder) -> None:
    """Say why a search has ended with fewer trials than it may have."""
    ended = sum(record.state != "RUNNING" for record in study.records())
    if ended < study.space.trials and study.timed_out:
        print(f"\nThe time budget is over after {ended} trials; it goes on for as long with: {resume_command(folder)}")
    elif ended < study.space.trials and study.over:
        print(f"\nThe search ended after {ended} trial{'s' * (ended != 1)}: {study.over}.")


def print_candidates(confirmation: Confirmation) -> None:
    """Say which trials are trained again."""
    numbers = ", ".join(str(record.number) for record in confirmation.candidates)
    several = "s" * (len(confirmation.candidates) != 1)
    assert confirmation.study.space.confirm is not None
    fewer = len(confirmation.candidates) < confirmation.study.space.confirm.top
    others = f"; no other one kept {confirmation.ranking}" if fewer else ""
    print(f"\nrepeats     of trial{several} {numbers}, up to {confirmation.seeds} fresh seeds each{others}", flush=True)


def print_confirmation(confirmation: Confirmation, baselines: Baselines, systems: HeldOut) -> None:
    """Print what came of the repeats, and whether the ranking can be believed."""
    if confirmation.ended:
        print("\nTrained again with fresh seeds; mean ± standard deviation on the validation set, which ranks them:")
        print(repeats_table(confirmation))
    if confirmation.order():
        print(f"\n{test_table(confirmation, baselines, systems)}\n")
    print(confirmation.verdict()[2])


def print_model(model: Path | None, report: Path | None, folder: SearchFolder) -> None:
    """Print where the report is, what the folder takes of the disk, and what to do with the best model."""
    if report is not None:
        _line("report", report)
    elif not folder.failure:
        _line("report", shlex.join([program("python"), "-m", "tune.report", str(folder.path)]))
    _line("disk", f"{folder.size / 1e6:.1f} MB")
    if model is not None:
        _line("best model", model)
        _line("simulate", simulate_command(model))


def say_of_report(text: str) -> None:
    """Say what the report waits for."""
    _line("report", text)


def simulate_command(model: Path) -> str:
    """The command that simulates with a model, as it works from here when it is pasted."""
    runner = [program("python"), _shorter(str(Path(tune.__file__).parents[1] / "run/runner.py"))]
    options = ["--num-orbits", "8", "--multi-orbit-sim", "--Nperiod", "10"]
    return shlex.join([*runner, "simulate", "--model-path", str(model), *options])


def resume_command(folder: SearchFolder) -> str:
    """The command that goes on with a search, as it works from here when it is pasted."""
    return shlex.join([program("python"), "-m", "tune.search", "--resume", str(folder.path)])


def program(name: str) -> str:
    """A program of this environment, as it is called from here."""
    found, here = shutil.which(name), Path(sys.executable).parent
    # The same environment: `python` of a virtual environment is a link to one that does not know its packages.
    ours = found is not None and Path(found).parent.resolve() == here.resolve()
    return name if ours else _shorter(str(Path(sys.executable) if name == "python" else here / name))


def _shorter(path: str) -> str:
    try:
        return min(os.path.relpath(path), path, key=len)
    except ValueError:  # another drive
        return path


def _domains(parameter: Parameter) -> str:
    texts = [_domain(parameter, parameter.domain)]
    if parameter.when and parameter.parent:
        for value, domain in parameter.when[parameter.parent].items():
            texts.append(f"{_domain(parameter, domain)} where {parameter.parent} is {value}")
    text = "; ".join(texts) + (", log" if getattr(parameter, "log", False) else "")
    if (step := getattr(parameter, "step", None)) is not None:
        text += f", {'factor' if getattr(parameter, 'log', False) else 'step'} {step:g}"
    needed = [f"{key} is {' or '.join(map(as_text, values))}" for key, values in parameter.required.items()]
    return text + (f"; only where {' and '.join(needed)}" if needed else "")


def _domain(parameter: Parameter, domain: list[object]) -> str:
    texts = [f"{value:g}" if isinstance(value, float) else as_text(value) for value in domain]
    return ", ".join(texts) if parameter.kind == "choice" else " to ".join(texts)


def _line(label: str, value: object) -> None:
    print(f"{label:11} {value}", flush=True)


def _words(label: str, text: object) -> None:
    """As :func:`_line`, with a terminal's lines broken between words: of commands and paths that would tear them."""
    lines = [str(text)]
    if sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - 12, 40)
        lines = textwrap.wrap(str(text), room, break_long_words=False, break_on_hyphens=False)
    for index, line in enumerate(lines):
        _line("" if index else label, line)
