"""The page: one HTML file with everything in it, for the light and for a dark room."""

import os
import shlex
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path

from tune.folder import MODEL_FILE
from tune.report.data import Search
from tune.report.tables import confirmation_section, score, score_table, style_of, trial_table
from tune.report.trial_figures import STATES

# Nothing is loaded and nothing is sent, whatever a search's files hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Picture:
    """A figure as PNG in both themes, or the reason why there is none."""

    title: str
    caption: str
    light: bytes = b""
    dark: bytes = b""
    reason: str = ""


def page(search: Search, pictures: dict[str, Picture]) -> str:
    """Return the HTML of a report."""

    def figures(*names: str) -> str:
        return "".join(_figure(name, pictures[name]) for name in pictures if name.startswith(names))

    sections = {
        "Best model": _best(search),
        "Work and precision": figures("work_precision"),
        "Confirmation": confirmation_section(search),
        "Along an orbit": figures("dt_along_orbit", "energy_error"),
        "The search": figures("history", "intermediate_values", "pareto_front", "timeline"),
        "Parameters": figures("importances", "parallel_coordinates", "slice"),
        "Training": figures("learning_curves"),
        "All trials": f'{trial_table(search)}<p>{_files(search)}</p>',
        "Commands": _commands(search),
    }
    sections = {title: content for title, content in sections.items() if content}
    anchors = {title: title.lower().replace(" ", "-") for title in sections}
    links = "".join(f'<a href="#{anchors[title]}">{title}</a>' for title in sections)
    body = "".join(
        f'<section id="{anchors[title]}"><h2>{title}</h2>{content}</section>' for title, content in sections.items()
    )
    name = escape(search.folder.path.resolve().name)
    resource = files("tune.report")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<style>{resource.joinpath('page.css').read_text(encoding='utf-8')}</style></head>\n"
        f"<body><header><h1>{name}</h1><p class=question>{escape(search.space.question)}</p>{_summary(search)}</header>"
        f"<nav>{links}</nav>\n<main>{body}</main>\n"
        f"<footer>Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by python -m tune.report.</footer>"
        f"<script>{resource.joinpath('page.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _summary(search: Search) -> str:
    counts = Counter(record.state for record in search.records)
    states = ", ".join(f"{counts[state]} {word}" for state, word in STATES.items() if counts[state])
    trials = f"{len(search.records)} of {search.space.trials} trials{': ' if states else ''}{states}."
    goal = f"Ranked by {search.objective} with {search.ranking}, on orbits that no training saw."
    return f"<p>{escape(trials)} {escape(goal)}</p>"


def _best(search: Search) -> str:
    if search.best is None:
        reasons = Counter(record.reason for record in search.records if record.reason)
        listed = "".join(f"<li>{count} × {escape(reason)}</li>" for reason, count in reasons.most_common(5))  # noqa: RUF001
        return "<p class=absent>No trial ran to its end, so there is no best model.</p>" + (
            f"<p>Trials failed for these reasons:</p><ul>{listed}</ul>" if listed else ""
        )
    scores = search.best.scores
    tiles = [("trial", str(search.best.trial))]
    shown_first = (*search.objectives, search.error, "work_gain", "rel_dE", "steps_per_orbit", "failed_orbits")
    tiles += [(key, score(scores[key], style_of(key))) for key in dict.fromkeys(shown_first) if key in scores]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    warning = ""
    if search.ranking.excess(scores) > 0:
        limits = escape(str(search.ranking))
        warning = f"<p class=absent>No trial kept {limits}: this is the nearest to it.</p>"
    record = next(record for record in search.records if record.number == search.best.trial)
    drawn = ", ".join(
        f"<code>{escape(key)}</code> {escape(format(value, '.3g') if isinstance(value, float) else str(value))}"
        for key, value in record.parameters.items()
    )
    tables = []
    for horizon in search.systems.periods:
        heading = f"Validation set, {len(search.systems.orbits.period)} systems over {search.systems.span(horizon)}"
        tables.append(f"<h3>{heading}</h3>{score_table(search.rows(horizon))}")
    return (
        f"<dl class=tiles>{shown}</dl>{warning}<p>{drawn}</p>{''.join(tables)}"
        "<p class=caption>Baselines are shown with the one constant that gives the model's own median rel_dE. A "
        "work_gain above 1 is fewer force evaluations than the dynamical criterion needs for the same error; the "
        "oracle, which tries steps out, is the limit and no rival. A failed orbit is charged as one that needs a "
        "hundred times the work: with some, even the dynamical criterion's own work_gain is below 1.</p>"
    )


def _figure(name: str, picture: Picture) -> str:
    title = f"<h3>{escape(picture.title)}</h3>"
    if picture.reason:
        return f'<figure id="{name}" class=absent>{title}<p>Not drawn. {escape(picture.reason)}</p></figure>'
    light, dark = (f"data:image/png;base64,{b64encode(image).decode()}" for image in (picture.light, picture.dark))
    return (
        f'<figure id="{name}">{title}<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(picture.title)}" src="{light}"></picture>'
        f'<figcaption>{escape(picture.caption)} <a href="{name}.png">PNG</a></figcaption></figure>'
    )


def _files(search: Search) -> str:
    names = ["trials.csv", "space.yaml", "confirmation.json"]
    names += [f"best/{name}" for name in (MODEL_FILE, "config.toml", "metrics.json")]
    links = [f'<a href="../{name}">{name}</a>' for name in names if (search.folder.path / name).is_file()]
    return f"A number with a link has its model kept. Files: {', '.join(links)}."


def _commands(search: Search) -> str:
    folder = _shown(search.folder.path)
    again = ["python", "-m", "tune.search", "--space", f"{folder}/space.yaml"]
    commands = [("Search again, as this search was", again)]
    if search.best is not None and search.best.path is not None:
        model = f"{folder}/{search.best.path.relative_to(search.folder.path)}"
        simulate = ["simulate", "--model-path", model, "--num-orbits", "8", "--multi-orbit-sim", "--Nperiod", "10"]
        score = ["python", "-m", "core.evaluation", "--model-path", model]
        two_bodies = search.systems.config.num_particles == 2
        commands += [
            ("Simulate with the best model", ["python", "run/runner.py", *simulate]),
            ("Score it beside the baselines", score),
            ("Score it on other systems", [*score, "--set", "eccentric" if two_bodies else "test_particle"]),
            ("Take it out of this folder", ["python", "-m", "tune.export", folder, "--out", "model.pt"]),
        ]
    if any(record.state == "RUNNING" for record in search.records) or len(search.records) < search.space.trials:
        resume = ["python", "-m", "tune.search", "--resume", folder]
        commands.append(("Go on with it, where it was interrupted", resume))
    else:
        more = ["python", "-m", "tune.search", "--resume", folder, "--add-trials", str(search.space.trials)]
        commands.append(("Search on, with as many trials more", more))
    if search.best is not None:
        rerun = ["python", "-m", "tune.rerun", folder, "--trial", str(search.best.trial)]
        commands.append(("Repeat the best trial, alone, and compare", rerun))
    commands.append(("Write this report again", ["python", "-m", "tune.report", folder]))
    listed = "".join(f"<dt>{title}</dt><dd><pre>{escape(shlex.join(words))}</pre></dd>" for title, words in commands)
    return f"<p>In the repository's folder, with its environment active:</p><dl class=commands>{listed}</dl>"


def _shown(path: Path) -> str:
    """A path as it is shortest from where the report is written."""
    full = path.resolve()
    try:
        return min(os.path.relpath(full), str(full), key=len)
    except ValueError:  # another drive
        return str(full)
