"""Tables of the page: models beside baselines, the confirmation, all trials."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from core.evaluation import COLUMNS, Row
from core.held_out import held_out
from core.scores import baseline_scores
from core.work_precision import BASELINES, curves_of, has_curve
from tune.folder import MODEL_FILE
from tune.parameters import as_text
from tune.report.data import Search
from tune.report.trial_figures import STATES

_FORMATS = {key: style for key, _, style in COLUMNS} | {"convergence_rate": ".2f", "rel_dE_train": ".1e"}


def score_table(rows: Sequence[Row]) -> str:
    """Lay out rows of scores as core.evaluation does, the first row the model's own."""
    shown = [column for column in COLUMNS if any(column[0] in row.scores for row in rows)]
    body = [
        [_cell(row.name), *(_cell(score(row.scores.get(key), style), row.scores.get(key)) for key, _, style in shown)]
        for row in rows
    ]
    return table(["", *(heading for _, heading, _ in shown)], body, kind="scores", marked={0})


def trial_table(search: Search) -> str:
    """Return the table of all trials; a click on a heading sorts by it."""
    records = search.records
    if not records:
        return "<p>There are no trials.</p>"
    parameters = list(dict.fromkeys(key for record in records for key in record.parameters))
    every = list(dict.fromkeys(key for record in records for key in record.scores))
    # What decides comes first, beside the parameters; the rest is further to the right.
    first = [key for key in dict.fromkeys((*search.objectives, search.error)) if key in every]
    rest = [key for key in every if key not in first]
    body, marked = [], set()
    for index, record in enumerate(records):
        if search.best and record.number == search.best.trial:
            marked.add(index)
        on_front = "front" if record.pareto else ""
        model = search.folder.checkpoint(record.number) / MODEL_FILE
        number = str(record.number)
        if model.is_file():
            number = f'<a href="../checkpoints/{model.parent.name}/{MODEL_FILE}" title="its model">{number}</a>'
        body.append(
            [
                _cell(number, record.number, raw=True),
                _cell(STATES.get(record.state, record.state), record.state),
                *([_cell(on_front)] if len(search.objectives) > 1 else []),
                _cell(record.reason),
                _cell(str(record.epochs), record.epochs),
                *(_cell(score(record.scores.get(key), style_of(key)), record.scores.get(key)) for key in first),
                *(_cell(_parameter(record.parameters.get(key)), record.parameters.get(key)) for key in parameters),
                *(_cell(score(record.scores.get(key), style_of(key)), record.scores.get(key)) for key in rest),
                _cell(str(record.seed), record.seed),
            ]
        )
    front = ["Pareto"] if len(search.objectives) > 1 else []
    headings = ["trial", "state", *front, "reason", "epochs", *first, *parameters, *rest, "seed"]
    if not any(record.reason for record in records):  # a column of nothing
        empty = headings.index("reason")
        headings.pop(empty)
        for row in body:
            row.pop(empty)
    return table(headings, body, kind="sortable", marked=marked)


def confirmation_section(search: Search) -> str:
    """Say what training the best few again with fresh seeds has shown; empty if that was not asked for."""
    found = search.confirmation
    candidates = [each for each in found.get("candidates") or [] if isinstance(each, dict)]
    sentence = f"<p>{escape(str(found['sentence']))}</p>" if found.get("sentence") else ""
    if not candidates:
        return sentence
    key, error = search.objective, search.error
    up = 1 if search.objectives[key] else -1

    def place(each: dict[str, Any]) -> tuple[bool, bool, float]:
        mean = _summary(each, "validation", "mean", key)
        beaten, last = each.get("trial") != found.get("winner"), math.inf if mean is None else -up * mean
        return beaten, not each.get("survived"), last

    if found.get("winner") is not None:  # otherwise they are in the search's order
        candidates.sort(key=place)
    winners = {index for index, each in enumerate(candidates) if each.get("trial") == found.get("winner")}
    body = []
    for each in candidates:
        repeats = [repeat for repeat in each.get("seeds") or [] if isinstance(repeat, dict)]
        values = [score((repeat.get("validation") or {}).get(key), style_of(key)) for repeat in repeats]
        reasons = [str(repeat["reason"]) for repeat in repeats if repeat.get("reason")]
        held = {True: "yes", False: "dropped out"}.get(bool(each.get("survived")), "")
        body.append(
            [
                _cell(f"trial {each.get('trial', '?')}"),
                _cell(score(_summary(each, "validation", "mean", key), style_of(key))),
                _cell(score(_summary(each, "validation", "std", key), style_of(key))),
                _cell(score(_summary(each, "validation", "mean", error), style_of(error))),
                _cell(score(_summary(each, "validation", "sum", "failed_orbits"), ".0f")),
                _cell(", ".join(values)),
                _cell("; ".join([held, *reasons])),
            ]
        )
    headings = ["", f"mean {key}", "std", f"mean {error}", "failed orbits", f"{key} of each seed", "held out"]
    validation = table(headings, body, kind="scores", marked=winners)
    return f"{sentence}<h3>Validation set, over fresh seeds</h3>{validation}{_test_table(search, candidates, winners)}"


def _test_table(search: Search, candidates: Sequence[dict[str, Any]], winners: set[int]) -> str:
    """Means on the test set, beside those baselines whose curves there are at hand, at the winner's error."""
    order = sorted(range(len(candidates)), key=lambda index: index not in winners)
    rows = []
    for index in order:
        means = (candidates[index].get("test") or {}).get("mean") or {}
        numbers = {key: float(value) for key, value in means.items() if isinstance(value, int | float)}
        if numbers:
            rows.append(Row(f"trial {candidates[index].get('trial')}, mean of seeds", numbers))
    if not rows:
        return ""
    systems = held_out(search.space.example(), "test")
    horizon, error = search.horizon, rows[0].scores.get("rel_dE", math.nan)
    names = [name for name in BASELINES if has_curve(systems, name, horizon)] if 0 < error < math.inf else []
    curves = {name: curves_of(systems, name, (horizon,))[horizon] for name in names}
    rows += [Row(name, baseline_scores(curve, curves, error)) for name, curve in curves.items()]
    over = f"{len(systems.orbits.period)} systems over {systems.span(horizon)}"
    return f"<h3>Test set, {over}, which nothing was chosen by</h3>{score_table(rows)}"


def _summary(candidate: dict[str, Any], name: str, of: str, key: str) -> float | None:
    value = ((candidate.get(name) or {}).get(of) or {}).get(key)
    return float(value) if isinstance(value, int | float) else None


def table(headings: Sequence[str], body: Iterable[Sequence[str]], *, kind: str, marked: set[int]) -> str:
    """Return a table of finished cells; ``marked`` rows stand out."""
    head = "".join(f"<th scope=col>{escape(heading)}</th>" for heading in headings)
    rows = "".join(
        f"<tr{' class=best' if index in marked else ''}>{''.join(cells)}</tr>" for index, cells in enumerate(body)
    )
    return f"<div class=scroll><table class={kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _cell(text: str, value: object = None, *, raw: bool = False) -> str:
    """A cell; a number is what sorting goes by, and stands at the right."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    attributes = f' class=number data-value="{value}"' if number else ""
    return f"<td{attributes}>{text if raw else escape(text)}</td>"


def score(value: float | None, style: str) -> str:
    """Write a score; a dash stands for one that is not there."""
    return "–" if value is None else format(value, f"z{style}")  # noqa: RUF001


def style_of(key: str) -> str:
    """A score's format; a longer horizon has the plain name's."""
    plain = key.rsplit("_", 1)[0] if key.rsplit("_", 1)[-1].isdecimal() else key
    return _FORMATS.get(plain, ".3g")


def _parameter(value: Any) -> str:
    return "–" if value is None else format(value, ".3g") if isinstance(value, float) else as_text(value)  # noqa: RUF001
