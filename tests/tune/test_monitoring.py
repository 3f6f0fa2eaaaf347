"""One search that is watched by everything there is, while it runs and afterwards."""

import csv
import json
import re
import shlex
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.programs import free_port, needed, wait_for
from tests.tune.conftest import load_values
from tests.tune.searches import finish, only_search, start_search
from tests.tune.wandb_runs import read_runs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "monitoring"


@dataclass
class Watched:
    """What was seen of a search while it ran, and what it left."""

    folder: Path
    results: Path
    plan: dict[str, str]
    studies: Any
    actors: Any
    refused: int
    prometheus: dict[str, Any] | None
    status: int
    output: str
    errors: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("watched")
    values = load_values()
    values["fixed"] |= {"num_orbits": 8, "epochs": 60, "evaluate_every": 5}
    values |= {"trials": 1000, "scheduler": "none"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    search = start_search(
        *("--space", "tiny.yaml", "--max-concurrent", 2, "--metrics", "--wandb", "--json", "--verbose"),
        folder=folder,
        WANDB_MODE="offline",
    )
    try:
        assert search.stderr is not None
        said = []
        while not (line := search.stderr.readline()).startswith("wandb "):
            assert line, "".join(said)
            said.append(line)
        plan = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in [*said, line] if len(line.split()) > 1}
        dashboard = plan["dashboard"].split()[0]
        with optuna_dashboard(plan["optuna"], folder) as url, prometheus(folder) as queries:
            actors = wait_for(lambda: trial_actors(dashboard))
            studies = wait_for(lambda: get(f"{url}/api/studies")["study_summaries"])
            refused = status_of(f"{dashboard}/api/v0/actors")
            seen = None if queries is None else watch_prometheus(queries)
    finally:
        search.send_signal(signal.SIGINT)
        run = finish(search)
    results = only_search(folder)
    return Watched(
        folder, results, plan, studies, actors, refused, seen, run.returncode, run.stdout, "".join(said) + run.stderr
    )


def get(url: str, **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return json.load(answer)


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def trial_actors(dashboard: str) -> list[dict[str, Any]]:
    """The actors of trials that have begun, from the dashboard's API."""
    token = (Path.home() / ".ray" / "auth_token").read_text().strip()
    answer = get(f"{dashboard}/api/v0/actors?detail=1", Authorization=f"Bearer {token}")
    return [actor for actor in answer["data"]["result"]["result"] if (actor["repr_name"] or "").startswith("trial-")]


@contextmanager
def optuna_dashboard(command: str, folder: Path) -> Iterator[str]:
    """Paste the command that the search printed, with a port that is free."""
    port = free_port()
    process = subprocess.Popen([*shlex.split(command), "--port", str(port), "--quiet"], cwd=folder)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def prometheus(folder: Path) -> Iterator[str | None]:
    """Start Prometheus with the shipped file, in which only the path of the results is another."""
    try:
        program = needed("prometheus", "prometheus")
    except pytest.skip.Exception:
        yield None
        return
    shipped = (DEPLOY / "prometheus.yml").read_text()
    assert shipped.count("../../results") == 1
    (folder / "prometheus.yml").write_text(shipped.replace("../../results", "results"))
    port = free_port()
    process = subprocess.Popen(
        [
            *(program, f"--config.file={folder}/prometheus.yml", f"--web.listen-address=127.0.0.1:{port}"),
            *(f"--storage.tsdb.path={folder}/prometheus", "--log.level=error"),
        ]
    )
    try:
        yield f"http://127.0.0.1:{port}/api/v1/query?query="
    finally:
        process.terminate()
        process.wait()


def watch_prometheus(queries: str) -> dict[str, Any]:
    """Ask for what the dashboard shows, and wait until a trial that has ended is not shown any more."""

    def ask(expression: str) -> list[dict[str, Any]]:
        answer = get(queries + urllib.parse.quote(expression))
        assert answer["status"] == "success"
        return list(answer["data"]["result"])

    gains = wait_for(lambda: ask("ray_aitimestepper_work_gain"))
    wait_for(lambda: ask('ray_aitimestepper_trials{state="COMPLETE"} > 0'))
    shown = {expression: ask(expression.replace("$search", ".*")) for expression in expressions()}
    # A trial that ran when Prometheus first looked: it ends, and others go on.
    first = gains[0]["metric"]["trial"]
    gone = wait_for(lambda: not ask(f'ray_aitimestepper_epoch{{trial="{first}"}}') and ask("ray_aitimestepper_epoch"))
    return {"gains": gains, "shown": shown, "first": first, "gone": gone}


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(found) >= 6
    return found


def test_the_dashboard_shows_only_metrics_that_exist() -> None:
    from tune.monitoring.metrics import PREFIX, SCORES

    names = {re.findall(r"ray_(\w+){", expression)[0] for expression in expressions()}
    assert names == {f"{PREFIX}{name}" for name in (*map(str.lower, SCORES), "epoch", "trials", "best")}


def test_actors_are_called_like_their_trials(watched: Watched) -> None:
    assert {actor["repr_name"] for actor in watched.actors} <= {f"trial-{number:05d}" for number in range(1000)}
    assert {actor["class_name"] for actor in watched.actors} == {"TimeStepTraining"}
    assert watched.refused == 401


def test_optuna_dashboard_opens_the_study_of_a_running_search(watched: Watched) -> None:
    assert [study["study_name"] for study in watched.studies] == [watched.results.name]


def test_prometheus_reads_the_scores_of_running_trials_and_forgets_ended_ones(watched: Watched) -> None:
    needed("prometheus", "prometheus")
    assert watched.prometheus is not None
    for series in watched.prometheus["gains"]:
        labels = {key: value for key, value in series["metric"].items() if key not in ("instance", "NodeAddress")}
        trial = labels["trial"]
        assert labels == {
            **{"__name__": "ray_aitimestepper_work_gain", "job": "aitimestepper"},
            **{"search": watched.results.name, "trial": trial},
        }
        assert 0 < float(series["value"][1]) < 5
    shown = watched.prometheus["shown"]
    assert all(shown.values())
    states = next(result for expression, result in shown.items() if "_trials" in expression)
    counts = {series["metric"]["state"]: int(series["value"][1]) for series in states}
    assert set(counts) == {"COMPLETE", "PRUNED", "FAIL", "RUNNING"}
    assert counts["COMPLETE"] >= 1
    best = next(result for expression, result in shown.items() if "_best" in expression)
    assert {series["metric"]["score"] for series in best} == {"work_gain", "rel_dE"}
    assert all(series["metric"]["trial"] != watched.prometheus["first"] for series in watched.prometheus["gone"])


def test_metrics_leave_no_target_behind(watched: Watched) -> None:
    assert not (watched.folder / "results" / ".prometheus").exists()


def test_standard_output_is_one_json_object(watched: Watched) -> None:
    assert watched.status == 130
    result = json.loads(watched.output)
    with (watched.results / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert result["search"] == watched.results.name
    assert sum(result["trials"].values()) == len(rows)
    assert result["trials"]["COMPLETE"] == sum(row["state"] == "COMPLETE" for row in rows)
    best = result["best"]
    row = rows[best["trial"]]
    assert best["scores"]["work_gain"] == float(row["work_gain"])
    assert best["parameters"]["lr"] == float(row["lr"])
    assert (best["seed"], best["epochs"]) == (int(row["seed"]), 60)
    files = {key: path and (watched.folder / path).exists() for key, path in result["files"].items()}
    # Who interrupts a search does not wait for its report.
    assert files == {**dict.fromkeys(("results", "study", "trials", "best_model"), True), "report": None}
    assert result["model"] == json.loads((watched.results / "best/metrics.json").read_text())
    assert (best["broken_limits"], result["ended_by"]) == ([], "interrupt")
    assert 5 < result["seconds"] < 300
    assert result["failure"] is None
    assert "best: trial" in watched.errors


def test_verbose_shows_what_ray_says(watched: Watched) -> None:
    assert "Started a local Ray instance" in watched.errors


def test_every_trial_is_a_run_of_one_group_in_wandb(watched: Watched) -> None:
    runs = {run.name: run for run in read_runs(watched.results)}
    with (watched.results / "trials.csv").open(newline="") as file:
        rows = {f"trial-{int(row['number']):05d}": row for row in csv.DictReader(file)}
    assert set(runs) <= set(rows)
    # The interrupt may come between a trial's choice and its beginning.
    assert all(rows[name]["state"] == "RUNNING" for name in set(rows) - set(runs))
    assert {run.group for run in runs.values()} == {watched.results.name}
    assert {run.project for run in runs.values()} == {"AITimeStepper"}
    for name, run in runs.items():
        row = rows[name]
        assert run.config["lr"] == float(row["lr"])
        assert run.config["hidden_dims"] == [16]
        assert run.summary["state"] == row["state"]
        if row["state"] == "COMPLETE":
            assert [entry["_step"] for entry in run.history] == list(range(5, 61, 5))
            assert run.summary["work_gain"] == run.history[-1]["work_gain"] == float(row["work_gain"])
