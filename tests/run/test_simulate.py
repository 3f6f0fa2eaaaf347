"""`run/runner.py simulate`: its report, what it takes from a checkpoint, and what it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from core.checkpoint import load_model, save_model
from core.config import Config
from core.orbits import draw, forces_of
from core.simulation import simulate
from core.timestep import Dynamical
from core.trainer import Trainer
from run.simulate import SEED
from tests.run.runs import RUNNER, refusal, run
from tests.trainings import small, train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was trained for a moment, with a history and a scaled input."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    trainer = Trainer([small(history_len=3, n_steps=2, normalize_inputs=True, e_max=0.9, num_orbits=3)])
    train(trainer, 3)
    save_model(path, trainer)
    return path


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


def test_a_reader_that_has_seen_enough(model, tmp_path):
    command = f"{sys.executable} {RUNNER} simulate --steps 3 | head -c 1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_report_is_what_core_simulates(model, tmp_path):
    """Everything comes from the checkpoint: n_steps, history, scales, dtype, the range of the orbits."""
    flags = "--num-orbits 4 --multi-orbit-sim --Nperiod 1.5 --seed 9".split()
    report = run(tmp_path, "simulate", "--model-path", model, *flags).report
    held = load_model(model)
    orbits = draw(held.config, 4, torch.Generator().manual_seed(SEED + 9))
    with torch.no_grad():
        (record,) = simulate(
            *(orbits.state, held.criterion, forces_of(held.config), orbits.period, (1.5,)), n_steps=2, threshold=2e-4
        ).records
    names = {name: name for name in "steps force_evaluations violations fallbacks time failed max_rel_dE".split()}
    names |= {name: name for name in ("final_rel_dE", "initial_energy", "final_energy", "momentum_error")}
    names |= {"rejected_steps": "rejected", "angular_momentum_error": "angular_momentum_error"}
    rows = report["orbits"]
    assert all(set(row) == {*names, "periods"} for row in rows)
    for name, field in names.items():
        assert [row[name] for row in rows] == getattr(record, field).tolist(), name
    assert [row["periods"] for row in rows] == (record.time / orbits.period).tolist()
    assert report["steps"] == int(record.steps.sum())
    assert report["force_evaluations"] == 2 * report["steps"]
    assert report["time"] == float(record.time.min())
    assert report["max_rel_dE"] == float(record.max_rel_dE.max())
    assert report["median_max_rel_dE"] == pytest.approx(float(record.max_rel_dE.quantile(0.5)))
    cost = record.force_evaluations / (record.time / orbits.period)
    assert report["median_force_evaluations_per_period"] == pytest.approx(float(cost.quantile(0.5)))
    assert report["wall_time_s"] > 0
    assert "delta_mag with history 3" in report["model_summary"]
    expected = {"integrator_mode": "history", "n_steps": 2, "dtype": "float64", "until": {"Nperiod": 1.5}, "seed": 9}
    assert {key: report[key] for key in expected} == expected


def test_without_a_model_the_dynamical_criterion_steps(tmp_path):
    flags = "--eps 0.03 --num-orbits 3 --multi-orbit-sim --Nperiod=1 --e-max 0.7"
    report = run(tmp_path, "simulate", *flags.split()).report
    config = Config(e_max=0.7, device="cpu")
    orbits = draw(config, 3, torch.Generator().manual_seed(SEED))
    (record,) = simulate(orbits.state, Dynamical(0.03), forces_of(config), orbits.period, (1.0,)).records
    assert [row["steps"] for row in report["orbits"]] == record.steps.tolist()


def test_a_simulation_does_not_draw_what_a_training_with_its_seed_drew(model, tmp_path):
    """Otherwise `both --seed 1` would show orbits that the network has learned by heart."""
    held = load_model(model)
    trained = held.content["extra"]["train_ic"]["position"]
    flags = ["--seed", held.config.seed, "--steps", 1, "--save-trajectory", "t.npz"]
    assert run(tmp_path, "simulate", "--model-path", model, *flags).status == 0
    start = np.load(tmp_path / "t.npz")["position"][0]
    assert not any(np.allclose(start, one) for one in trained.numpy())


def test_a_flag_that_says_what_the_checkpoint_says_is_fine(model, tmp_path):
    flags = "--history-len 3 --hidden-dims 16 16 --feature-type=delta_mag --num-particles 2 --normalize-inputs "
    flags += "--dtype float64 --integrator-mode history"
    plain = run(tmp_path, "simulate", "--model-path", model, "--Nperiod", "1").report
    said = run(tmp_path, "simulate", "--model-path", model, "--Nperiod", "1", *flags.split()).report
    assert said["orbits"] == plain["orbits"]


ERRORS = ("max_rel_dE", "final_rel_dE", "momentum_error", "angular_momentum_error")


def test_an_error_that_is_no_number_is_null(tmp_path):
    seen = run(tmp_path, "simulate", "--dt", "1e200", "--num-orbits", "4", "--multi-orbit-sim")
    assert seen.report["failed_orbits"] == 4
    assert "4 of 4 orbits failed" in seen.err
    for row in (*seen.report["orbits"], seen.report):
        assert [row[name] for name in ERRORS] == [None] * 4
    assert seen.report["median_force_evaluations_per_period"] is None


def test_an_orbit_that_never_moved_has_no_error(tmp_path):
    """A model whose steps are infinite leaves every orbit where it starts, at an error of 0 that nobody should see."""
    trainer = Trainer([small()])
    trainer.network.layers[-1][1].fill_(1e4)
    save_model(tmp_path / "model.pt", trainer)
    seen = run(tmp_path, "simulate", "--model-path", "model.pt", "--multi-orbit-sim")
    assert seen.report["failed_orbits"] == 4
    for row in (*seen.report["orbits"], seen.report):
        assert row["time"] == 0
        assert [row[name] for name in ERRORS] == [None] * 4
    assert "median max |dE/E| inf, inf force evaluations a period" in seen.err


def test_an_orbit_that_failed_on_its_way_keeps_the_error_it_had(tmp_path):
    report = run(tmp_path, "simulate", "--eps", "1").report
    (row,) = report["orbits"]
    assert row["failed"]
    assert row["max_rel_dE"] > 0.1
    assert row["angular_momentum_error"] is not None


def test_energies_of_a_saved_trajectory_are_those_of_the_report(tmp_path):
    field = "--external-field-mass 2 --external-field-position 3 -1 1"
    flags = f"--num-particles 3 --dim 3 --softening 0.05 --mass 1 0.5 0.2 --steps 200 {field} --save-trajectory t.npz"
    report = run(tmp_path, "simulate", *flags.split()).report
    held = np.load(tmp_path / "t.npz")
    position, velocity, mass = held["position"], held["velocity"], held["mass"]
    energy = 0.5 * (mass * (velocity**2).sum(-1)).sum(-1)
    for i in range(3):
        for j in range(i):
            distance = np.sqrt(((position[:, i] - position[:, j]) ** 2).sum(-1) + 0.05**2)
            energy -= mass[i] * mass[j] / distance
    source = np.array([3.0, -1.0, 1.0])
    reach = np.sqrt((source**2).sum())
    away = np.sqrt(((source - position) ** 2).sum(-1))
    energy += (-2 * mass * (1 / away - 1 / reach - position @ source / reach**3)).sum(-1)
    row = report["orbits"][0]
    assert row["initial_energy"] == pytest.approx(energy[0], rel=1e-12)
    assert row["final_energy"] == pytest.approx(energy[-1], rel=1e-12)
    error = np.abs(energy - energy[0]) / abs(energy[0])
    assert row["max_rel_dE"] == pytest.approx(error.max(), abs=1e-12)
    assert row["final_rel_dE"] == pytest.approx(error[-1], abs=1e-12)


def test_resolved_config_makes_the_same_run_again(model, tmp_path):
    flags = ["--guard", "--energy-threshold", "1e-6", "--steps", "50", "--save-trajectory", "one.npz"]
    first = run(tmp_path, "simulate", "--model-path", model, *flags).report
    comment = (tmp_path / "one.config.toml").read_text().splitlines()[0]
    assert comment.startswith("# python run/runner.py simulate --config one.config.toml --guard")
    again = run(tmp_path, *comment.split()[3:]).report
    assert again["orbits"] == first["orbits"]


# Refusals ------------------------------------------------------------------------------------------

REFUSED = {
    "no mode": ("", "Give a mode: train, simulate, both"),
    "unknown mode": ("fly", "There is no mode fly"),
    "unknown flag": ("simulate --num-orbit 3", "--num-orbit is unknown; did you mean `--num-orbits`?"),
    "unknown flag with =": ("simulate --Nperiods=3", "--Nperiods is unknown; did you mean `--Nperiod`?"),
    "small letters": ("train --e_lower 1", "--e_lower is unknown; did you mean `--E_lower`?"),
    "masses too large to add": ("simulate --mass 1e308", "`mass` is 1e+308, but the masses must have a finite sum"),
    "lengths too small": ("simulate --a-min 1e-200 --a-max 1e-200", "too large or too small for float64"),
    "bodies too close": ("simulate --ic-path {folder}/close.txt --Nperiod 1", "system 0 are too large or too small"),
    "bodies at one place": ("simulate --ic-path {folder}/same.txt --Nperiod 1", "system 0 are at one place"),
    "a folder of systems": ("simulate --ic-path {folder}", "it is a folder; give a .npy or .txt file"),
    "a folder without models": ("simulate --model-path {folder}", "it is a folder; give the path of a model.pt."),
    "abbreviation": ("simulate --multi", "--multi is unknown"),
    "stray word": ("simulate model.pt", "model.pt belongs to no flag"),
    "no value": ("simulate --Nperiod", "--Nperiod: expected one argument"),
    "no number": ("simulate --Nperiod ten", "`Nperiod` is 'ten'"),
    "part of an orbit": ("simulate --multi-orbit-sim --num-orbits 1.5", "`num_orbits` is 1.5"),
    "no orbit": ("simulate --num-orbits 0", "`num_orbits` is 0"),
    "negative orbits": ("simulate --num-orbits=-3", "`num_orbits` is -3"),
    "one body": ("simulate --num-particles 1", "`num_particles` is 1"),
    "a line": ("simulate --dim 1", "`dim` is 1"),
    "NaN": ("simulate --Nperiod nan", "`Nperiod` is nan"),
    "infinity": ("simulate --eps inf", "`eps` is inf"),
    "NaN mass": ("simulate --mass 1 nan", "nan"),
    "masses": ("simulate --mass 1 1 1", "`mass` has 3 numbers"),
    "half a field": ("simulate --external-field-mass 1", "must be given together"),
    "huge seed": ("simulate --seed " + "9" * 30, "`seed`"),
    "unbound": ("simulate --e-max 1.0", "`e_max` is 1.0"),
    "empty range": ("simulate --e-min 0.99", "`e_min` is 0.99"),
    "training flag": ("simulate --lr 1e-4", "--lr acts on a training only"),
    "no such file": ("simulate --model-path nowhere.pt", "nowhere.pt: there is no such file"),
    "history without a model": ("simulate --integrator-mode history", "needs a model with history_len > 0"),
    "two criteria": ("simulate --dt 0.1 --eps 0.05", "--eps acts only without a fixed dt"),
    "one system of many": ("simulate --num-orbits 4", "--num-orbits acts only on a simulation with multi_orbit_sim"),
    "train_ic without a model": ("simulate --use-train-ic", "needs the model"),
    "two systems": ("simulate --use-train-ic --ic-path {folder}/ok.txt", "both name initial conditions"),
    "a 1-D orbit": ("simulate --ic-path {folder}/line.txt", "3 columns describe bodies on a line"),
    "wrong columns": ("simulate --ic-path {folder}/wide.txt", "there are 6 columns, but must be 5 or 7"),
    "NaN in a file": ("simulate --ic-path {folder}/nan.txt", "row 2 holds a number that is not finite"),
    "bodies of a file": ("simulate --ic-path {folder}/ok.txt --num-particles 3", "it holds 2 bodies"),
    "drawing a given system": ("simulate --ic-path {folder}/ok.txt --e-max 0.7", "--e-max acts only on two-body"),
    "no picture": ("simulate --plot run.pdf", "must end in .png"),
    "no archive": ("simulate --save-trajectory run.npy", "must end in .npz"),
    "no folder": ("simulate --save-trajectory {folder}/ok.txt/run.npz", "cannot be written there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line(case, tmp_path):
    (tmp_path / "ok.txt").write_text("1 -0.5 0 0 -0.5\n1 0.5 0 0 0.5\n")
    (tmp_path / "line.txt").write_text("1 -0.5 0\n1 0.5 0\n")
    (tmp_path / "wide.txt").write_text("1 -0.5 0 0 0 0\n1 0.5 0 0 0 0\n")
    (tmp_path / "close.txt").write_text("1 0 0 0 -0.5\n1 1e-200 0 0 0.5\n")
    (tmp_path / "same.txt").write_text("1 0.5 0 0 -0.5\n1 0.5 0 0 0.5\n")
    (tmp_path / "nan.txt").write_text("1 -0.5 0 0 -0.5\n1 0.5 0 nan 0.5\n")
    arguments, part = REFUSED[case]
    assert part in refusal(tmp_path, *arguments.format(folder=tmp_path).split())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--num-particles 4", "`num_particles` is 4, but the model"),
        ("--n-steps 1", "`n_steps` is 1"),
        ("--dtype float32", "`dtype` is 'float32'"),
        ("--softening 0.1", "`softening` is 0.1"),
        ("--eps 0.05", "`eps` is 0.05"),
        ("--dt 0.05", "--dt acts only on a simulation without a model"),
        ("--integrator-mode ml", "is ml, but the model"),
        ("--integrator-mode analytic", "is analytic, but the model"),
        ("--use-train-ic --multi-orbit-sim --num-orbits 4", "was trained on 3 systems"),
        ("--ic-path three.txt", "it holds 3 bodies, but num_particles is 2"),
    ],
)
def test_flag_that_contradicts_the_checkpoint_is_refused(arguments, part, model, tmp_path):
    (tmp_path / "three.txt").write_text("1 -0.5 0 0 -0.5\n1 0.5 0 0 0.5\n1 3 3 0 0\n")
    assert part in refusal(tmp_path, "simulate", "--model-path", model, *arguments.split())


def test_the_threshold_that_is_named_is_the_one_that_acts(model, tmp_path):
    flags = ["--guard", "--energy-threshold", "1e-6", "--Nperiod", "0.1"]
    seen = run(tmp_path, "simulate", "--model-path", model, *flags)
    assert seen.report["model_summary"].endswith("energy_threshold 1e-06")
    assert "energy_threshold 1e-06" in seen.err.splitlines()[0]


def test_momentum_that_a_field_changes_is_no_error(tmp_path):
    field = "--external-field-mass 2 --external-field-position 3 -1"
    report = run(tmp_path, "simulate", "--Nperiod", "1", *field.split()).report
    for row in (report, *report["orbits"]):
        assert row["momentum_error"] is row["angular_momentum_error"] is None
        assert row["max_rel_dE"] is not None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda extra: extra.pop("train_ic"), "KeyError: 'train_ic'"),
        (lambda extra: extra["train_ic"].pop("mass"), "mass"),
        (lambda extra: extra["train_ic"].update(mass=torch.ones(3, 5)), "`mass` of its train_ic is not [3, 2] finite"),
        (lambda extra: extra["train_ic"]["position"].fill_(torch.nan), "`position` of its train_ic is not [3, 2, 2]"),
        (lambda extra: extra["train_ic"].update(velocity=3), "does not fit together"),
    ],
)
def test_damaged_systems_of_a_model_are_one_line(damage, said, model, tmp_path):
    content = torch.load(model, weights_only=True)
    damage(content["extra"])
    torch.save(content, tmp_path / "model.pt")
    line = refusal(tmp_path, "simulate", "--model-path", "model.pt", "--use-train-ic")
    assert line.startswith("model.pt: not a model.pt of this program")
    assert said in line


def test_history_needs_a_history(tmp_path):
    trainer = Trainer([small()])
    save_model(tmp_path / "model.pt", trainer)
    flags = ["--model-path", "model.pt", "--integrator-mode", "history"]
    assert "has history_len 0" in refusal(tmp_path, "simulate", *flags)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, whole: path.write_bytes(whole[: len(whole) // 3]),
        lambda path, whole: path.write_text("hello"),
        lambda path, whole: torch.save({"a": torch.ones(2)}, path),
        lambda path, whole: torch.save({"config": Evil()}, path),
    ],
    ids=["truncated", "text", "foreign", "evil"],
)
def test_bad_checkpoint_is_one_line(write, model, tmp_path):
    path = tmp_path / "bad.pt"
    write(path, model.read_bytes())
    assert f"{path}: not a model.pt" in refusal(tmp_path, "simulate", "--model-path", path)
