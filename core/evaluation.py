"""Score a checkpoint beside the classical criteria: ``python -m core.evaluation --model-path best/model.pt``.

``--set`` chooses the systems: the validation or the test set of the model's own kind, or others that it was not trained
for (``circular``, ``eccentric``, ``wide``, ``mass_ratio``, ``three_body``, ``test_particle``, ``flyby``), or any with
``key=value``, such as ``--set e_min=0.2 e_max=0.4 "mass=[1,0.1]"``.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from core.interrupts import exit_on_interrupt, leave_at_once

if __name__ == "__main__":
    leave_at_once("core.evaluation")

import torch

from core import reference
from core.checkpoint import load_model
from core.config import MOST_PERIODS, Config
from core.errors import UserError, exit_on_user_error
from core.held_out import HeldOut, held_out, parse_changes
from core.scores import References, baseline_scores, evaluate, references_on, wall_gain
from core.simulation import FAILED_ERROR
from core.timestep import Criterion
from core.work_precision import BASELINES, curves_of, horizons_of, measure_missing

#: Columns of the table: score, heading, format.
COLUMNS = (
    ("rel_dE", "rel_dE", ".1e"),
    ("steps_per_orbit", "steps/orbit", ".0f"),
    ("work_gain", "work_gain", ".3f"),
    ("work_gain_prs23", "over prs23", ".3f"),
    ("oracle_share", "oracle_share", ".2f"),
    ("wall_gain", "wall_gain", ".3f"),
    ("phase_error", "phase_error", ".1e"),
    ("energy_drift", "drift/period", ".1e"),
    ("violations", "violations", ".2%"),
    ("failed_orbits", "failed", ".0f"),
)


#: Two median errors that differ by a smaller factor count as equal: a curve is read between its points.
_SAME = 1.25


class Row(NamedTuple):
    """A line of the table: a criterion and its scores over one horizon, under their plain names."""

    name: str
    scores: dict[str, float]


def rows(model: dict[str, float], systems: HeldOut, horizon: int, name: str = "model") -> list[Row]:
    """Put a model's scores over ``horizon`` periods beside those of every baseline at the model's median error.

    For longer horizons those that are measured over the shortest only are there if their curve is at hand.
    """
    plain = at_horizon(model, systems, horizon)
    measured = [baseline for baseline in BASELINES if horizon in horizons_of(systems, baseline)]
    curves = {baseline: curves_of(systems, baseline, (horizon,))[horizon] for baseline in measured}
    classical = [
        Row(baseline, baseline_scores(curve, curves, plain["rel_dE"])) for baseline, curve in curves.items()
    ]
    return [Row(name, plain), *classical]


def at_horizon(scores: dict[str, float], systems: HeldOut, horizon: int) -> dict[str, float]:
    """Return the scores over ``horizon`` periods under their plain names."""
    suffix = "" if horizon == min(systems.periods) else f"_{horizon}"
    known = {key for key, _, _ in COLUMNS}
    return {key: scores[key + suffix] for key in known if key + suffix in scores}


def beyond_curve(scores: dict[str, float], systems: HeldOut, horizon: int) -> str:
    """Say that gains are lower limits where a model's error is smaller than any that the curve has; else nothing."""
    least = curves_of(systems, "dynamical", (horizon,))[horizon].least_error
    if at_horizon(scores, systems, horizon)["rel_dE"] >= least:
        return ""
    return f"The curves end at errors of {least:.1e}, above the model's: its gains are lower limits."


def at_error(baseline: Mapping[str, float], error: float, suffix: str = "") -> bool:
    """Whether a baseline's scores are at a median error, as far as its curve can be read."""
    return error / _SAME < baseline[f"rel_dE{suffix}"] < error * _SAME


def table(lines: Sequence[Row]) -> str:
    """Lay out rows as text; a score that a row does not have is a dash."""
    shown = [column for column in COLUMNS if any(column[0] in line.scores for line in lines)]
    cells = [["", *(heading for _, heading, _ in shown)]]
    for line in lines:
        values = [format(line.scores[key], style) if key in line.scores else "-" for key, _, style in shown]
        cells.append([line.name, *values])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )


def score_model(criterion: Criterion, config: Config, against: References) -> dict[str, float]:
    """Return every score of a model, wall time and the phases of more than two bodies included.

    Raises UserError where more than two bodies need the package rebound and it is not there.
    """
    scores = evaluate(criterion, config, against)
    scores["wall_gain"] = wall_gain(criterion, config, against, scores["work_gain"])
    if against.systems.config.num_particles > 2:
        scores["phase_error"] = reference.phase_error(criterion, config, against.systems)
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of one checkpoint; return the exit status."""
    with exit_on_user_error("core.evaluation"), exit_on_interrupt("core.evaluation"):
        options = _parser().parse_args(arguments)
        torch.set_num_threads(1)
        model = load_model(options.model_path)
        config = model.config
        if options.periods:
            config = config.model_copy(update={"eval_periods": tuple(options.periods)})
        name, changes = parse_changes(options.set)
        systems = held_out(config, name, changes)
        measure_missing(systems, _say)
        scores = score_model(model.criterion, config, references_on(systems))
        missed = False
        for horizon in sorted(systems.periods):
            what = f"{len(systems.orbits.period)} systems of {systems.config.num_particles} bodies"
            rule = f", {config.step_rule} steps" if config.step_rule != "direct" else ""
            print(f"{name}: {what} over {systems.span(horizon)}{rule}")
            model_row, *baselines = rows(scores, systems, horizon)
            error = model_row.scores["rel_dE"]
            if error > FAILED_ERROR:
                print(f"{table([model_row])}\n\nThe model fails: baselines at its error would say nothing.\n")
                continue
            marked = [row if at_error(row.scores, error) else row._replace(name=f"{row.name} *") for row in baselines]
            print(table([model_row, *marked]) + "\n")
            missed = missed or marked != baselines
            if short := beyond_curve(scores, systems, horizon):
                print(short + "\n")
        print("The baselines are shown with the one constant that gives the model's own median rel_dE.")
        if missed:
            print("* No constant that was measured gives it: the nearest one.")
        return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m core.evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-path", required=True, help="a checkpoint: model.pt")
    parser.add_argument(
        "--set", nargs="+", default=[], help="name of a set, key=value of its systems, or both (default: validation)"
    )
    parser.add_argument("--periods", nargs="+", type=_periods, help="horizons, instead of the model's eval_periods")
    return parser


def _periods(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_PERIODS:
        raise argparse.ArgumentTypeError(f"the value is {text}, but must be a whole number from 1 to {MOST_PERIODS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
