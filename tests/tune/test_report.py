"""The report: read in a real browser, and written for searches that have little to show."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.programs import needed
from tests.tune.conftest import load_values
from tests.tune.searches import ONE_WORKER, only_results, run_search
from tune.folder import SearchFolder
from tune.report.__main__ import main
from tune.report.data import read_search
from tune.report.tables import confirmation_section
from tune.report.theme import LIGHT, canvas, label_point
from tune.report.trial_figures import front_of
from tune.report.write import write_report
from tune.space import Space, load_space
from tune.study import SearchStudy

FIGURES = (
    "work_precision dt_along_orbit energy_error history intermediate_values pareto_front timeline parallel_coordinates "
    "importances slice learning_curves"
).split()
#: Wherever the page refers to: itself, its own folder, or data in it.
REFERENCE = re.compile(r'(?:src|srcset|href|action)="([^"]*)"|url\(([^)]*)\)|@import')
LOCAL = re.compile(r"(data:image/png;base64,|data:,$|#|\.\./|\w+\.png$)")

PROBE = """\
<script>
  const found = {errors: [], refused: []};
  addEventListener("error", (event) => found.errors.push(event.message || "a resource"), true);
  addEventListener("securitypolicyviolation", (event) => found.refused.push(event.blockedURI));
  addEventListener("load", () => {
    const images = [...document.images];
    found.widths = images.map((image) => image.naturalWidth);
    found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
    found.darkFigures = images.filter((image) => image.currentSrc === image.previousSibling.srcset).length;
    found.paper = getComputedStyle(document.body).backgroundColor;
    found.wide = document.documentElement.scrollWidth > innerWidth;
    found.loaded = performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:"));
    const table = document.querySelector("table.sortable");
    const heading = [...table.tHead.rows[0].cells].find((cell) => cell.textContent === "rel_dE");
    const column = () => [...table.tBodies[0].rows].map((row) => row.cells[heading.cellIndex].dataset.value);
    heading.click();
    found.sorted = column().map(Number);
    heading.click();
    found.reversed = column().map(Number);
    document.body.innerHTML = "<pre id=found>" + JSON.stringify(found) + "</pre>";
  });
</script>
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a real search, with a report by the command."""
    folder = tmp_path_factory.mktemp("searched")
    values = load_values()
    # Curves over 10 periods come with the package.
    values["fixed"] |= {"eval_periods": [10], "evaluate_every": 2, "num_orbits": 4}
    values["trials"] = 4
    values["scheduler"] = {"name": "asha", "min_resource": 2, "reduction_factor": 2}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run = run_search("--space", "tiny.yaml", *ONE_WORKER, "--no-dashboard", folder=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    results = only_results(folder)
    report = report_command(str(results.relative_to(folder)), folder=folder)
    assert report.returncode == 0, report.stderr
    assert report.stdout == f"results/{results.name}/report/index.html\n"
    return results


def report_command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tune.report", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)


def page_of(results: Path) -> str:
    return (results / "report" / "index.html").read_text(encoding="utf-8")


def absent(page: str) -> dict[str, str]:
    """Figures that are not drawn, and why."""
    return dict(re.findall(r'<figure id="(\w+)" class=absent>.*?<p>Not drawn\. (.*?)</p>', page))


def assert_complete(results: Path) -> dict[str, str]:
    """Every figure is there, in both themes and as a file, or says why it is not; return the reasons."""
    page = page_of(results)
    reasons = absent(page)
    files = {path.stem for path in (results / "report").glob("*.png")}
    assert sorted(re.findall(r'<figure id="(\w+)"', page)) == sorted(FIGURES)
    assert files == set(FIGURES) - set(reasons)
    assert page.count("<img ") == page.count('<source media="(prefers-color-scheme: dark)"') == len(files)
    assert all(reasons.values())
    references = [match[0] or match[1] for match in REFERENCE.findall(page)]
    assert [reference[:80] for reference in references if not LOCAL.match(reference)] == []
    assert len(page) < 5e6
    return reasons


def test_a_search_has_all_its_figures_and_tables(searched: Path) -> None:
    reasons = assert_complete(searched)
    assert set(reasons) <= {"importances"}  # few trials of so small a search may run to their end
    page = page_of(searched)
    for name in ("fixed", "dynamical", "prs23", "dynamical, reversible", "prs23, reversible", "oracle"):
        assert f"<td>{name}</td>" in page
    metrics = json.loads((searched / "best" / "metrics.json").read_text())
    assert f"<dd>{metrics['work_gain']:.3f}</dd>" in page
    rows = re.findall(r"<tr(?: class=best)?><td class=number data-value=\"(\d+)\">", page)
    assert [int(number) for number in rows] == list(range(4))
    for link in re.findall(r'href="(\.\./[^"]*|\w+\.png)"', page):
        assert (searched / "report" / link).resolve().is_file(), link


def test_the_commands_of_a_page_are_understood(searched: Path) -> None:
    """Each command gets as far as its own arguments: --help of the same program knows every flag."""
    commands = re.findall(r"<pre>(.*?)</pre>", page_of(searched))
    assert [command.split()[:3] for command in commands] == [
        ["python", "-m", "tune.search"],
        ["python", "run/runner.py", "simulate"],
        ["python", "-m", "core.evaluation"],
        ["python", "-m", "core.evaluation"],
        ["python", "-m", "tune.export"],
        ["python", "-m", "tune.search"],
        ["python", "-m", "tune.rerun"],
        ["python", "-m", "tune.report"],
    ]
    for command in (*commands[:2], *commands[4:7], commands[2]):
        words = command.split()
        shown = subprocess.run(
            [sys.executable, *words[1:3], "--help"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        assert [word for word in words if word.startswith("--") and word not in shown] == []
    assert commands[3].split()[:-2] == commands[2].split()
    assert "--set" in shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(searched: Path, scheme: str, tmp_path: Path) -> None:
    found, logged = browse(page_of(searched), scheme, tmp_path)
    drawn = len(FIGURES) - len(absent(page_of(searched)))
    assert len(found["widths"]) == drawn
    assert all(width > 1000 for width in found["widths"])
    assert found["dark"] == (scheme == "dark")
    assert found["darkFigures"] == (drawn if scheme == "dark" else 0)
    assert found["paper"] == ("rgb(20, 24, 30)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert not found["wide"]
    assert found["errors"] == found["refused"] == found["loaded"] == []
    assert "CONSOLE" not in logged
    assert found["sorted"] == sorted(found["sorted"])
    assert found["reversed"] == sorted(found["sorted"], reverse=True)
    assert len(found["sorted"]) == 4


def test_a_page_can_load_nothing(searched: Path, tmp_path: Path) -> None:
    """The probe of the test above does see what goes wrong."""
    image = '<i></i><img src="http://127.0.0.1:9/x.png"><script>nowhere()</script>'
    found, logged = browse(page_of(searched).replace("<main>", f"<main>{image}"), "light", tmp_path)
    assert found["refused"] == ["http://127.0.0.1:9/x.png"]
    assert any("nowhere is not defined" in error for error in found["errors"])
    assert "CONSOLE" in logged


def browse(page: str, scheme: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Open a page in Chromium; return what the probe in it saw, and the browser's log."""
    browser = needed("chromium", "chromium")
    file = folder / "page.html"
    file.write_text(page.replace("<style>", f"{PROBE}<style>", 1), encoding="utf-8")
    run = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"),
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            *("--virtual-time-budget=10000", "--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    match = re.search(r"<pre id=\"found\">(.*?)</pre>", run.stdout, re.DOTALL)
    assert match is not None, run.stderr
    return json.loads(match[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")), run.stderr


# Searches with little to show
@pytest.fixture
def invented(write_space: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Path, SearchStudy]]:
    """A results folder with a study that was never run: the changes of its space, and a study to fill."""

    def make(change: Callable[[dict[str, Any]], None] = lambda values: None) -> tuple[Path, SearchStudy]:
        def with_curves(values: dict[str, Any]) -> None:
            values["fixed"]["eval_periods"] = [10]
            change(values)

        space: Space = load_space(write_space(with_curves))
        folder = SearchFolder(tmp_path / "results" / "invented")
        folder.create(space)
        return folder.path, SearchStudy(space, folder.journal, "another-name")

    return make


def scores(work_gain: float, rel_dE: float = 1e-3) -> dict[str, float]:
    return {"work_gain": work_gain, "rel_dE": rel_dE, "steps_per_orbit": 300.0, "failed_orbits": 0}


def complete(study: SearchStudy, result: dict[str, float]) -> int:
    number = study.ask().number
    for epoch in range(1, study.space.epochs + 1):
        study.report(number, epoch, result)
    study.finish(number, study.space.epochs)
    return number


def test_a_single_trial_of_a_single_choice(invented: Callable[..., tuple[Path, SearchStudy]]) -> None:
    def single(values: dict[str, Any]) -> None:
        values["parameters"] = {"hidden_dims": {"choice": [[8], [16]]}}
        del values["fixed"]["hidden_dims"]

    results, study = invented(single)
    complete(study, scores(1.1))
    write_report(results)
    reasons = assert_complete(results)
    assert reasons["importances"].startswith("Fewer than two parameters vary")
    assert reasons["dt_along_orbit"] == "The model of trial 0 is not in the folder any more."
    assert set(reasons) == {"importances", "dt_along_orbit", "energy_error", "learning_curves"}


def test_only_failed_trials(invented: Callable[..., tuple[Path, SearchStudy]]) -> None:
    results, study = invented()
    for _ in range(2):
        study.fail(study.ask().number, 1, "a <b>bold</b> reason & more")
    write_report(results)
    reasons = assert_complete(results)
    assert set(reasons) == set(FIGURES) - {"work_precision", "timeline"}
    assert reasons["history"] == "No trial has a work_gain: 2 failed."
    page = page_of(results)
    assert "No trial ran to its end, so there is no best model." in page
    assert "a &lt;b&gt;bold&lt;/b&gt; reason &amp; more" in page
    assert "<b>bold" not in page
    assert "simulate" not in page


def test_an_interrupted_search_with_wild_scores(invented: Callable[..., tuple[Path, SearchStudy]]) -> None:
    def hostile(values: dict[str, Any]) -> None:
        values["question"] = "Is </title><script>alert(1)</script> harmless?"

    results, study = invented(hostile)
    best = complete(study, scores(1.2))
    for wild in (scores(1e-6, 1e3), scores(40.0, 2.0), scores(1.0), scores(0.9), scores(1.1)):
        complete(study, wild)
    stopped, running = study.ask().number, study.ask().number
    study.report(stopped, 1, scores(0.5))
    study.finish(stopped, 1)
    study.report(running, 1, scores(0.7))
    study.ask()
    (results / "report").mkdir()
    (results / "report" / "old.png").touch()
    write_report(results)
    assert not (results / "report" / "old.png").exists()
    assert set(assert_complete(results)) == {"dt_along_orbit", "energy_error", "learning_curves"}
    page = page_of(results)
    assert f"<dd>{best}</dd>" in page
    assert "9 of 6 trials: 6 done, 2 not ended, 1 stopped" in page
    assert "alert(1)</script>" not in page


def test_a_search_without_trials(invented: Callable[..., tuple[Path, SearchStudy]]) -> None:
    results, _ = invented()
    write_report(results)
    assert set(assert_complete(results)) == set(FIGURES) - {"work_precision"}


def test_a_confirmation_is_shown_and_an_empty_one_does_no_harm(
    invented: Callable[..., tuple[Path, SearchStudy]],
) -> None:
    results, study = invented()
    numbers = [complete(study, scores(gain)) for gain in (1.2, 1.1)]
    seeds = [{"seed": seed, "validation": scores(1.15), "test": scores(1.12)} for seed in (1, 2)]
    mean = {"mean": scores(1.153), "std": {"work_gain": 0.021, "rel_dE": None}, "sum": {"failed_orbits": 3}}
    leader = {"trial": numbers[0], "survived": True, "seeds": seeds, "validation": mean, "test": mean}
    other = {"trial": numbers[1], "survived": False, "seeds": [{"seed": 1, "reason": "it <failed>"}]}
    for content in ({}, {"candidates": None}, {"candidates": [{}]}):
        (results / "confirmation.json").write_text(json.dumps(content))
        confirmation_section(read_search(results, lambda text: None))
    (results / "confirmation.json").write_text(
        json.dumps({"candidates": [leader, other], "winner": numbers[0], "sentence": "Trial 0 & its seeds lead."})
    )
    write_report(results)
    page = page_of(results)
    assert "Trial 0 &amp; its seeds lead." in page
    assert "1.150, 1.150" in page
    assert "<td>1.153</td><td>0.021</td>" in page
    assert "dropped out; it &lt;failed&gt;" in page
    assert "Test set, 128 systems over 10 periods" in page


@pytest.mark.parametrize("taken", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_a_label_stands_where_it_hides_nothing(taken: tuple[int, int]) -> None:
    """Dots fill all quarters around the point but one, and a line runs through it."""
    free = (-taken[0], -taken[1])
    axes = canvas(LIGHT).subplots()
    axes.set_xlim(-10, 10)
    axes.set_ylim(-10, 10)
    rows, columns = np.meshgrid(np.linspace(-9, 9, 40), np.linspace(-9, 9, 40))
    filled = ~((np.sign(rows) == free[0]) & (np.sign(columns) == free[1]))
    axes.scatter(rows[filled], columns[filled])
    axes.plot([-10, 10], [0, 0])
    label_point(axes, 0, 0, "trial 12", "black")
    (text,) = axes.texts
    box = text.get_window_extent().transformed(axes.transData.inverted())
    assert (np.sign(box.x0), np.sign(box.x1)) == (free[0], free[0])
    assert np.sign((box.y0 + box.y1) / 2) == free[1]


def test_the_front_is_what_nothing_beats() -> None:
    points = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 2.0], [0.5, 0.5], [1.0, 1.0]])
    assert front_of(points, (False, True)) == [0, 1, 3, 4]
    assert front_of(points, (True, True)) == [2]
    assert front_of(points[:0], (True, True)) == []


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "not the results of a search (there is no space.yaml in it); give a folder such as"),
        (lambda folder: (folder / "space.yaml").write_text("question: q\n"), "there is no study.journal in it"),
    ],
)
def test_a_folder_of_no_search_is_one_line(
    prepare: Callable[[Path], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path)
    line = refused(capsys, str(tmp_path))
    assert line.startswith(f"tune.report: {tmp_path}: ")
    assert message in line


def test_damaged_files_are_one_line(
    invented: Callable[..., tuple[Path, SearchStudy]], capsys: pytest.CaptureFixture[str]
) -> None:
    results, study = invented()
    study.fail(study.ask().number, 0, "no")
    (results / "report").touch()
    assert refused(capsys, str(results)).startswith(f"tune.report: results folder {results}: cannot be written (Not a")
    (results / "confirmation.json").write_text("{")
    assert refused(capsys, str(results)).startswith(f"tune.report: {results}/confirmation.json: cannot be read (")
    (results / "study.journal").write_text("{\n{}\n")
    assert refused(capsys, str(results)) == (
        f"tune.report: {results}/study.journal: cannot be read, line 1 of it is damaged; delete that line, or restore "
        "the file from a copy."
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_line(number: int, tmp_path: Path) -> None:
    """At its earliest, while modules are imported."""
    command = [sys.executable, "-X", "importtime", "-m", "tune.report", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith("core.interrupts"):
                break
        process.stderr.readline()
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "tune.report: interrupted." in said
    assert "Traceback" not in said


def test_a_missing_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys)
    assert line == "tune.report: the following arguments are required: folder; --help lists the options"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it refuses to write: one line, after its progress."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    *progress, line = output.err.splitlines()
    assert set(progress) <= {"drawing the figures"}
    return line
