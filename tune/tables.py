"""The tables that a search prints: the best trials, baselines beside a model, and the repeats of the best."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.evaluation import at_error
from core.held_out import HeldOut
from tune.confirmation import Confirmation
from tune.objectives import score, suffixes
from tune.progress import describe
from tune.ranking import Ranking, Scores
from tune.study import TrialRecord

Baselines = Mapping[str, Scores]

#: Scores of a trial's line, beside the objectives and the energy error that is limited.
_OF_TRIALS = ("steps_per_orbit", "convergence_rate", "failed_orbits")
#: Scores that models and baselines have in common, with headings that keep a table within 80 columns.
_IN_COMMON = {
    "rel_dE": "rel_dE",
    "steps_per_orbit": "steps",
    "work_gain": "work_gain",
    "work_gain_prs23": "over prs23",
    "oracle_share": "of oracle",
    "failed_orbits": "failed",
}


def trials_table(best: Sequence[TrialRecord], ranking: Ranking) -> str:
    """The best trials, those of the Pareto front or beyond a limit marked. Parameters have a line of their own."""
    keys = list(dict.fromkeys((*ranking.objectives, *ranking.limited, *_OF_TRIALS)))
    lines = [f"trial  {'  '.join(keys)}"]
    for record in best:
        values = [format(record.scores[key], score(key).style).rjust(len(key)) for key in keys]
        broken = ranking.broken(record.scores)
        mark = f"  beyond {', '.join(broken)}" if broken else "  pareto" if record.pareto else ""
        lines += [f"{record.number:5}  {'  '.join(values)}{mark}", f"       {describe(record.parameters)}"]
    return "\n".join(lines)


def beside_baselines(name: str, scores: Scores, baselines: Baselines, systems: HeldOut) -> str:
    """A model and the baselines at its median energy error, a table for each horizon.

    A baseline is in those of the horizons that it has been measured over.
    """
    tables, missed = [], False
    for horizon, suffix in suffixes(systems.periods).items():
        lines = [["", *_IN_COMMON.values()]]
        for row, of_row in ((name, scores), *_measured(baselines, suffix)):
            name_shown = row if at_error(of_row, scores[f"rel_dE{suffix}"], suffix) else f"{row} *"
            missed = missed or name_shown != row
            lines.append([name_shown, *(_format(of_row.get(key + suffix), key) for key in _IN_COMMON)])
        tables.append(f"{systems.name} set, {systems.span(horizon)}, baselines at the same rel_dE:\n{_layout(lines)}")
    note = "\n* no constant that was measured gives this rel_dE: the nearest one" if missed else ""
    return "\n\n".join(tables) + note


def repeats_table(confirmation: Confirmation) -> str:
    """The candidates as they are ranked: mean and standard deviation over their repeats, on the validation set."""
    ranking, alive = confirmation.ranking, confirmation.survivors()
    keys = list(dict.fromkeys((ranking.first, ranking.error, "failed_orbits")))
    lines = [["trial", "seeds", *keys, ""]]
    ranked = confirmation.order()
    for record in (*ranked, *(c for c in confirmation.candidates if c not in ranked)):
        summary = confirmation.summary(record.number, "validation")
        reasons = [repeat.reason for repeat in confirmation.of(record.number) if repeat.reason]
        fate = "" if record.number in alive else f"dropped out{f': {reasons[0]}' if reasons else ''}"
        values = [_spread(summary, key) for key in keys]
        lines.append([str(record.number), str(len(confirmation.scored(record.number))), *values, fate])
    return _layout(lines)


def test_table(confirmation: Confirmation, baselines: Baselines, systems: HeldOut) -> str:
    """The candidates' scores on the test set, and the baselines at the first one's energy error, for each horizon."""
    tables = []
    for horizon, suffix in suffixes(systems.periods).items():
        keys = ["rel_dE", "work_gain", "work_gain_prs23", "violations", "failed_orbits"]
        lines = [["", "rel_dE", "work_gain", "over prs23", "violations", "failed"]]
        for record in confirmation.order():
            summary = confirmation.summary(record.number, "test")
            lines.append([f"trial {record.number}", *(_spread(summary, key + suffix) for key in keys)])
        for name, scores in _measured(baselines, suffix):
            lines.append([name, *(_format(scores.get(key + suffix), key) for key in keys)])
        tables.append(f"{systems.name} set, {systems.span(horizon)}:\n{_layout(lines)}")
    return "\n\n".join(tables)


def _measured(baselines: Baselines, suffix: str) -> list[tuple[str, Scores]]:
    return [(name, scores) for name, scores in baselines.items() if f"rel_dE{suffix}" in scores]


def _spread(summary: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """Mean and standard deviation over the repeats; failed orbits are added up."""
    if key in summary["sum"]:
        return _format(summary["sum"][key], key)
    spread = summary["std"].get(key)
    return _format(summary["mean"].get(key), key) + ("" if spread is None else f" ± {_format(spread, key)}")


def _format(value: float | None, key: str) -> str:
    return "-" if value is None else format(value, score(key).style)


def _layout(lines: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right, the last without trailing space."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )
