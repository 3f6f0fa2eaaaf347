"""Repeat one trial of a search, alone: `python -m tune.rerun results/<search> --trial 7`.

A trial's numbers depend on its settings and its seed and on nothing else, so on the same kind of machine, with the same
versions, they are the same bit for bit.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.config import Config
from core.errors import UserError, exit_on_user_error
from core.held_out import held_out
from core.interrupts import exit_on_interrupt, leave_at_once

if __name__ == "__main__":
    leave_at_once("tune.rerun")

from core.scores import References, references_on
from tune.command_line import Parser, count, count_or_zero
from tune.confirmation import Confirmation, Repeat
from tune.export import find_trial
from tune.folder import check_writable
from tune.objectives import score
from tune.opening import open_search
from tune.ranking import Ranking, Scores
from tune.study import SearchStudy
from tune.training import Stretch, Training

_DIFFERENT = 1
#: Seconds between two signs of life.
_PAUSE = 5.0


@dataclass(frozen=True)
class Recorded:
    """What a search knows about a training: where it ended, its curve by epoch, and its last scores."""

    name: str
    config: Config
    epochs: int
    reason: str
    scores: dict[str, float]
    curve: dict[int, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Repeat a trial from the command line; return 0 if it came out identical, 1 if not."""
    with exit_on_user_error("tune.rerun"), exit_on_interrupt("tune.rerun"):
        options = _parse(arguments)
        if options.out is not None:
            _check_out(options.out)
        _, study = open_search(options.folder)
        if options.repeat:
            recorded = recorded_repeat(study, options.trial, options.repeat)
        else:
            recorded = recorded_trial(study, options.trial)
        torch.set_num_threads(max(1, int(study.space.resources.cpu)))
        print(f"{recorded.name}: {recorded.epochs} epochs with seed {recorded.config.seed}", flush=True)
        training, last, differences = repeat_training(recorded, study.ranking)
        if options.out is not None:
            training.save_model(options.out)
            print(f"model       {options.out}")
        return _conclude(recorded, last, differences)


def recorded_trial(study: SearchStudy, number: int) -> Recorded:
    """Return what the study has of a trial. Raises UserError if there is nothing to compare with."""
    record = find_trial(study, number)
    if study.schedule(number):
        raise UserError(
            f"Trial {number} took over the training of another one (`schedule` in the study), so it cannot be run "
            "again alone."
        )
    if record.state == "RUNNING" and not record.scores:
        raise UserError(f"Trial {number} has no scores yet, so there is nothing to compare with; wait, or --resume.")
    config, curve = study.config(record), study.curve(number)
    # A trial that failed goes as far as it can.
    epochs = config.epochs if record.state == "FAIL" else record.epochs
    return Recorded(f"trial {number}", config, epochs, record.reason, record.scores, curve)


def recorded_repeat(study: SearchStudy, number: int, repeat: int) -> Recorded:
    """Return what the study has of a repeat. Raises UserError if there is none."""
    find_trial(study, number)
    confirmation = Confirmation(study) if study.space.confirm else None
    ended: list[Repeat] = confirmation.of(number) if confirmation else []
    found = next((one for one in ended if one.repeat == repeat), None)
    if confirmation is None or found is None:
        there = f"one of {', '.join(str(one.repeat) for one in ended)}" if ended else "left out: it has no repeats"
        raise UserError(f"The value of `--repeat` is {repeat}, but for trial {number} must be {there}.")
    config = confirmation.config(number, repeat)
    return Recorded(
        f"repeat {repeat} of trial {number}", config, config.epochs, found.reason, found.validation, test=found.test
    )


def repeat_training(recorded: Recorded, ranking: Ranking) -> tuple[Training, Stretch, list[str]]:
    """Train as was recorded, and say how it goes. Return the training, its last scores, and what is not the same."""
    config = recorded.config
    test = _references(config, "test") if recorded.test else None
    training = Training(config, _references(config, "validation"), test)
    differences: list[str] = []
    last, said = Stretch(0), time.monotonic()
    while not last.done and training.epoch < recorded.epochs:
        stretch = training.advance(_PAUSE)
        if stretch.failed:
            last = stretch
        if not stretch.scores:
            if time.monotonic() - said > _PAUSE:
                print(f"epoch {stretch.epoch} of {recorded.epochs}", flush=True)
                said = time.monotonic()
            continue
        last, said = stretch, time.monotonic()
        value = ranking.value(stretch.scores)
        before = recorded.curve.get(stretch.epoch)
        same = "" if before is None else ", as recorded" if _equal(value, before) else f", but was recorded {before!r}"
        if same.startswith(", but"):
            differences.append(f"{ranking.first} after epoch {stretch.epoch} is {value!r}{same}")
        shown = f"{ranking.first} {format(stretch.scores[ranking.first], score(ranking.first).style)}"
        print(f"epoch {stretch.epoch} of {recorded.epochs}  {shown}{same}", flush=True)
    return training, last, differences


def _conclude(recorded: Recorded, last: Stretch, differences: list[str]) -> int:
    """Compare the end, and print the outcome; return the exit status."""
    if last.failed != recorded.reason:
        now = f"failed ({last.failed})" if last.failed else "did not fail"
        before = f"had failed ({recorded.reason})" if recorded.reason else "had not"
        differences.append(f"it {now}, but {before}")
    if not last.failed:
        differences += _differing("", last.scores, recorded.scores)
        differences += _differing("test ", last.test, recorded.test)
    if not differences:
        parts = [f"{len(recorded.curve)} values of its curve"] if recorded.curve else []
        parts += [f"{len(recorded.scores) + len(recorded.test)} scores"] if recorded.scores else []
        parts += ["the reason why it failed"] if recorded.reason else []
        print(f"{recorded.name} is identical: {', '.join(parts)}.")
        return 0
    print(f"{recorded.name} is not identical:")
    for line in differences:
        print(f"  {line}")
    print("On another kind of machine, or with other versions, the last digits may differ.")
    return _DIFFERENT


def _differing(prefix: str, now: Scores, before: Scores) -> list[str]:
    return [
        f"{prefix}{key} is {now.get(key)!r}, but was recorded {before.get(key)!r}"
        for key in dict.fromkeys((*before, *now))
        if key not in now or key not in before or not _equal(now[key], before[key])
    ]


def _equal(one: float, another: float) -> bool:
    return one == another or (one != one and another != another)


def _references(config: Config, name: str) -> References:
    return references_on(held_out(config, name), lambda text: print(f"first       {text}", flush=True))


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"The value of `--out` is {out}, but must be a file to write, such as model.pt.")
    try:
        check_writable(out.parent)
    except OSError as error:
        raise UserError(
            f"The value of `--out` is {out}, but must be in a folder that can be written ({error.strerror})."
        ) from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tune.rerun", description="Repeat one trial of a search, alone, and compare.")
    parser.add_argument("folder", type=Path, help="what a search wrote: results/<search>")
    parser.add_argument("--trial", type=count_or_zero, required=True, help="the trial's number")
    parser.add_argument("--repeat", type=count, help="one of its repeats with a fresh seed, counted from 1")
    parser.add_argument("--out", type=Path, help="write the model there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
