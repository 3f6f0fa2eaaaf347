"""Take a model out of a search: `python -m tune.export results/<search> --out model.pt`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.checkpoint import load_model
from core.errors import UserError, exit_on_user_error
from core.interrupts import exit_on_interrupt
from core.toml_file import to_toml
from core.whole_file import whole_file
from tune.command_line import Parser, count_or_zero
from tune.folder import MODEL_FILE, SearchFolder
from tune.opening import best_model, open_search, read_json
from tune.study import SearchStudy, TrialRecord
from tune.summary import program, simulate_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a model from the command line, and print what it is; return the exit status."""
    with exit_on_user_error("tune.export"), exit_on_interrupt("tune.export"):
        options = _parse(arguments)
        folder, study = open_search(options.folder)
        source, metrics = find_model(folder, study, options.trial)
        model = load_model(source)
        if options.out.is_dir():
            raise UserError(f"The value of `--out` is {options.out}, but must be a file to write, such as model.pt.")
        with whole_file(options.out) as part:
            part.write_bytes(source.read_bytes())
        print(f"# {options.out} is {source}\n[scores]\n{to_toml(metrics)}")
        print(f"[config]\n{to_toml(model.config.to_dict())}")
        print(f"# simulate    {simulate_command(options.out)}")
        return 0


def find_model(folder: SearchFolder, study: SearchStudy, trial: int | None) -> tuple[Path, dict[str, Any]]:
    """Return the file of a trial's model, or of the best one, and its scores. Raises UserError if there is none."""
    if trial is None:
        best = best_model(folder, study.best(1))
        if best is None:
            raise UserError(f"{folder.path}: no trial has run to its end, so there is no best model.")
        if best.path is not None and best.path.parent.name == "best":
            return best.path, read_json(best.path.parent / "metrics.json")
        trial = best.trial
    record = find_trial(study, trial)
    kept = folder.checkpoint(trial) / MODEL_FILE
    if not kept.is_file():
        again = [program("python"), "-m", "tune.rerun", str(folder.path), "--trial", str(trial), "--out", MODEL_FILE]
        raise UserError(f"The model of trial {trial} was not kept; this makes it again: {shlex.join(again)}")
    return kept, {"trial": trial, "epochs": record.epochs, **record.scores}


def find_trial(study: SearchStudy, number: int) -> TrialRecord:
    """Return what is known of a trial. Raises UserError if there is none of that number."""
    records = {record.number: record for record in study.records()}  # numbers have gaps where proposals were not run
    if number not in records:
        there = f"one of {min(records)} to {max(records)} in trials.csv" if records else "left out: there are no trials"
        raise UserError(f"The value of `--trial` is {number}, but must be {there}.")
    return records[number]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tune.export", description="Take a model out of a search.")
    parser.add_argument("folder", type=Path, help="what a search wrote: results/<search>")
    parser.add_argument("--trial", type=count_or_zero, help="a trial's number, instead of the best model")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
