"""The orbits that lanes collect their samples from: phase 1's states, windows and counters, (L, B) each.

Lanes may have different numbers of orbits: B is the largest, and the places beyond a lane's own
hold copies of its first orbit, which take part in nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import Config
from core.errors import ConfigError
from core.features import COLUMNS, InputScales, pair_units
from core.forces import Forces, State, relative_energy_scale
from core.input_rows import Chosen, InputRows
from core.lane import Lane
from core.leapfrog import Block, leapfrog
from core.orbits import Orbits, check_fits_memory, draw
from core.samples import Samples
from core.timestep import Dynamical, unit_time

#: Steps of the flight from which input scales are fitted.
_PILOT_STEPS = 200
#: A system counts in it for so many units of its time: one that flies apart would count with all the sizes there are.
_PILOT_PERIODS = 3


class Picked(NamedTuple):
    """Orbits of some lanes: their samples as they stand, the step before (n, B), the rows of their inputs (n, B, F).

    ``chosen`` is how rows are added to these.
    """

    where: slice | Tensor
    samples: Samples
    previous: Tensor
    rows: Tensor
    chosen: Chosen


class Collection:
    """States (L, B, N, D) on their way, each with its own window, and how far each orbit is in its epoch."""

    def __init__(self, configs: Sequence[Config], forces: Forces, systems: Sequence[Orbits | None]):
        self.configs, self.forces = list(configs), forces
        #: Initial conditions that were given to a lane, for all its starts.
        self.systems = list(systems)
        for config, given in zip(configs, systems, strict=True):
            check_fits_memory(config, config.num_orbits)
            if given is not None and given.state.mass.shape != (config.num_orbits, config.num_particles):
                count, bodies = given.state.mass.shape
                raise ConfigError(
                    f"The initial conditions hold {count} systems of {bodies} bodies, but num_orbits is "
                    f"{config.num_orbits} and num_particles {config.num_particles}; make them agree."
                )
        first = configs[0]
        self.pair_scaled = first.dt_scale == "pair"
        device = first.torch_device
        counts = torch.tensor([config.num_orbits for config in configs], device=device)
        lanes, batch = len(configs), int(counts.max())
        self.exists = torch.arange(batch, device=device) < counts[:, None]
        shape, vector = (lanes, batch), first.num_particles * first.dim
        # All numbers of all orbits in one tensor (C, L, B), so that lanes are picked and put back at once, and that
        # arithmetic goes along whole vectors of orbits. What has a name is a view of it.
        self._vector, self._dim = vector, first.dim
        self._numbers = torch.zeros(
            3 * vector + first.num_particles + 4, *shape, device=device, dtype=first.torch_dtype
        )
        self.state, (self.energy, self.scale, self.previous, self.stretch) = self._named(self._numbers)
        self.stretch.fill_(1)
        self._history_len = torch.tensor([[config.history_len] for config in configs], device=device)
        self._n_steps = first.n_steps
        rules = [[config.step_rule == "reversible"] for config in configs]
        self._any_reversible, self._reversible = any(map(any, rules)), torch.tensor(rules, device=device)
        self._eps = torch.tensor([[config.eps] for config in configs], device=device, dtype=first.torch_dtype)
        self.elapsed = torch.zeros(shape, dtype=torch.float64, device=device)
        self.period = torch.zeros_like(self.elapsed)
        #: Accepted steps since the orbit started: the first history_len are its warm-up.
        self.age = torch.zeros(shape, dtype=torch.int64, device=device)
        #: Accepted steps of this epoch, warm-up aside; gradient steps on the current state.
        self.collected, self.tries = self.age.clone(), self.age.clone()
        #: The rows (L, B, F) of each orbit's input.
        self._inputs: Tensor | None = None
        #: Orbits to be started afresh in the next epoch: stuck, or their period is over.
        self.ended = torch.zeros(shape, dtype=torch.bool, device=device)

    def _named(self, numbers: Tensor) -> tuple[State, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return state, energy, scale, previous and stretch of numbers (C, n, B), all views.

        ``previous`` is the step that led here, 0 where the reversible rule starts, and ``stretch`` what share of its
        proposal it was.
        """
        shape = (-1, self._dim, *numbers.shape[1:])
        vector, bodies = self._vector, self._vector // self._dim
        *vectors, mass, scalars = torch.split(numbers, [vector, vector, vector, bodies, 4])
        position, velocity, acceleration = (part.view(shape).permute(2, 3, 0, 1) for part in vectors)
        energy, scale, previous, stretch = scalars.unbind(0)
        return State(position, velocity, acceleration, mass.permute(1, 2, 0)), (energy, scale, previous, stretch)

    def open(self, scales: Sequence[InputScales]) -> None:
        """Take each lane's input scales, and begin the rows of inputs unless there are any already."""
        self._rows = InputRows(self.configs, scales)
        if self._inputs is None:
            self._inputs = self._rows.begun(self._rows.choose(slice(None)), self.state)

    def start(self, lane: int, orbits: Sequence[int], generator: torch.Generator) -> None:
        """Put fresh initial conditions into ``orbits`` of ``lane``."""
        index = torch.tensor(orbits, device=self.age.device)
        given = self.systems[lane]
        if given is None:
            drawn = draw(self.configs[lane], len(orbits), generator)
        else:
            drawn = Orbits(given.state.map(lambda tensor: tensor[index]), given.period[index])
        energy, magnitude = self.forces.energy(drawn.state)
        fresh = (*drawn.state, energy, relative_energy_scale(energy, magnitude), drawn.period)
        held = (*self.state, self.energy, self.scale, self.period)
        for target, value in zip(held, fresh, strict=True):
            target[lane, index] = value
        for counter in (self.elapsed, self.age, self.tries, self.ended, self.previous):
            counter[lane, index] = 0
        self.stretch[lane, index] = 1

    def fill_unused(self) -> None:
        """Give places beyond a lane's own orbits a harmless state: that of its first orbit."""
        for tensor in (*self.state, self.energy, self.scale, self.period):
            missing = ~self.exists.view(*self.exists.shape, *[1] * (tensor.dim() - 2))
            tensor.copy_(torch.where(missing, tensor[:, :1], tensor))

    def _held(self) -> dict[str, Tensor]:
        """Everything that an orbit carries from one epoch into the next, by name."""
        kept = {"energy": self.energy, "scale": self.scale, "elapsed": self.elapsed, "period": self.period}
        rule = {"previous": self.previous, "stretch": self.stretch}
        return {**self.state._asdict(), **kept, **rule, "age": self.age, "ended": self.ended}

    def orbit_tensors(self, lane: int) -> dict[str, Tensor]:
        """Return a lane's own orbits between two epochs, each tensor (B, ...)."""
        count = self.configs[lane].num_orbits
        return {name: tensor[lane, :count].clone() for name, tensor in self._held().items()}

    def own_state(self, lane: int) -> State:
        """Return the states (B, N, D) of a lane's own orbits (views)."""
        return self.state.map(lambda tensor: tensor[lane, : self.configs[lane].num_orbits])

    def own_window(self, lane: int) -> Tensor:
        """Return the window (B, K, C) of a lane's own orbits (a view): the rows before the current state's."""
        config = self.configs[lane]
        assert self._inputs is not None
        assert config.feature_type is not None
        columns = len(COLUMNS[config.feature_type])
        window = self._inputs[lane, : config.num_orbits, : config.history_len * columns]
        return window.view(config.num_orbits, config.history_len, columns)

    def restore(self, lane: int, orbits: dict[str, Tensor], window: Tensor) -> None:
        """Put back what :meth:`orbit_tensors` and :meth:`own_window` returned."""
        for name, tensor in self._held().items():
            tensor[lane, : self.configs[lane].num_orbits] = orbits[name].to(tensor.device)
        self.fill_unused()
        self._put_window(lane, window)

    def _put_window(self, lane: int, window: Tensor) -> None:
        """Make the rows of a lane's inputs anew: a window, and what its orbits' states add."""
        assert self._inputs is not None
        where = slice(lane, lane + 1)
        self._inputs[where] = self._rows.begun(self._rows.choose(where), self.state.map(lambda tensor: tensor[where]))
        self.own_window(lane).copy_(window)

    def adopt(self, lane: int, source: "Collection", index: int) -> None:
        """Take over the orbits of lane ``index`` of another collection, as they stand in their epoch."""
        count = self.configs[lane].num_orbits
        pairs = zip(
            (*self._held().values(), self.collected, self.tries),
            (*source._held().values(), source.collected, source.tries),
            strict=True,
        )
        for target, value in pairs:
            target[lane, :count] = value[index, :count]
        self._put_window(lane, source.own_window(index))

    def begin_epoch(self, lane: Lane, index: int) -> None:
        """Start the lane's ended orbits afresh and set its counters back."""
        ended = (self.ended[index] & self.exists[index]).nonzero().flatten().tolist()
        self.collected[index] = 0
        self.tries[index] = 0
        self.forget_previous(index)
        if ended:
            self.start(index, ended, lane.generator)
            assert self._inputs is not None
            orbits = torch.tensor(ended, device=self.ended.device)
            where = slice(index, index + 1)
            state = self.state.map(lambda tensor: tensor[where, orbits])
            begun = self._rows.begun(self._rows.choose(where), state)
            self._inputs[index, orbits] = begun[0]

    def forget_previous(self, lane: int) -> None:
        """Let the reversible rule start again from the last stretch: the network has changed, and tau with it."""
        self.previous[lane] = 0

    def waiting(self, quota: Tensor) -> Tensor:
        """Which orbits have to collect more before their epoch is full, (L, B); ``quota`` (L, 1) is what they need."""
        return self.exists & ~self.ended & (self.collected < quota)

    def pick(self, where: slice | Tensor) -> "Picked":
        """Return the orbits of the lanes ``where``, to be moved or not."""
        assert self._inputs is not None
        if isinstance(where, slice):
            numbers, rows = self._numbers[:, where], self._inputs[where]
        else:
            numbers, rows = self._numbers.index_select(1, where), self._inputs.index_select(0, where)
        state, (energy, scale, previous, stretch) = self._named(numbers)
        units = pair_units(state) if self.pair_scaled else None
        chosen = self._rows.choose(where)
        inputs = self._rows.inputs(rows, chosen, units)
        samples = Samples(inputs, state, energy, scale, unit_time(state, units), stretch)
        return Picked(where, samples, previous, rows, chosen)

    def move(self, picked: "Picked", accepted: Tensor, block: Block, elapsed: Tensor, stretch: Tensor) -> None:
        """Let the ``accepted`` (n, B) orbits take the block of ``elapsed`` time; the others stay where they are."""
        assert self._inputs is not None
        samples, where = picked.samples, picked.where
        state = block.state
        scale = relative_energy_scale(block.energy, block.kinetic + block.potential.abs())
        previous = picked.previous
        if self._any_reversible:
            rule = self._reversible[where]
            # The mean of two: an error in tau makes the recursion alternate about its track.
            mean = 2 / (1 / stretch + 1 / samples.stretch)
            previous = torch.where(rule, elapsed / self._n_steps, 0)
            stretch = torch.where(rule, mean, samples.stretch)
        else:
            stretch = samples.stretch
        vectors = [tensor.permute(2, 3, 0, 1).flatten(0, 1) for tensor in state[:3]]
        scalars = torch.stack([block.energy, scale, previous, stretch])
        moved = torch.cat([*vectors, samples.state.mass.permute(2, 0, 1), scalars])
        rows = self._rows.added(picked.rows, picked.chosen, samples.state, state, elapsed)
        warm = self.is_warm_up()[where]
        self._numbers[:, where] = torch.where(accepted, moved, self._numbers[:, where])
        self._inputs[where] = torch.where(accepted.unsqueeze(-1), rows, picked.rows)
        self.elapsed[where] += torch.where(accepted, elapsed.double(), 0)
        self.age[where] += accepted
        self.collected[where] += accepted & ~warm
        self.tries[where] = self.tries[where].masked_fill(accepted, 0)

    def is_warm_up(self) -> Tensor:
        """Whether an orbit is in the first history_len steps since it started, (L, B)."""
        return self.age < self._history_len

    def warm_up_steps(self, picked: "Picked") -> Tensor:
        """Return the dynamical criterion's step (n, B) for orbits in their warm-up, NaN for the others."""
        eps = self._eps[picked.where].expand_as(picked.samples.energy)
        warm = self.is_warm_up()[picked.where]
        return torch.where(warm, Dynamical(eps).propose(picked.samples.state, eps), torch.nan)

    def first_output(self, lane: int) -> float:
        """Return the logarithm of a lane's first proposal: the dynamical criterion's step on its initial orbits."""
        state = self.own_state(lane)
        criterion = Dynamical(self.configs[lane].eps)
        tau = criterion.propose(state, criterion.init(state))
        unit = unit_time(state, pair_units(state) if self.pair_scaled else None)
        return float((tau / unit).log().mean())

    def fit_scales(self, lane: int) -> InputScales:
        """Fit typical L, V, A and T (geometric means) on a flight with the dynamical criterion.

        They are in the units that inputs are in, and depend on the lane's own orbits only. Raises ConfigError where
        there is nothing to fit: no orbit with a size, a speed, an acceleration and a step that are finite and not 0.
        """
        config = self.configs[lane]
        state = self.own_state(lane)
        period = self.period[lane, : config.num_orbits]
        elapsed = torch.zeros_like(period)
        criterion = Dynamical(config.eps)
        memory = criterion.init(state)
        flight = []
        for _ in range(_PILOT_STEPS):
            dt = criterion.propose(state, memory)
            units = pair_units(state) if self.pair_scaled else None
            length, time = (1.0, 1.0) if units is None else (units.length, units.time)
            radius, speed, pull = (torch.linalg.vector_norm(vector, dim=-1).mean(-1) for vector in state[:3])
            quantities = (radius / length, speed / length * time, pull / length * time**2, dt / time)
            logs = torch.stack([quantity.log() for quantity in quantities], -1)
            counts = logs.isfinite() & (elapsed < _PILOT_PERIODS * period).unsqueeze(-1)
            flight.append(torch.where(counts, logs, torch.nan))
            elapsed += dt
            state = leapfrog(state, dt, self.forces).state
        scales = torch.stack(flight).nanmean((0, 1)).exp()
        if not scales.isfinite().all():
            raise ConfigError(
                "The value of `normalize_inputs` is true, but the initial conditions have nothing to scale inputs by: "
                "no system moves and is pulled by finite amounts; set it to false."
            )
        return InputScales(*scales.tolist())
