"""Saved trajectories: what numpy reads from them, what they cost in memory, and that no half of one is left."""

import numpy as np
import pytest
import torch

from core.config import Config
from core.errors import UserError
from core.forces import Forces, State
from core.orbits import Orbits, draw
from core.record import Record
from core.simulation import simulate
from core.timestep import Dynamical
from run import trajectory
from run.trajectory import Trajectory, TrajectoryWriter, read_trajectories
from tests.systems import tidal_field


def systems(count: int, bodies: int, dim: int) -> Orbits:
    config = Config(num_particles=bodies, dim=dim, device="cpu", mass=tuple(1.0 + 0.5 * k for k in range(bodies)))
    return draw(config, count, torch.Generator().manual_seed(7))


def saved(path, orbits: Orbits, forces: Forces, **settings) -> Record:
    state = forces.state(*orbits.state[:2], orbits.state.mass)
    settings = {"steps": 200} | settings
    with TrajectoryWriter(path, state) as writer:
        return simulate(state, Dynamical(0.05), forces, orbits.period, observer=writer, **settings).records[-1]


def energies(orbit: Trajectory, softening: float, field_mass: float, place: np.ndarray | None) -> np.ndarray:
    """Total energy (T,) in plain numpy: from the definitions, not from core."""
    x, v, m = orbit.position, orbit.velocity, orbit.mass
    total = 0.5 * (m * (v**2).sum(-1)).sum(-1)
    for i in range(len(m)):
        for j in range(i):
            total = total - m[i] * m[j] / np.sqrt(((x[:, i] - x[:, j]) ** 2).sum(-1) + softening**2)
    if place is not None:
        distance, far = np.linalg.norm(place - x, axis=-1), np.linalg.norm(place)
        total = total - field_mass * (m * (1 / distance - 1 / far - x @ place / far**3)).sum(-1)
    return total


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("bodies", "softening", "external"), [(2, 0.0, False), (3, 0.1, True), (2, 0.0, True)])
def test_energies_recomputed_from_the_file_are_those_of_the_run(tmp_path, bodies, softening, external, dim):
    """With an external field, too: its potential is in the energy, in two dimensions and in three."""
    field = tidal_field(dim, mass=5.0) if external else None
    record = saved(tmp_path / "run.npz", systems(3, bodies, dim), Forces(softening, field))
    place = field.position.numpy() if field else None
    for number, orbit in enumerate(read_trajectories(tmp_path / "run.npz")):
        energy = energies(orbit, softening, 5.0, place)
        scale = abs(energy[0])
        assert np.abs(energy - orbit.energy).max() < 1e-12 * scale
        assert abs(energy[-1] - record.final_energy[number]) < 1e-12 * scale
        error = np.abs(energy - energy[0]) / scale
        assert abs(error.max() - record.max_rel_dE[number]) < 1e-12
        assert abs(error[-1] - record.final_rel_dE[number]) < 1e-12
        assert error.max() > 1e-6  # there is something to recompute


def test_one_orbit_has_plain_names(tmp_path):
    record = saved(tmp_path / "run.npz", systems(1, 2, 2), Forces(), n_steps=3)
    with np.load(tmp_path / "run.npz", allow_pickle=False) as data:
        assert set(data) == set(Trajectory._fields)
        assert data["position"].shape == data["velocity"].shape == (201, 2, 2)
        assert data["time"].shape == data["dt"].shape == data["force_evaluations"].shape == (201,)
        assert data["mass"].tolist() == [1.0, 1.5]
        np.testing.assert_allclose(np.diff(data["time"]), 3 * data["dt"][1:], rtol=1e-12)
        assert data["force_evaluations"].tolist() == list(range(0, 603, 3))
        assert data["time"][0] == data["dt"][0] == 0
        assert data["time"][-1] == record.time[0]


def test_several_orbits_are_numbered(tmp_path):
    orbits = systems(3, 2, 3)
    record = saved(tmp_path / "run.npz", orbits, Forces(), steps=None, periods=(2,))
    with np.load(tmp_path / "run.npz", allow_pickle=False) as data:
        assert set(data) == {f"{name}_{orbit}" for name in Trajectory._fields for orbit in range(3)}
        for orbit in range(3):
            assert len(data[f"time_{orbit}"]) == record.steps[orbit] + 1
            assert np.array_equal(data[f"position_{orbit}"][0], orbits.state.position[orbit])
            assert data[f"time_{orbit}"][-1] >= 2 * orbits.period[orbit] > data[f"time_{orbit}"][-2]
    assert len(set(record.steps.tolist())) > 1  # orbits of different lengths


def test_rejected_steps_are_no_rows_but_cost_evaluations(tmp_path):
    record = saved(tmp_path / "run.npz", systems(1, 2, 2), Forces(), guard=1e-7)
    (orbit,) = read_trajectories(tmp_path / "run.npz")
    assert record.rejected[0] > 20
    assert len(orbit.time) == record.steps[0] + 1
    assert orbit.force_evaluations[-1] == record.force_evaluations[0] == record.steps[0] + record.rejected[0]
    assert (np.abs(np.diff(orbit.energy)) <= 1e-7 * np.abs(orbit.energy[:-1])).all()


def test_maps_equal_what_numpy_loads(tmp_path, monkeypatch):
    """Also when rows are written and read back in many small pieces."""
    monkeypatch.setattr(trajectory, "_BUFFER", 1000)
    saved(tmp_path / "run.npz", systems(4, 3, 3), Forces(0.05))
    with np.load(tmp_path / "run.npz", allow_pickle=False) as data:
        for number, orbit in enumerate(read_trajectories(tmp_path / "run.npz")):
            for name in Trajectory._fields:
                assert np.array_equal(getattr(orbit, name), data[f"{name}_{number}"])


def test_float32_states_keep_time_in_float64(tmp_path):
    orbits = systems(1, 2, 2)
    state = State(*(tensor.float() for tensor in orbits.state))
    saved(tmp_path / "run.npz", Orbits(state, orbits.period), Forces())
    (orbit,) = read_trajectories(tmp_path / "run.npz")
    assert orbit.position.dtype == np.float32
    assert orbit.time.dtype == np.float64


def test_waiting_rows_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "_BUFFER", 5000)
    state = systems(2, 2, 2).state
    most = 0
    with TrajectoryWriter(tmp_path / "run.npz", state) as writer:

        def watch(moved):
            nonlocal most
            writer(moved)
            most = max(most, writer._bytes)

        simulate(state, Dynamical(0.05), Forces(), torch.ones(2, dtype=torch.float64), steps=500, observer=watch)
    assert most <= 5000
    assert (tmp_path / "run.npz").stat().st_size > 10 * 5000


def test_a_run_that_breaks_off_leaves_nothing_and_an_older_file_as_it_was(tmp_path):
    state = systems(2, 2, 2).state
    path = tmp_path / "run.npz"
    path.write_bytes(b"older")

    def breaks_off(moved):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), TrajectoryWriter(path, state):
        simulate(state, Dynamical(0.05), Forces(), torch.ones(2), steps=5, observer=breaks_off)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("name", "said"),
    [("run.txt", "must end in .npz"), ("folder.npz", "a folder"), ("file/run.npz", "cannot be written")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_run(tmp_path, name, said):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=said):
        TrajectoryWriter(tmp_path / name, systems(1, 2, 2).state)
