"""Feature rows: what they do not depend on, what they hold, and how they scale."""

import math

import pytest
import torch

from core.features import COLUMNS, InputScales, pair_units, state_rows, transition_rows
from core.forces import State, by_component
from core.leapfrog import leapfrog
from tests.systems import GRAVITY, random_system, rotation, scaled

KINDS = ["basic", "rich", "delta_mag"]
DT = torch.tensor([0.01, 0.02], dtype=torch.float64)


def rows(kind: str, state: State) -> torch.Tensor:
    if kind == "delta_mag":
        return transition_rows(state, leapfrog(state, DT, GRAVITY).state, DT)
    return state_rows(state, 0.0, rich=kind == "rich")


@pytest.fixture(params=[(2, 2), (4, 3)], ids=["2 bodies 2-D", "4 bodies 3-D"])
def state(request):
    bodies, dim = request.param
    return random_system(bodies, dim, leading=(2,))


@pytest.mark.parametrize(("kind", "count"), [("basic", 11), ("rich", 23), ("delta_mag", 10)])
def test_column_counts(kind, count, state):
    assert rows(kind, state).shape == (2, count)
    assert len(COLUMNS[kind]) == count
    assert len({name for name, _, _ in COLUMNS[kind]}) == count


@pytest.mark.parametrize("kind", KINDS)
def test_rotation_leaves_features_alone(kind, state):
    turn = rotation(state.position.shape[-1])
    turned = GRAVITY.state(state.position @ turn, state.velocity @ turn, state.mass)
    assert (turned.position - state.position).abs().max() > 0.1
    torch.testing.assert_close(rows(kind, turned), rows(kind, state), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_translation_leaves_features_alone(kind, state):
    shift = torch.tensor([3.0, -5.0, 7.0][: state.position.shape[-1]], dtype=torch.float64)
    moved = GRAVITY.state(state.position + shift, state.velocity, state.mass)
    torch.testing.assert_close(rows(kind, moved), rows(kind, state), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["basic", "rich"])
def test_moving_frame_leaves_state_features_alone(kind, state):
    boost = torch.tensor([3.0, -5.0, 7.0][: state.position.shape[-1]], dtype=torch.float64)
    moving = GRAVITY.state(state.position, state.velocity + boost, state.mass)
    torch.testing.assert_close(rows(kind, moving), rows(kind, state), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_exchange_of_bodies_leaves_features_alone(kind, state):
    swapped = State(*(tensor.flip(-2) for tensor in state[:3]), state.mass.flip(-1))
    torch.testing.assert_close(rows(kind, swapped), rows(kind, state), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "mass"), [(3.7, 1.0), (0.02, 40.0)])
def test_columns_scale_with_their_dimensions(kind, length, mass, state):
    """In units of the shortest pair distance and time nothing is left of the system's size and mass."""
    time = math.sqrt(length**3 / mass)
    exponents = torch.tensor([powers for _, powers, _ in COLUMNS[kind]], dtype=torch.float64)
    factor = length ** exponents[:, 0] * time ** exponents[:, 1] * mass ** exponents[:, 2]
    bigger = scaled(state, length, mass)
    if kind == "delta_mag":
        after = leapfrog(bigger, time * DT, GRAVITY).state
        theirs = transition_rows(bigger, after, time * DT)
    else:
        theirs = rows(kind, bigger)
    torch.testing.assert_close(theirs, rows(kind, state) * factor, rtol=1e-11, atol=1e-13)
    units, bigger_units = pair_units(state), pair_units(bigger)
    torch.testing.assert_close(bigger_units.length, units.length * length)
    torch.testing.assert_close(bigger_units.time, units.time * time)


def test_columns_hold_what_their_names_say():
    """Three unequal masses on a line, by hand: centre of mass at x = 1, moving with velocity 0.5."""
    position = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 3.0]], dtype=torch.float64)
    velocity = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 7.0]], dtype=torch.float64)
    mass = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    acceleration = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    row = state_rows(State(position, velocity, acceleration, mass), 0.25, rich=True)
    named = dict(zip((name for name, _, _ in COLUMNS["rich"]), row.tolist(), strict=True))
    far, fast = math.sqrt(10), math.sqrt(0.25 + 49)
    assert named == pytest.approx(
        {
            "bodies": 3, "dimensions": 2, "total mass": 2,
            "radius mean": (2 + far) / 3, "radius max": far, "radius min": 1, "radius rms": math.sqrt(4),
            "speed mean": (1 + fast) / 3, "speed max": fast, "speed min": 0.5, "speed rms": math.sqrt(49.75 / 3),
            "acceleration mean": 2, "acceleration max": 5, "acceleration min": 0,
            "acceleration rms": math.sqrt(26 / 3),
            "pair distance min": 2, "pair distance mean": (2 + 3 + math.sqrt(13)) / 3,
            "pair distance max": math.sqrt(13),
            "mass mean": 2 / 3, "mass min": 0, "mass max": 1, "mass rms": math.sqrt(2 / 3), "softening": 0.25,
        }
    )  # fmt: skip


def test_transition_columns_hold_what_their_names_say():
    before = State(*(torch.zeros(2, 2, dtype=torch.float64) for _ in range(3)), torch.ones(2, dtype=torch.float64))
    change = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    after = State(change, 2 * change, 3 * change, before.mass)
    row = transition_rows(before, after, torch.tensor(0.5, dtype=torch.float64))
    by_hand = torch.tensor([3.0, 5.0, math.sqrt(13)], dtype=torch.float64)  # mean, max, rms of 5 and 1
    expected = torch.cat([by_hand, 2 * by_hand, 3 * by_hand, torch.tensor([0.5], dtype=torch.float64)])
    torch.testing.assert_close(row, expected)


def test_pairs_without_mass_have_no_time_scale():
    position = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1e-3]], dtype=torch.float64)
    mass = torch.tensor([4.0, 0.0, 0.0], dtype=torch.float64)
    units = pair_units(State(position, position, position, mass))
    torch.testing.assert_close(units.length, torch.tensor(1e-3, dtype=torch.float64))
    torch.testing.assert_close(units.time, torch.tensor(0.5, dtype=torch.float64))


def test_input_scales_multiply_by_name():
    scales = InputScales(L=2.0, V=3.0, A=5.0, T=7.0)
    assert [scales.product(names) for names in ("", "L", "VT", "AT")] == [1.0, 2.0, 21.0, 35.0]


@pytest.mark.parametrize("bodies", [3, 5, 8])
def test_a_row_does_not_depend_on_the_other_systems(bodies):
    """Not by a rounding: packed trainings are to give what they give alone, however many bodies there are."""
    generator = torch.Generator().manual_seed(bodies)
    position, velocity = (torch.randn(37, bodies, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    state = GRAVITY.state(position, velocity, torch.rand(37, bodies, dtype=torch.float64, generator=generator))
    state = state.map(lambda tensor: by_component(tensor, 1))
    moved = leapfrog(state, torch.full((37,), 0.01, dtype=torch.float64), GRAVITY).state
    for number in range(37):
        own, after = (each.map(lambda tensor, n=number: tensor[n : n + 1].clone()) for each in (state, moved))
        assert torch.equal(state_rows(state, 0.0, rich=True)[number], state_rows(own, 0.0, rich=True)[0])
        row = transition_rows(own, after, torch.full((1,), 0.01, dtype=torch.float64))[0]
        assert torch.equal(transition_rows(state, moved, torch.full((37,), 0.01, dtype=torch.float64))[number], row)
