"""`run/runner.py simulate` as its users type it: one JSON object, or one line that says what to mend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.checkpoint import save_model
from core.config import NOT_AVAILABLE_YET, Config
from core.orbits import draw, forces_of
from core.simulation import simulate
from core.timestep import Dynamical
from core.trainer import Trainer
from run import runner
from tests.trainings import small, train

RUNNER = Path(runner.__file__)
#: What every run prints for each orbit.
COLUMNS = {"steps", "force_evaluations", "time", "periods", "max_rel_dE", "final_rel_dE", "failed"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was trained for a moment, with a history and a scaled input."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    trainer = Trainer([small(history_len=3, n_steps=2, normalize_inputs=True, e_max=0.9, num_orbits=3)])
    train(trainer, 3)
    save_model(path, trainer)
    return path


@pytest.fixture
def run(capsys):
    """Run in this process; returns the report, and what went to standard error."""

    def run_runner(*arguments):
        assert runner.main(["simulate", *map(str, arguments)]) == 0
        output = capsys.readouterr()
        return json.loads(output.out), output.err

    return run_runner


@pytest.fixture
def refusal(capsys):
    """Run something that must be refused; returns the one line on standard error."""

    def run_runner(*arguments):
        with pytest.raises(SystemExit) as caught:
            runner.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert caught.value.code == 2
        assert output.out == ""
        assert output.err.startswith("runner: ")
        assert output.err.count("\n") == 1
        return output.err

    return run_runner


def test_the_readmes_command_from_anywhere(model, tmp_path):
    """Standard output is one JSON object and nothing else; the last line on standard error is for people."""
    command = [sys.executable, RUNNER, "simulate", "--model-path", model]
    command += ["--num-orbits", "8", "--multi-orbit-sim", "--Nperiod", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["orbits"]) == report["num_orbits"] == 8
    last = done.stderr.splitlines()[-1]
    assert "median max |dE/E|" in last
    assert "force evaluations a period" in last
    assert f"{report['failed_orbits']} of 8 orbits failed" in last
    assert list(tmp_path.iterdir()) == []


def test_report_is_what_core_simulates(model, run):
    """Everything comes from the checkpoint: n_steps, history, scales, dtype, the range of the orbits."""
    report, _ = run("--model-path", model, "--num-orbits", 4, "--multi-orbit-sim", "--Nperiod", 1.5, "--seed", 9)
    trainer = Trainer([small(history_len=3, n_steps=2, normalize_inputs=True, e_max=0.9, num_orbits=3)])
    train(trainer, 3)
    orbits = draw(trainer.config, 4, torch.Generator().manual_seed(9))
    (record,) = simulate(orbits.state, trainer.criterion(), trainer.forces, orbits.period, (1.5,), n_steps=2).records
    rows = report["orbits"]
    assert all(set(row) == COLUMNS for row in rows)
    for name in ("steps", "force_evaluations", "time", "max_rel_dE", "final_rel_dE", "failed"):
        assert [row[name] for row in rows] == getattr(record, name).tolist()
    assert [row["periods"] for row in rows] == (record.time / orbits.period).tolist()
    assert report["median_max_rel_dE"] == pytest.approx(float(record.max_rel_dE.quantile(0.5)))
    cost = record.force_evaluations / (record.time / orbits.period)
    assert report["median_force_evaluations_per_period"] == pytest.approx(float(cost.quantile(0.5)))
    assert report["wall_time_s"] > 0
    assert report["model_path"] == str(model)
    assert "delta_mag with history 3" in report["model_summary"]
    expected = {"integrator_mode": "history", "n_steps": 2, "dtype": "float64", "Nperiod": 1.5, "seed": 9, "eps": None}
    assert {key: report[key] for key in expected} == expected


def test_without_a_model_the_dynamical_criterion_steps(run):
    report, _ = run("--eps", "0.03", "--num-orbits", 3, "--multi-orbit-sim", "--Nperiod=1", "--e-max", 0.7)
    config = Config(e_max=0.7, device="cpu")
    orbits = draw(config, 3, torch.Generator().manual_seed(runner.SEED))
    (record,) = simulate(orbits.state, Dynamical(0.03), forces_of(config), orbits.period, (1.0,)).records
    assert [row["steps"] for row in report["orbits"]] == record.steps.tolist()
    assert (report["integrator_mode"], report["eps"], report["model_path"]) == ("analytic", 0.03, None)
    finer, _ = run("--eps", "0.015", "--num-orbits", 3, "--multi-orbit-sim", "--Nperiod=1", "--e-max", 0.7)
    ratio = finer["median_force_evaluations_per_period"] / report["median_force_evaluations_per_period"]
    assert ratio == pytest.approx(2, rel=0.02)


#: Flags that a simulation acts on, without a model: each must change what is simulated.
ACTING = {
    "eps": ["--eps", "0.05"],
    "Nperiod": ["--Nperiod", "2"],
    "seed": ["--seed", "5"],
    "dtype": ["--dtype", "float32"],
    "num_particles": ["--num-particles", "3", "--softening", "0.1"],
    "dim": ["--dim", "3", "--external-field-mass", "1", "--external-field-position", "1", "2", "3"],
    "mass": ["--mass", "2"],
    "masses": ["--mass", "1", "0.5"],
    "e_min": ["--e-min", "0.8"],
    "e_max": ["--e-max", "0.65"],
    "a_min": ["--a-min", "1.1"],
    "a_max": ["--a-max", "0.9"],
    "softening": ["--softening", "0.1"],
    "field": ["--external-field-mass", "1", "--external-field-position", "-4e0", "1"],
    "pos_scale": ["--num-particles", "3", "--softening", "0.1", "--pos-scale", "0.3"],
    "vel_scale": ["--num-particles", "3", "--softening", "0.1", "--vel-scale", "0.5"],
    "num_orbits": ["--num-orbits", "2", "--multi-orbit-sim"],
}


def test_every_flag_that_is_taken_acts(run):
    seen = {json.dumps(run("--Nperiod", "1")[0]["orbits"]): "no flag"}
    for name, arguments in ACTING.items():
        report, _ = run("--Nperiod", "1", *arguments)
        orbits = json.dumps(report["orbits"])
        assert orbits not in seen, f"{name} gives what {seen[orbits]} gives"
        seen[orbits] = name


def test_the_default_seed_is_fixed_and_no_trainings(model, run):
    one, two = (run("--model-path", model, "--Nperiod", "1")[0] for _ in range(2))
    assert one["orbits"] == two["orbits"]
    assert one["seed"] == runner.SEED > 2**32
    assert run("--model-path", model, "--Nperiod", "1", "--seed", "1")[0]["orbits"] != one["orbits"]


def test_one_system_without_multi_orbit_sim(model, run):
    report, _ = run("--model-path", model, "--Nperiod", "1")
    assert len(report["orbits"]) == 1
    report, errors = run("--model-path", model, "--Nperiod", "1", "--num-orbits", "5")
    assert len(report["orbits"]) == 1
    assert "add --multi-orbit-sim" in errors
    report, _ = run("--model-path", model, "--Nperiod", "1", "--multi-orbit-sim")
    assert len(report["orbits"]) == 3  # as many as the model was trained with


def test_a_flag_that_says_what_the_checkpoint_says_is_fine(model, run):
    plain, _ = run("--model-path", model, "--Nperiod", "1")
    said, _ = run(
        *("--model-path", model, "--Nperiod", "1", "--history-len", "3", "--hidden-dims", "16", "16"),
        *("--feature-type=delta_mag", "--num-particles", "2", "--normalize-inputs", "--dtype", "float64"),
    )
    assert said["orbits"] == plain["orbits"]


def test_a_float32_model_runs_in_float32(tmp_path, run):
    trainer = Trainer([small(dtype="float32")])
    train(trainer, 1)
    save_model(tmp_path / "model.pt", trainer)
    report, _ = run("--model-path", tmp_path / "model.pt", "--Nperiod", "1")
    assert (report["dtype"], report["integrator_mode"]) == ("float32", "ml")


def test_numbers_that_are_not_finite_are_null(tmp_path, run):
    """A model whose steps overflow fails every orbit, and the report is still JSON."""
    trainer = Trainer([small()])
    trainer.network.flat.fill_(1e6)
    save_model(tmp_path / "model.pt", trainer)
    report, errors = run("--model-path", tmp_path / "model.pt", "--multi-orbit-sim")
    assert report["failed_orbits"] == 4
    assert all(row["failed"] for row in report["orbits"])
    assert "4 of 4 orbits failed" in errors


# Refusals ------------------------------------------------------------------------------------------

REFUSED = {
    "no mode": ([], "Give a mode: simulate"),
    "unknown mode": (["fly"], "There is no mode fly"),
    "train": (["train", "--epochs", "3"], "train is not available yet"),
    "both": (["both"], "both is not available yet"),
    "unknown flag": (["simulate", "--num-orbit", "3"], "--num-orbit is unknown; did you mean `--num-orbits`?"),
    "unknown flag with =": (["simulate", "--Nperiods=3"], "--Nperiods is unknown; did you mean `--Nperiod`?"),
    "abbreviation": (["simulate", "--multi"], "--multi is unknown"),
    "stray word": (["simulate", "model.pt"], "model.pt belongs to no flag"),
    "no value": (["simulate", "--Nperiod"], "--Nperiod: expected one argument"),
    "no number": (["simulate", "--Nperiod", "ten"], "`Nperiod` is 'ten'"),
    "part of an orbit": (["simulate", "--num-orbits", "1.5"], "`num_orbits` is 1.5"),
    "no orbit": (["simulate", "--num-orbits", "0"], "`num_orbits` is 0"),
    "negative orbits": (["simulate", "--num-orbits=-3"], "`num_orbits` is -3"),
    "one body": (["simulate", "--num-particles", "1"], "`num_particles` is 1"),
    "no body": (["simulate", "--num-particles", "0"], "`num_particles` is 0"),
    "NaN": (["simulate", "--Nperiod", "nan"], "`Nperiod` is nan"),
    "infinity": (["simulate", "--eps", "inf"], "`eps` is inf"),
    "NaN mass": (["simulate", "--mass", "1", "nan"], "nan"),
    "masses": (["simulate", "--mass", "1", "1", "1"], "`mass` has 3 numbers"),
    "half a field": (["simulate", "--external-field-mass", "1"], "must be given together"),
    "huge seed": (["simulate", "--seed", "9" * 30], "`seed`"),
    "unbound": (["simulate", "--e-max", "1.0"], "`e_max` is 1.0"),
    "empty range": (["simulate", "--e-min", "0.99"], "`e_min` is 0.99"),
    "training flag without a model": (["simulate", "--lr", "1"], "--lr acts on a simulation with --model-path only"),
    "no such file": (["simulate", "--model-path", "nowhere.pt"], "nowhere.pt: there is no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line(case, refusal):
    arguments, part = REFUSED[case]
    assert part in refusal(*arguments)


#: Keys that are the runner's own: no setting of a training, but flags that it has.
OWN = {"model_path", "multi_orbit_sim"}


@pytest.mark.parametrize("key", sorted(NOT_AVAILABLE_YET - OWN))
def test_key_of_a_later_version_is_refused(key, refusal):
    name = runner.flag(key)
    assert f"The flag {name} is not available yet" in refusal("simulate", name, "1")
    assert f"The flag {name} is not available yet" in refusal("simulate", f"{name}=1")


@pytest.mark.parametrize("name", runner.FLAGS_NOT_AVAILABLE_YET)
def test_flag_of_a_later_version_is_refused(name, refusal):
    assert f"The flag {name} is not available yet" in refusal("simulate", name, "1")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--num-particles", "4"], "`num_particles` is 4, but the model"),
        (["--history-len", "2"], "`history_len` is 2, but the model"),
        (["--feature-type", "rich"], "leave --feature-type out"),
        (["--hidden-dims", "8", "8"], "`hidden_dims` is (8, 8)"),
        (["--n-steps", "1"], "`n_steps` is 1"),
        (["--dtype", "float32"], "`dtype` is 'float32'"),
        (["--no-normalize-inputs"], "`normalize_inputs` is False"),
        (["--softening", "0.1"], "`softening` is 0.1"),
        (["--eps", "0.05"], "`eps` is 0.05"),
        (["-n", "5"], "`epochs` is 5"),
        (["--E_lower", "0.01"], "leave --E_lower out"),
    ],
)
def test_flag_that_contradicts_the_checkpoint_is_refused(arguments, part, model, refusal):
    assert part in refusal("simulate", "--model-path", model, *arguments)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def write_truncated(path, whole):
    path.write_bytes(whole[: len(whole) // 3])


@pytest.mark.parametrize(
    "write",
    [
        write_truncated,
        lambda path, whole: path.write_text("hello"),
        lambda path, whole: torch.save({"a": torch.ones(2)}, path),
        lambda path, whole: torch.save({"config": Evil()}, path),
    ],
    ids=["truncated", "text", "foreign", "evil"],
)
def test_bad_checkpoint_is_one_line(write, model, tmp_path, refusal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    write(path, model.read_bytes())
    assert f"{path}: not a model.pt" in refusal("simulate", "--model-path", path)
    assert not (tmp_path / "pwned").exists()


def test_flags_are_configs_fields():
    """One table of settings: a new key of Config is a flag without further ado."""
    flags = {option for action in runner._parser()._actions for option in action.option_strings}
    assert {runner.flag(key) for key in Config.model_fields} <= flags
    assert {"--E_lower", "--Nperiod", "--history-len", "-n"} <= flags
