"""Every key that a simulation acts on, and what changing it changes. A key without a row fails the last test."""

import numpy as np
import pytest
import torch

from run import simulate
from run.keys import ACTS_ON, HALF_FLAGS, NETWORK_KEYS
from tests.run.runs import TINY, Row, Seen, all_of, becomes, differs, grows, refusal, run, shrinks


def energies(seen: Seen) -> list[float]:
    return [row["initial_energy"] for row in seen["orbits"]]


def unit_of_time(seen: Seen) -> float:
    return seen["orbits"][0]["time"] / seen["orbits"][0]["periods"]


def trained_energies() -> list[float]:
    """Energies of the two-body systems that the model was trained on."""
    places, speeds, mass = (_TRAINED["model"].start[name] for name in ("position", "velocity", "mass"))
    kinetic = 0.5 * (mass * (speeds**2).sum(-1)).sum(-1)
    return (kinetic - mass.prod(-1) / (places[:, 1] - places[:, 0]).norm(dim=-1)).tolist()


def rows_of(seen: Seen, name: str) -> int:
    return len(np.load(seen.folder / name)["time"])


_TRAINED: dict[str, Seen] = {}
MOVIE = "data/movie/nbody_movie_run_nbody.gif"
FILM = "--movie --steps 10"
MANY = "--num-particles 3 --softening 0.05"
FIELD = "--external-field-mass 1 --external-field-position 3 1"
MODEL = "--model-path {model}"

ROWS: dict[str, Row] = {
    # what proposes the steps
    "integrator_mode": Row(
        "--integrator-mode ml", becomes(lambda run: run.status, 2, 0), f"{MODEL} --integrator-mode analytic"
    ),
    "model_path": Row(MODEL, all_of(becomes("integrator_mode", "analytic", "ml"), differs("steps"))),
    "dt": Row("--dt 0.01", lambda a, b: b["steps"] == np.ceil(unit_of_time(a) / 0.01)),
    "eps": Row("--eps 0.05", all_of(grows("steps", 1.95), shrinks("steps", 2.05))),
    "step_rule": Row("--step-rule reversible", shrinks("max_rel_dE", 0.9), "--eps 0.05 --Nperiod 20"),
    "n_steps": Row("--n-steps 5", becomes(lambda run: run["force_evaluations"] / run["steps"], 1, 5)),
    "energy_threshold": Row("--energy-threshold 1e-6", grows("violations")),
    "guard": Row(
        "--guard",
        all_of(
            grows("rejected_steps"),
            shrinks("max_rel_dE", 0.5),
            lambda a, b: a["violations"] > 0 == b["violations"],
            lambda a, b: b["force_evaluations"] == b["steps"] + b["rejected_steps"],
        ),
    ),
    # until when
    "Nperiod": Row("--Nperiod 2", becomes(lambda run: int(run["orbits"][0]["periods"]), 1, 2)),
    "duration": Row("--duration 0.5", lambda a, b: 0.5 <= b["time"] < 0.6 < a["time"]),
    "steps": Row("--steps 7", lambda a, b: b["steps"] == 7 < a["steps"]),
    # which systems
    "num_particles": Row("--num-particles 3 --softening 0.1", becomes("num_particles", 2, 3)),
    "dim": Row("--dim 3", all_of(becomes("dim", 2, 3), differs(energies)), MANY),
    "mass": Row("--mass 2", lambda a, b: energies(b) == pytest.approx([4 * energies(a)[0]])),
    "pos_scale": Row("--pos-scale 0.2", differs(energies), MANY),
    "vel_scale": Row("--vel-scale 0.5", shrinks(lambda run: energies(run)[0]), MANY),
    "softening": Row("--softening 0.2", grows(lambda run: energies(run)[0])),
    "external_field_mass": Row("--external-field-mass 2", differs(energies), FIELD),
    "external_field_position": Row("--external-field-position -2 1", differs(energies), FIELD),
    "num_orbits": Row("--num-orbits 3", becomes(lambda run: len(run["orbits"]), 8, 3), "--multi-orbit-sim"),
    "multi_orbit_sim": Row("--multi-orbit-sim", becomes(lambda run: len(run["orbits"]), 1, 8)),
    "e_min": Row("--e-min 0.94", grows("max_rel_dE", 2)),
    "e_max": Row("--e-max 0.61", shrinks("max_rel_dE")),
    "a_min": Row("--a-min 1.15", grows(unit_of_time, 1.02)),
    "a_max": Row("--a-max 0.81", shrinks(unit_of_time, 0.98), "--seed 4"),
    "seed": Row("--seed 1", differs(energies)),
    "ic_path": Row("--ic-path {folder}/system.txt", lambda a, b: energies(b) == pytest.approx([-0.75])),
    "use_train_ic": Row(
        "--use-train-ic", lambda a, b: energies(b) == pytest.approx(trained_energies()), f"{MODEL} --multi-orbit-sim"
    ),
    # device
    "device": Row("--device auto", lambda a, b: b["device"] == ("cuda" if torch.cuda.is_available() else "cpu")),
    "dtype": Row(
        "--dtype float32", all_of(becomes("dtype", "float64", "float32"), grows("angular_momentum_error", 99))
    ),
    "tf32": Row("--tf32", lambda a, b: torch.get_float32_matmul_precision() == "high", "--dtype float32"),
    # files
    "save_trajectory": Row(
        "--save-trajectory run.npz",
        all_of(
            becomes(lambda run: run.files, [], ["run.config.toml", "run.npz"]),
            becomes("files", {}, {"trajectory": "run.npz"}),
            lambda a, b: rows_of(b, "run.npz") == b["steps"] + 1,
        ),
    ),
    "plot": Row("--plot run.png", becomes(lambda run: run.files, [], ["run.config.toml", "run.png"])),
    "movie": Row("--movie", becomes(lambda run: MOVIE in run.files, False, True), "--steps 10"),
    "movie_dir": Row("--movie-dir films", becomes(lambda run: run["files"]["movie"][:5], MOVIE[:5], "films"), FILM),
    "movie_max_frames": Row("--movie-max-frames 3", becomes(lambda run: run.gif(MOVIE)["frames"], 11, 3), FILM),
    "movie_fps": Row("--movie-fps 10", becomes(lambda run: run.gif(MOVIE)["pause"], 30, 100), FILM),
    "movie_dpi": Row("--movie-dpi 50", shrinks(lambda run: run.gif(MOVIE)["size"][0], 0.5), FILM),
    "save_name": Row("-s mine", becomes(lambda run: "nbody_movie_mine" in run["files"]["movie"], False, True), FILM),
    "config": Row("--config {folder}/two.toml", becomes("until", {"Nperiod": 1}, {"steps": 3})),
}


#: Keys of a network: a simulation takes them from the checkpoint, and what is given must agree.
CONTRADICTIONS = {
    "hidden_dims": "8 8",
    "activation": "relu",
    "dt_bound": "1e-3",
    "dt_scale": "unit",
    "fourier_scale": "1",
    "fourier_dim": "8",
    "normalize_inputs": "",
    "history_len": "2",
    "feature_type": "rich",
    "history_warmup": "analytic",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model without a history."""
    seen = run(tmp_path_factory.mktemp("model"), "train", *TINY, "--seed", "1")
    _TRAINED["model"] = seen
    return seen.folder / seen.report["last_checkpoint"]


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch):
    """A GIF tells its frames."""
    monkeypatch.setattr(simulate, "find_ffmpeg", lambda: None)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("key", ROWS)
def test_changing_a_key_changes_what_it_says(key, model, tmp_path):
    row = ROWS[key]
    (tmp_path / "two.toml").write_text("steps = 2\n[simulate]\nsteps = 3\n")
    (tmp_path / "system.txt").write_text("# two bodies\n1 -0.5 0 0 -0.5\n1 0.5 0 0 0.5\n")
    seen = []
    for number, changed in enumerate(("", row.changed)):
        given = f"{row.base} {changed}".format(folder=tmp_path, model=model).split()
        ends = {"--Nperiod", "--duration", "--steps", "--config"}
        if not ends & set(given):
            given += ["--Nperiod", "1"]
        seen.append(run(tmp_path / str(number), "simulate", *given))
    assert seen[1].status == 0, seen[1].err
    assert row.check(*seen), (seen[0].report, seen[1].report, seen[1].err, seen[1].files)


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_what_contradicts_the_model_is_refused(key, model, tmp_path):
    name = f"--{key.replace('_', '-')}"
    given = [name, *CONTRADICTIONS[key].split()]
    assert f"`{key}`" in refusal(tmp_path, "simulate", "--model-path", model, *given)
    assert f"{name} acts on a simulation with --model-path only" in refusal(tmp_path, "simulate", *given)


@pytest.mark.parametrize("flag", ["--train-ic-path", "--sim-ic-path"])
def test_the_halves_of_both_have_systems_of_their_own(flag, tmp_path):
    systems = [[[1, -0.5, 0, 0, -0.5], [1, 0.5, 0, 0, 0.5]]]
    np.save(tmp_path / "systems.npy", systems * (4 if flag == "--train-ic-path" else 1))
    seen = run(tmp_path, "both", *TINY, "--steps", "3", flag, tmp_path / "systems.npy")
    assert seen.status == 0, seen.err
    simulated = seen["simulate"]["orbits"][0]["initial_energy"] == pytest.approx(-0.75)
    assert simulated == (flag == "--sim-ic-path")
    trained = bool((seen.start["position"][:, 0, 0] == -0.5).all())
    assert trained == (flag == "--train-ic-path")


def test_every_key_has_a_row():
    assert set(ROWS) | set(CONTRADICTIONS) == set(ACTS_ON["simulate"])
    assert set(CONTRADICTIONS) == set(NETWORK_KEYS)
    assert set(HALF_FLAGS) == {"train_ic_path", "sim_ic_path"}
