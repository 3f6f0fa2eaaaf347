"""`--set`, `--dry-run`, the schema for editors, and the shipped spaces."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from core.errors import UserError
from tests.tune.conftest import load_values
from tests.tune.searches import ONE_WORKER, load_study, only_results, refusal_of, run_search, trials_table
from tune.overrides import override
from tune.space import find_space, load_space, shipped_spaces
from tune.space_schema import schema
from tune.yaml_file import read_mapping

SHIPPED = Path(__file__).parents[2] / "search_spaces"


def test_any_entry_can_be_set_and_is_checked_as_the_file_is(write_space: Callable[..., Path]) -> None:
    assignments = [
        "trials=3",
        "fixed.epochs=6",
        "fixed.E_upper=0.4",
        "parameters.lr.float=[1e-4,1e-3]",
        "parameters.history_len.when.feature_type.delta_mag=[2,3]",
        "parameters.feature_type={choice: [rich, delta_mag]}",
        "parameters.energy_threshold=5e-4",
        "sampler=random",
        "objectives=[rel_dE, work_gain]",
        "constraints=[violations <= 0.1]",
        "confirm.top=2",
    ]
    file = write_space(lambda values: values.update(objective="work_gain"))
    space = load_space(file, assignments)
    assert (space.trials, space.epochs, space.sampler.name) == (3, 6, "random")
    assert (space.fixed["E_upper"], space.fixed["energy_threshold"]) == (0.4, 5e-4)
    assert space.parameters["lr"].domain == [1e-4, 1e-3]
    assert space.parameters["lr"].log  # type: ignore[attr-defined]
    assert space.parameters["history_len"].domains == [[0, 3], [2, 3]]
    assert space.objectives == ["rel_dE", "work_gain"]
    assert space.confirm is not None
    assert (space.confirm.top, space.confirm.seeds) == (2, 5)
    assert load_space(file).trials == 6


def test_what_is_searched_can_be_fixed_and_what_is_fixed_can_be_searched(write_space: Callable[..., Path]) -> None:
    space = load_space(write_space(), ["fixed.lr=2e-3", "parameters.dropout.float=[0, 0.2]"])
    assert space.fixed["lr"] == 2e-3
    assert set(space.parameters) == {"energy_threshold", "history_len", "feature_type", "dropout"}
    assert "dropout" not in space.fixed
    assert space.parameters["dropout"].domain == [0, 0.2]


def test_keys_that_yaml_reads_as_numbers_can_be_set() -> None:
    values = {"when": {"history_len": {0: [1, 2], 1: [3, 4]}}}
    assert override(values, ["when.history_len.1=[5, 6]"])["when"]["history_len"] == {0: [1, 2], 1: [5, 6]}
    assert values["when"]["history_len"][1] == [3, 4]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["trials"], "The value of --set is trials, but must be key=value, for example trials=8"),
        (["=3"], "The value of --set is =3, but must be key=value"),
        (["fixed..epochs=3"], "must be key=value"),
        (["trials=3", "trials=4"], "--set gives `trials` twice, trials=3 and trials=4; leave one out"),
        (["trials.x=3"], "The key `trials.x` of --set cannot be there: `trials` is 6, which has no keys"),
        (["parameters.lr=[1"], "not valid YAML"),
        (["trials={"], r"yaml --set trials=\{: In `trials`: not valid YAML: expected"),
        (["trials=" + "9" * 5000], r"In `trials`: the number 9{97}\.\.\. is too large"),
        (["enqueue=&e [*e]"], "In `enqueue`: an alias"),
        (["trials=!!python/object:os.system 3"], "not valid YAML"),
        (["trials=0"], "--set trials=0: The value of `trials` is 0, but must be greater than or equal to 1"),
        (["fixed.epohcs=3"], "--set fixed.epohcs=3: The key `fixed.epohcs` is unknown; did you mean `epochs`"),
        (["fixed.lr=1e-3", "parameters.lr.float=[1e-4, 1e-3]"], "gives `parameters.lr.float` twice, fixed.lr=1e-3 and"),
        (["objective=rel_dE", "objectives=[work_gain]"], "gives `objectives` twice, objective=rel_dE and"),
        (["sampler=tpee"], r"`sampler.name` is tpee, but must be one of"),
        (["seed=1", "parameters.lr.float=[3]"], r"--set seed=1 --set parameters.lr.float=\[3\]: In `parameters.lr`"),
    ],
    ids=str,
)
def test_what_cannot_be_set_is_refused_by_name(
    assignments: list[str], message: str, write_space: Callable[..., Path]
) -> None:
    file = write_space()
    with pytest.raises(UserError, match=message) as refusal:
        load_space(file, assignments)
    assert str(refusal.value).startswith(f"{file} --set ")
    assert "\n" not in str(refusal.value)


def test_a_mistake_of_the_file_is_the_files(write_space: Callable[..., Path]) -> None:
    file = write_space(lambda values: values.update(trails=3))
    with pytest.raises(UserError) as refusal:
        load_space(file, ["seed=4"])
    assert str(refusal.value).startswith(f"{file}: The key `trails` is unknown")
    assert load_space(write_space(lambda values: values.update(trials=0)), ["trials=4"]).trials == 4


def test_a_dry_run_prints_a_space_and_leaves_nothing(write_space: Callable[..., Path], tmp_path: Path) -> None:
    file = write_space(lambda values: values.update(forbid=[{"feature_type": "rich"}]))
    home = tmp_path / "home"
    run = run_search(
        *("--space", file, "--dry-run", "--seed", 5, "--set", "trials=2", "--set", "resources.gpu=0"),
        folder=tmp_path,
        HOME=str(home),
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {file.name}
    (tmp_path / "resolved.yaml").write_text(run.stdout)
    resolved = load_space(tmp_path / "resolved.yaml")
    assert (resolved.trials, resolved.seed, resolved.fixed["device"]) == (2, 5, "cpu")
    assert resolved.parameters == load_space(file).parameters
    lines = run.stdout.splitlines()
    assert any(line.startswith("# resources: 1 CPU a trial, ") for line in lines)
    trials = [line for line in lines if line.startswith("# trial ")]
    assert len(trials) == 2
    assert all("feature_type: rich" not in line and "energy_threshold: 0.000" in line for line in trials)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "trials=0"], "--set trials=0: The value of `trials` is 0"),
        (["--set", "trials=3", "--trials", "4"], "--trials and --set trials are both given; leave one out"),
        (["--set", "resources.cpu=1e6"], "`resources` is cpu 1e+06 and gpu 0.25, but must fit this machine"),
        (["--json"], "--dry-run prints a space, so --json does nothing; leave one out"),
    ],
    ids=str,
)
def test_a_dry_run_refuses_what_a_search_would(
    arguments: list[str], message: str, write_space: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal_of(["--space", str(write_space()), "--dry-run", *arguments], capsys)


@pytest.mark.parametrize("command", ["tune.search --space quick --dry-run", "tune.space --schema", "tune.report -h"])
def test_a_reader_that_has_seen_enough(command: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread:
        run = subprocess.run(
            [sys.executable, "-m", *command.split()],
            check=False,
            cwd=tmp_path,
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (run.returncode, run.stderr) == (0, "")


def test_a_search_of_three_bodies_with_entries_set(tmp_path: Path) -> None:
    """Its curves come with the package. One parameter exists in some trials only, and no trial keeps the limit."""
    entries = [
        *("trials=3", "scheduler=none", "sampler=random", "confirm=null", "resources={cpu: 1}"),
        *("fixed.epochs=2", "fixed.evaluate_every=0", "fixed.hidden_dims=[8]", "fixed.steps_per_epoch=4"),
        "parameters.optimizer={choice: [adam, sgd]}",
        "parameters.momentum={float: [0.5, 0.9], step: 0.2, only: {optimizer: sgd}}",
        *("forbid=[{feature_type: [basic, delta_mag]}]", "constraints=[steps_per_orbit <= 1]"),
    ]
    arguments = [word for entry in entries for word in ("--set", entry)]
    arguments = ["--space", "three_body", *ONE_WORKER, "--no-dashboard", *arguments]
    run = run_search(*arguments, folder=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    assert "measuring" not in run.stdout
    assert "momentum          0.5 to 0.9, step 0.2; only where optimizer is sgd" in run.stdout
    assert "No trial kept rel_dE <= 0.01, steps_per_orbit <= 1: the first is the nearest to it." in run.stdout
    assert run.stdout.count("steps_per_orbit <= 1\n") >= 3
    assert "validation set, 1 crossing time, baselines at the same rel_dE:" in run.stdout
    rows = trials_table(tmp_path)
    assert [row["state"] for row in rows] == ["COMPLETE"] * 3
    assert {row["feature_type"] for row in rows} == {"rich"}
    assert all((row["momentum"] in ("0.5", "0.7", "0.9")) == (row["optimizer"] == "sgd") for row in rows)
    assert all((row["momentum"] == "") == (row["optimizer"] == "adam") for row in rows)
    study = load_study(only_results(tmp_path))
    ran = [trial for trial in study.trials if "skipped" not in trial.user_attrs]
    assert [str(trial.number) for trial in ran] == [row["number"] for row in rows]
    assert all(trial.constraints["steps_per_orbit <= 1"] > 0 for trial in ran)
    assert load_space(only_results(tmp_path) / "space.yaml").trials == 3


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    content = json.loads((SHIPPED / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_shipped_schema_is_that_of_the_models() -> None:
    command = [sys.executable, "-m", "tune.space", "--schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (SHIPPED / "schema.json").read_text() == printed, f"run: {' '.join(command[1:])} > search_spaces/schema.json"
    assert json.loads(printed) == json.loads(json.dumps(schema()))


@pytest.mark.parametrize("name", shipped_spaces())
def test_a_shipped_space_is_valid_and_names_the_schema(name: str, validator: jsonschema.Draft202012Validator) -> None:
    file = SHIPPED / f"{name}.yaml"
    lines = file.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    assert "minute" in lines[1]
    assert "two cores" in lines[1]
    assert [error.message for error in validator.iter_errors(read_mapping(file))] == []
    space = load_space(find_space(name))
    resolved = json.loads(json.dumps(space.model_dump(by_alias=True)))
    assert [error.message for error in validator.iter_errors(resolved)] == []
    assert space.trials <= 32
    assert space.question.endswith("?")


def test_the_space_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    blocks = (Path(__file__).parents[2] / "README.md").read_text().split("```yaml\n")[1:]
    (shown,) = (block.split("```")[0] for block in blocks if "question:" in block)
    (tmp_path / "shown.yaml").write_text(shown)
    assert load_space(tmp_path / "shown.yaml").trials == 16


def test_there_is_a_space_for_each_question() -> None:
    assert set(shipped_spaces()) >= {"history", "learning_rate", "network", "loss_band", "three_body", "quick"}


def with_entry(section: str, key: str, value: Any) -> dict[str, Any]:
    values = load_values()
    (values[section] if section else values)[key] = value
    return values


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        (load_values(), True),
        (with_entry("parameters", "lr", 1e-3), True),
        (with_entry("", "scheduler", "none"), True),
        (with_entry("", "objective", "work_gain_100"), True),
        (with_entry("", "trails", 1), False),
        (with_entry("", "scheduler", "asah"), False),
        (with_entry("", "sampler", {"n_startup_trials": 3}), False),
        (with_entry("", "objective", "work"), False),
        (with_entry("", "constraints", ["violations < 1"]), False),
        (with_entry("fixed", "epohcs", 3), False),
        (with_entry("fixed", "epochs", 0), False),
        (with_entry("fixed", "save_name", "mine"), False),
        (with_entry("parameters", "lr", {"float": [1]}), False),
        (with_entry("parameters", "lr", {"int": [0.5, 1]}), False),
        (with_entry("parameters", "lr", {"float": [1, 2], "lgo": True}), False),
    ],
)
def test_an_editor_sees_what_the_loader_would_refuse(
    values: dict[str, Any], valid: bool, validator: jsonschema.Draft202012Validator
) -> None:
    assert validator.is_valid(values) is valid
