"""A trained step criterion in somebody's own N-body code: plain NumPy arrays, no torch in sight."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

import core
from core.array_timestep import ArrayTimeStep
from core.checkpoint import load_model, save_model
from core.errors import CheckpointError, UserError
from core.orbits import forces_of
from core.simulation import simulate
from core.trainer import Trainer
from tests.systems import random_system
from tests.trainings import small, train

Array = np.ndarray


def plain_forces(softening: float, field_mass: float, place: tuple[float, ...]) -> Callable[[Array, Array], Array]:
    """Somebody's own acceleration (..., N, D), softening and tide included."""

    def acceleration(x: Array, m: Array) -> Array:
        total = np.zeros_like(x)
        for i in range(x.shape[-2]):
            for j in range(x.shape[-2]):
                if i != j:
                    separation = x[..., j, :] - x[..., i, :]
                    squared = (separation**2).sum(-1) + softening**2
                    total[..., i, :] += (m[..., j] / squared**1.5)[..., None] * separation
        if place:
            towards, far = np.array(place) - x, np.array(place) / np.linalg.norm(place) ** 3
            total += field_mass * (towards / np.linalg.norm(towards, axis=-1)[..., None] ** 3 - far)
        return total

    return acceleration


def drive(step: ArrayTimeStep, force, x: Array, v: Array, m: Array, steps: int, *, given: bool):
    """A plain leapfrog that takes the steps of the model; x and v are updated in place, as codes do."""
    x, v = x.copy(), v.copy()
    a, time = force(x, m), np.zeros(x.shape[:-2])
    memory = step.init(x, v, m, a if given else None)
    for _ in range(steps):
        dt = step.propose(memory)
        h = np.asarray(dt)[..., None, None]
        for _ in range(step.n_steps):
            v += 0.5 * h * a
            x += h * v
            a = force(x, m)
            v += 0.5 * h * a
        time += step.n_steps * dt
        memory = step.advance(memory, x, v, m, step.n_steps * dt, a if given else None)
    return x, v, time


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of all kinds, trained for a moment."""
    settings = {
        "history": {"history_len": 3, "num_orbits": 2},
        "three": {"num_particles": 3, "dim": 3, "softening": 0.05, "history_len": 2, "feature_type": "rich"},
        "tide": {"external_field_mass": 5.0, "external_field_position": (3.0, 2.0), "n_steps": 3, "dt_scale": "unit"},
    }
    paths = {}
    for name, own in settings.items():
        trainer = Trainer([small(**{"num_orbits": 2} | own)])
        train(trainer, 2)
        paths[name] = tmp_path_factory.mktemp("models") / f"{name}.pt"
        save_model(paths[name], trainer)
    return paths


@pytest.mark.parametrize("given", [True, False], ids=["own acceleration", "computed acceleration"])
@pytest.mark.parametrize("name", ["history", "three", "tide"])
def test_a_plain_leapfrog_gives_what_simulate_gives(models, name, given):
    step = core.load_timestep(models[name])
    config = step.config
    force = plain_forces(config.softening, config.external_field_mass or 0, config.external_field_position or ())
    forces = forces_of(config)
    state = random_system(config.num_particles, config.dim, leading=(4,), forces=forces)
    x, v, m = (tensor.numpy() for tensor in (state.position, state.velocity, state.mass))
    x, v, time = drive(step, force, x, v, m, 40, given=given)
    outcome = simulate(
        state,
        load_model(models[name]).criterion,
        forces,
        torch.ones(4),
        steps=40,
        n_steps=config.n_steps,
        fail_above=torch.inf,
    )
    assert time.min() > 0
    np.testing.assert_allclose(time, outcome.records[0].time, rtol=1e-12)
    np.testing.assert_allclose(x, outcome.state.position, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(v, outcome.state.velocity, rtol=1e-12, atol=1e-12)


def test_a_single_system_proposes_a_number(models):
    step = core.load_timestep(str(models["history"]))
    state = random_system(2, 2)
    x, v, m = (tensor.numpy() for tensor in (state.position, state.velocity, state.mass))
    dt = step.propose(step.init(x, v, m))
    assert isinstance(dt, float)
    batch = step.propose(step.init(np.stack([x, x]), np.stack([v, v]), m))
    assert batch.shape == (2,)
    np.testing.assert_allclose(batch, dt, rtol=1e-12)


def test_lists_are_arrays_too(models):
    step = core.load_timestep(models["history"])
    assert step.propose(step.init([[0, 0], [1, 0]], [[0, 0], [0, 1]], [1, 1])) > 0


def test_functions_are_pure(models):
    """An old memory proposes what it did, whatever became of the arrays and of newer memories."""
    step = core.load_timestep(models["history"])
    state = random_system(2, 2)
    x, v, m = (tensor.numpy().copy() for tensor in (state.position, state.velocity, state.mass))
    memory = step.init(x, v, m)
    first = step.propose(memory)
    x += 1.5 * v
    later = step.advance(memory, x, v, m, 0.1)
    assert step.propose(later) != first
    assert step.propose(memory) == first


@pytest.mark.parametrize(
    ("x", "v", "m", "said"),
    [
        (np.zeros((3, 2)), np.zeros((3, 2)), np.ones(3), "trained on .* 2 bodies in 2 dimensions"),
        (np.zeros((2, 3)), np.zeros((2, 3)), np.ones(2), "trained on"),
        (np.eye(2), np.zeros((3, 2)), np.ones(2), "do not fit positions"),
        (np.eye(2), np.zeros((2, 2)), np.ones(3), "do not fit positions"),
    ],
)
def test_arrays_of_another_shape_are_refused(models, x, v, m, said):
    with pytest.raises(UserError, match=said):
        core.load_timestep(models["history"]).init(x, v, m)
    with pytest.raises(UserError, match="Accelerations"):
        core.load_timestep(models["history"]).init(np.eye(2), np.eye(2), np.ones(2), np.ones(2))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        core.load_timestep(tmp_path / "model.pt")


def test_core_alone_is_light():
    """Who imports the package for its config, or not yet for its model, does not wait for torch."""
    program = "import sys, core; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
