"""Files of initial conditions: both formats, and every mistake that a user makes in one, said in one line."""

import math
import pickle

import numpy as np
import pytest
import torch

from core.config import Config
from core.errors import UserError
from core.initial_conditions import InitialConditionsError, as_orbits, read_systems, unit_of_time
from core.orbits import crossing_time, draw
from core.simulation import simulate
from core.timestep import Dynamical
from tests.systems import GRAVITY, kepler_system, random_system

#: Sun and planet in two dimensions; three bodies in three.
PLANAR = np.array([[1.0, 0.0, 0.0, 0.0, 0.0], [1e-3, 1.0, 0.0, 0.0, 1.0]])
SPATIAL = np.array([[1.0, 0, 0, 0, 0, 0, 0.1], [2.0, 1, 0, 0.5, 0, 1, 0], [0.5, -1, 2, 0, 0.3, 0, 0]])


def written(path, rows) -> str:
    np.save(path, np.array(rows))
    return str(path)


def test_one_system_from_npy(tmp_path):
    systems = read_systems(written(tmp_path / "ic.npy", SPATIAL))
    assert (systems.count, systems.bodies, systems.dim) == (1, 3, 3)
    assert np.array_equal(systems.mass, SPATIAL[None, :, 0])
    assert np.array_equal(systems.position, SPATIAL[None, :, 1:4])
    assert np.array_equal(systems.velocity, SPATIAL[None, :, 4:])


def test_many_systems_from_npy(tmp_path):
    rows = np.stack([PLANAR, 2 * PLANAR, 3 * PLANAR])
    systems = read_systems(written(tmp_path / "ic.npy", rows), bodies=2, dim=2, count=3)
    assert (systems.count, systems.bodies, systems.dim) == (3, 2, 2)
    assert np.array_equal(systems.velocity, rows[..., 3:])


@pytest.mark.parametrize("name", ["ic.txt", "ic.csv", "ic.dat"])
@pytest.mark.parametrize("separator", [" ", ",", ", ", "\t"])
def test_one_system_from_text(tmp_path, name, separator):
    lines = [separator.join(str(number) for number in row) for row in PLANAR.tolist()]
    (tmp_path / name).write_text("\n".join(["# m x y vx vy", lines[0] + "  # the star", "", lines[1]]) + "\n")
    systems = read_systems(tmp_path / name)
    assert np.array_equal(systems.position, PLANAR[None, :, 1:3])
    assert np.array_equal(systems.mass, PLANAR[None, :, 0])


def test_integers_are_numbers(tmp_path):
    systems = read_systems(written(tmp_path / "ic.npy", np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 1]])))
    assert systems.position.dtype == np.float64


def with_value(row: int, column: int, value: float, rows: np.ndarray = PLANAR) -> np.ndarray:
    changed = rows.copy()
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (PLANAR[:, :4], "there are 4 columns, but must be 5 or 7: m, x, y, vx, vy in two dimensions"),
        (PLANAR[:, :3], "3 columns describe bodies on a line"),
        (PLANAR.ravel(), r"the shape \(10,\), but must be \(N, columns\)"),
        (PLANAR[None, None], "the shape"),
        (PLANAR[:1], "1 systems of 1 bodies"),
        (np.zeros((0, 2, 5)), "0 systems of 2 bodies"),
        (with_value(1, 2, math.nan), "row 2 holds a number that is not finite"),
        (with_value(0, 4, math.inf), "row 1 holds a number that is not finite"),
        (np.stack([PLANAR, with_value(1, 3, math.nan)]), "row 2 of system 1 holds"),
        (with_value(1, 0, -1.0), "row 2 has a negative mass"),
        (PLANAR * [0, 1, 1, 1, 1], "the masses of system 0 must have a positive sum"),
        (PLANAR.astype(complex), "it holds complex128"),
        (PLANAR.astype(str), "it holds <U"),
    ],
)
def test_wrong_arrays(tmp_path, rows, said):
    with pytest.raises(InitialConditionsError, match=said) as caught:
        read_systems(written(tmp_path / "ic.npy", rows))
    check_message(caught.value, "ic.npy")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("1 0 0 0 0\n1 1 0 0\n", "line 2: it has 4 columns and the first row has 5"),
        ("m x y vx vy\n1 0 0 0 0\n1 1 0 0 1\n", "line 1: 'm x y vx vy' is not a row of numbers"),
        ("1 0 0 0\n1 1 0 0\n", "there are 4 columns"),
        ("1 0 0 0 0\n1 1 0 0 nan\n", "row 2 holds a number that is not finite"),
    ],
)
def test_wrong_text(tmp_path, text, said):
    (tmp_path / "ic.txt").write_text(text)
    with pytest.raises(InitialConditionsError, match=said) as caught:
        read_systems(tmp_path / "ic.txt")
    check_message(caught.value, "ic.txt")


def check_message(error: UserError, name: str) -> None:
    assert "\n" not in str(error)
    assert name in str(error)


def test_a_pickle_is_never_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.save(tmp_path / "objects.npy", np.array([Payload(), Payload()]), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "ran").unlink(missing_ok=True)
    for name in ("objects.npy", "pickle.npy"):
        with pytest.raises(InitialConditionsError, match="damaged or pickled"):
            read_systems(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_initial_conditions(tmp_path):
    (tmp_path / "torn.npy").write_bytes((written(tmp_path / "ic.npy", PLANAR) and b"") + b"\x93NUMPY")
    np.savez(tmp_path / "archive.npz", PLANAR)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "ic.json").write_text("[]")
    for name, said in {
        "torn.npy": "damaged",
        "archive.npy": "an archive",
        "binary.txt": "not a text file",
        "ic.json": "must end in .npy or .txt",
        "missing.npy": "there is no such file",
    }.items():
        with pytest.raises(InitialConditionsError, match=said) as caught:
            read_systems(tmp_path / name)
        check_message(caught.value, name)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"bodies": 3}, "it holds 2 bodies, but num_particles is 3; give another file, or num_particles 2"),
        ({"dim": 3}, "it holds 2 dimensions, but dim is 3"),
        ({"count": 8}, "it holds 1 systems, but num_orbits is 8"),
    ],
)
def test_files_of_other_systems_than_asked_for(tmp_path, wanted, said):
    with pytest.raises(InitialConditionsError, match=said):
        read_systems(written(tmp_path / "ic.npy", PLANAR), **wanted)


# Orbits --------------------------------------------------------------------------------------------


def config(**settings) -> Config:
    return Config(**{"device": "cpu"} | settings)


def test_given_systems_run_as_drawn_ones(tmp_path):
    """Writing drawn systems to a file and reading them back gives the same simulation, bit for bit."""
    own = config(num_particles=2, dim=3, mass=(1.0, 0.5))
    orbits = draw(own, 4, torch.Generator().manual_seed(2))
    rows = torch.cat([orbits.state.mass.unsqueeze(-1), orbits.state.position, orbits.state.velocity], -1)
    again = as_orbits(read_systems(written(tmp_path / "ic.npy", rows.numpy())), own)
    torch.testing.assert_close(again.period, orbits.period, rtol=1e-12, atol=0)
    ours, theirs = (simulate(each.state, Dynamical(0.1), GRAVITY, orbits.period, (1,)) for each in (again, orbits))
    assert torch.equal(ours.state.position, theirs.state.position)


def test_forces_and_dtype_are_those_of_the_config(tmp_path):
    own = config(dtype="float32", softening=0.3, external_field_mass=2.0, external_field_position=(5.0, 1.0))
    state = as_orbits(read_systems(written(tmp_path / "ic.npy", PLANAR)), own).state
    plain = as_orbits(read_systems(tmp_path / "ic.npy"), config()).state
    assert state.position.dtype == torch.float32
    assert not torch.allclose(state.acceleration.double(), plain.acceleration, rtol=1e-3)


def test_bodies_at_one_place_need_softening(tmp_path):
    rows = np.stack([PLANAR, with_value(1, 1, 0.0)])
    systems = read_systems(written(tmp_path / "ic.npy", rows))
    with pytest.raises(InitialConditionsError, match="system 1 are at one place"):
        as_orbits(systems, config())
    as_orbits(systems, config(softening=0.1))


@pytest.mark.parametrize("masses", [(1.0, 1.0), (1.0, 0.0), (3.0, 0.1)])
@pytest.mark.parametrize("dim", [2, 3])
def test_two_bound_bodies_have_their_kepler_period(masses, dim):
    """Anywhere on their orbit, and whatever the centre of mass does."""
    state, period = kepler_system(0.7, masses, 1.3, dim)
    batch = state.map(lambda tensor: tensor.unsqueeze(0))
    later = simulate(batch, Dynamical(0.01), GRAVITY, torch.tensor([period]), (0.3,)).state
    drifting = state._replace(position=state.position + 5, velocity=state.velocity - 2)
    assert float(unit_of_time(state)) == pytest.approx(period, rel=1e-12)
    assert float(unit_of_time(later)[0]) == pytest.approx(period, rel=1e-3)
    assert float(unit_of_time(drifting)) == pytest.approx(period, rel=1e-12)


def test_others_have_a_crossing_time():
    state = random_system(4, leading=(3,))
    energy = GRAVITY.energy(state)[0]
    torch.testing.assert_close(unit_of_time(state), crossing_time(energy, state.mass.sum(-1)))
    pair, _ = kepler_system(0.5)
    unbound = pair._replace(velocity=3 * pair.velocity)
    torch.testing.assert_close(unit_of_time(unbound), crossing_time(GRAVITY.energy(unbound)[0], pair.mass.sum(-1)))


def test_a_system_of_no_energy_still_has_a_unit_of_time():
    """Parabolic: the energy vanishes, and so would the crossing time's denominator."""
    pair, _ = kepler_system(0.0)
    parabolic = pair._replace(velocity=math.sqrt(2) * pair.velocity)
    assert 0 < float(unit_of_time(parabolic)) < math.inf
