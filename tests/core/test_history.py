"""One history convention everywhere: the K rows before the current one, oldest first, zeros where there is no past."""

import pytest
import torch

from core.collection import Collection
from core.config import Config
from core.features import COLUMNS, InputScales, Units, pair_units, state_rows, transition_rows
from core.forces import State
from core.history import LOG_LIMIT, History, input_width
from core.leapfrog import leapfrog
from core.orbits import draw
from tests.systems import GRAVITY, kepler_system, learned, random_system

KINDS = ["basic", "rich", "delta_mag"]


def config_of(kind: str, history_len: int, **settings) -> Config:
    return Config(feature_type=kind, history_len=history_len, device="cpu", **settings)


def row(kind: str, before: State, after: State, dt: torch.Tensor) -> torch.Tensor:
    """The row of one step: of the state it starts from, or of the transition."""
    return transition_rows(before, after, dt) if kind == "delta_mag" else state_rows(before, 0.0, rich=kind == "rich")


def flight(steps: int, batch: int = 3) -> tuple[list[State], list[torch.Tensor]]:
    """States (1, batch, 3, 2) of a flight with unequal steps, and the steps (1, batch)."""
    states, times = [random_system(3, 2, leading=(1, batch))], []
    for index in range(steps):
        times.append(torch.full((1, batch), 0.01 * (index + 1), dtype=torch.float64))
        states.append(leapfrog(states[-1], times[-1], GRAVITY).state)
    return states, times


@pytest.mark.parametrize("history_len", [0, 1, 5])
def test_input_widths(history_len):
    assert input_width(config_of("basic", history_len)) == 11 * (history_len + 1)
    assert input_width(config_of("rich", history_len)) == 23 * (history_len + 1)
    if history_len:
        assert input_width(config_of("delta_mag", history_len)) == 10 * history_len


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 2, 3, 6])
def test_window_is_the_past_oldest_first(kind, steps):
    """Zeros for a missing past, then one row a step, and never the current state's own."""
    history = History([config_of(kind, 3)], [InputScales()])
    states, times = flight(steps)
    windows = history.empty(states[0])
    rows = [torch.zeros(1, 3, len(COLUMNS[kind]), dtype=torch.float64)] * 3
    for before, after, dt in zip(states, states[1:], times, strict=False):
        windows = history.slide(windows, before, after, dt)
        rows.append(row(kind, before, after, dt))
    assert torch.equal(windows[0], torch.stack(rows[-3:], -2))


@pytest.mark.parametrize("kind", KINDS)
def test_input_is_the_logarithm_of_the_window_and_the_current_row_last(kind):
    history = History([config_of(kind, 2)], [InputScales()])
    states, times = flight(2)
    windows = history.empty(states[0])
    for before, after, dt in zip(states, states[1:], times, strict=False):
        windows = history.slide(windows, before, after, dt)
    rows = [row(kind, states[0], states[1], times[0]), row(kind, states[1], states[2], times[1])]
    if kind != "delta_mag":
        rows.append(row(kind, states[2], states[2], times[1]))
    expected = torch.cat(rows, -1)
    expected = torch.where(expected > 0, expected.log(), 0)
    torch.testing.assert_close(history.inputs(states[2], windows, None), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dt_scale", ["unit", "pair"])
def test_cold_history_is_zeros_in_feature_space(kind, dt_scale):
    """The prototype padded with a state of zeros, whose features are 0 * inf: 8 of 24 settings died."""
    config = config_of(kind, 4, dt_scale=dt_scale)
    history = History([config], [InputScales()])
    state = flight(0)[0][0]
    units = pair_units(state) if dt_scale == "pair" else None
    inputs = history.inputs(state, history.empty(state), units)
    past = 4 * len(COLUMNS[kind])
    assert torch.isfinite(inputs).all()
    assert (inputs[..., :past] == 0).all()
    assert (inputs[..., past:] != 0).any(-1).all() or kind == "delta_mag"


@pytest.mark.parametrize("kind", KINDS)
def test_cold_start_proposes_finite_steps(kind):
    criterion = learned(feature_type=kind, history_len=3, dt_scale="pair")
    state, _ = kepler_system(0.9)
    memory = criterion.init(state)
    for _ in range(5):
        dt = criterion.propose(state, memory)
        assert torch.isfinite(dt)
        assert dt > 0
        state = leapfrog(state, dt, GRAVITY).state
        memory = criterion.advance(memory, state, dt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("history_len", [1, 4])
def test_training_and_simulation_use_one_window(kind, history_len):
    """The prototype's two windows differed, which shifted the step count by 16 to 25 %."""
    settings = {"dt_scale": "pair", "num_orbits": 2, "n_steps": 1}
    criterion = learned(feature_type=kind, history_len=history_len, **settings)
    collection = Collection([criterion.config], GRAVITY, [None])
    collection.start(0, range(2), torch.Generator().manual_seed(1))
    collection.open([InputScales()])
    everyone = torch.ones(1, 2, dtype=torch.bool)
    state = draw(criterion.config, 2, torch.Generator().manual_seed(1)).state
    memory = criterion.init(state)
    for step in range(history_len + 2):
        assert torch.equal(criterion._history.own((memory.window[None],), 0), collection.own_window(0))
        dt = torch.tensor([0.003 * (step + 1), 0.002], dtype=torch.float64)
        block = leapfrog(collection.state, dt[None], GRAVITY)
        collection.move(collection.pick(slice(None)), everyone, block, dt[None], torch.ones_like(dt[None]))
        state = leapfrog(state, dt, GRAVITY).state
        memory = criterion.advance(memory, state, dt)
        units = Units(*(unit[None] for unit in pair_units(state)))
        ours = criterion._history.inputs(State(*(part[None] for part in state)), (memory.window[None],), units)
        assert torch.equal(ours, collection.pick(slice(None)).samples.inputs)


def test_rejected_orbit_keeps_its_window():
    history = History([config_of("basic", 2)], [InputScales()])
    states, times = flight(2)
    old = history.slide(history.empty(states[0]), states[0], states[1], times[0])
    new = history.slide(old, states[1], states[2], times[1])
    keep = torch.tensor([[True, False, True]])
    (kept,) = history.keep_where(keep, new, old)
    assert torch.equal(kept[:, [0, 2]], new[0][:, [0, 2]])
    assert torch.equal(kept[:, 1], old[0][:, 1])


def test_input_scales_divide():
    scales = InputScales(L=2.0, V=3.0, A=5.0, T=7.0)
    state = flight(0)[0][0]
    plain, divided = (History([config_of("rich", 0)], [each]) for each in (InputScales(), scales))
    factor = [scales.product(names) for _, _, names in COLUMNS["rich"]]
    expected = plain.inputs(state, plain.empty(state), None).exp() / torch.tensor(factor, dtype=torch.float64)
    inputs = divided.inputs(state, divided.empty(state), None).exp()
    shown = inputs != 1  # softening 0 has no logarithm
    torch.testing.assert_close(inputs[shown], expected[shown])
    assert factor[3:] != [1.0] * 20


def test_inputs_are_bounded():
    """A magnitude that is all round-off, such as an acceleration change of 1e-300, is no large input."""
    before = flight(0)[0][0]
    after = before._replace(acceleration=before.acceleration + 1e-15, position=before.position * 1e20)
    history = History([config_of("delta_mag", 1)], [InputScales()])
    windows = history.slide(history.empty(before), before, after, torch.full((1, 3), 1e-30, dtype=torch.float64))
    inputs = history.inputs(after, windows, None)
    assert inputs.abs().max() == LOG_LIMIT
    assert (inputs == -LOG_LIMIT).any()


def test_lanes_of_a_pack_see_what_they_see_alone():
    """Lanes with other feature types and history lengths: bit for bit the same inputs, zeros behind."""
    pairs = [("basic", 0), ("delta_mag", 2), ("rich", 3), ("basic", 4), ("delta_mag", 5)]
    configs = [config_of(kind, history_len, dt_scale="pair") for kind, history_len in pairs]
    scales = [InputScales(L=1.0 + lane) for lane in range(5)]
    packed = History(configs, scales)
    states = [random_system(3, 2, seed=7, leading=(5, 4))]
    times = [torch.full((5, 4), 0.01 * (step + 1), dtype=torch.float64) for step in range(6)]
    for dt in times:
        states.append(leapfrog(states[-1], dt, GRAVITY).state)
    windows = packed.empty(states[0])
    for before, after, dt in zip(states, states[1:], times, strict=False):
        windows = packed.slide(windows, before, after, dt)
    together = packed.inputs(states[-1], windows, pair_units(states[-1]))
    assert together.shape == (5, 4, packed.width) == (5, 4, 23 * 4)
    for lane, config in enumerate(configs):
        alone = History([config], [scales[lane]])
        own = [State(*(part[lane : lane + 1] for part in state)) for state in states]
        window = alone.empty(own[0])
        for before, after, dt in zip(own, own[1:], times, strict=False):
            window = alone.slide(window, before, after, dt[lane : lane + 1])
        inputs = alone.inputs(own[-1], window, pair_units(own[-1]))
        width = input_width(config)
        assert torch.equal(together[lane, :, :width], inputs[0])
        assert (together[lane, :, width:] == 0).all()
        assert torch.equal(packed.own(windows, lane), window[0][0])
