"""The orbits that lanes collect their samples from: phase 1's states, windows and counters, (L, B) each.

Lanes may have different numbers of orbits: B is the largest, and the places beyond a lane's own
hold copies of its first orbit, which take part in nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.config import Config
from core.errors import ConfigError
from core.features import InputScales, pair_units
from core.forces import Forces, State, relative_energy_scale
from core.history import History, Windows
from core.lane import Lane
from core.leapfrog import Block, leapfrog
from core.orbits import Orbits, check_fits_memory, draw
from core.samples import Samples
from core.timestep import Dynamical, unit_time

#: Steps of the flight from which input scales are fitted.
_PILOT_STEPS = 200
#: A system counts in it for so many units of its time: one that flies apart would count with all the sizes there are.
_PILOT_PERIODS = 3


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
        shape = (lanes, batch)
        vectors = torch.zeros(*shape, first.num_particles, first.dim, device=device, dtype=first.torch_dtype)
        self.state = State(vectors, vectors.clone(), vectors.clone(), vectors[..., 0].clone())
        self._history_len = torch.tensor([[config.history_len] for config in configs], device=device)
        self._reversible, self._n_steps = first.step_rule == "reversible", first.n_steps
        self._eps = torch.tensor([[config.eps] for config in configs], device=device, dtype=first.torch_dtype)
        self.energy, self.scale = vectors[..., 0, 0].clone(), vectors[..., 0, 0].clone()
        self.elapsed = torch.zeros(shape, dtype=torch.float64, device=device)
        self.period = torch.zeros_like(self.elapsed)
        #: Accepted steps since the orbit started: the first history_len are its warm-up.
        self.age = torch.zeros(shape, dtype=torch.int64, device=device)
        #: Accepted steps of this epoch, warm-up aside; gradient steps on the current state.
        self.collected, self.tries = self.age.clone(), self.age.clone()
        self.windows: Windows = ()
        #: The step that led here, 0 where the reversible rule starts; and what share of its proposal it was.
        self.previous, self.stretch = torch.zeros_like(self.energy), torch.ones_like(self.energy)
        #: Orbits to be started afresh in the next epoch: stuck, or their period is over.
        self.ended = torch.zeros(shape, dtype=torch.bool, device=device)

    def open(self, scales: Sequence[InputScales]) -> None:
        """Make the history of each lane with its input scales, without a past unless there is one already."""
        self.history = History(self.configs, scales)
        if not self.windows:
            self.windows = self.history.empty(self.state)
        self.refresh()

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
        """Return the window (B, K, C) of a lane's own orbits (a view)."""
        return self.history.own(self.windows, lane)[: self.configs[lane].num_orbits]

    def restore(self, lane: int, orbits: dict[str, Tensor], window: Tensor) -> None:
        """Put back what :meth:`orbit_tensors` and :meth:`own_window` returned."""
        for name, tensor in self._held().items():
            tensor[lane, : self.configs[lane].num_orbits] = orbits[name].to(tensor.device)
        self.fill_unused()
        self.own_window(lane).copy_(window)
        self.refresh()

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
        self.own_window(lane).copy_(source.own_window(index))

    def begin_epoch(self, lane: Lane, index: int) -> None:
        """Start the lane's ended orbits afresh and set its counters back."""
        ended = (self.ended[index] & self.exists[index]).nonzero().flatten().tolist()
        self.collected[index] = 0
        self.tries[index] = 0
        self.forget_previous(index)
        if ended:
            self.start(index, ended, lane.generator)
            fresh = torch.zeros_like(self.exists)
            fresh[index, ended] = True
            self.windows = self.history.keep_where(fresh, self.history.empty(self.state), self.windows)
            self.refresh()

    def forget_previous(self, lane: int) -> None:
        """Let the reversible rule start again from the last stretch: the network has changed, and tau with it."""
        self.previous[lane] = 0

    def refresh(self) -> None:
        """Recompute what follows from states and windows: units and inputs."""
        units = pair_units(self.state) if self.pair_scaled else None
        self.unit = unit_time(self.state, units)
        self.inputs = self.history.inputs(self.state, self.windows, units)

    def samples(self) -> Samples:
        """Return the current state of every orbit as a sample."""
        return Samples(self.inputs, self.state, self.energy, self.scale, self.unit, self.stretch)

    def move(self, accepted: Tensor, block: Block, elapsed: Tensor, stretch: Tensor, warm: Tensor) -> None:
        """Let the ``accepted`` (L, B) orbits take the block of ``elapsed`` time; the others stay where they are."""
        slid = self.history.slide(self.windows, self.state, block.state, elapsed)
        self.windows = self.history.keep_where(accepted, slid, self.windows)
        new_scale = relative_energy_scale(block.energy, block.kinetic + block.potential.abs())
        wide = accepted[..., None, None]
        position, velocity, acceleration = (
            torch.where(wide, new, old) for new, old in zip(block.state[:3], self.state[:3], strict=True)
        )
        self.state = State(position, velocity, acceleration, self.state.mass)
        self.energy = torch.where(accepted, block.energy, self.energy)
        self.scale = torch.where(accepted, new_scale, self.scale)
        self.elapsed += torch.where(accepted, elapsed.double(), 0)
        if self._reversible:
            self.previous = torch.where(accepted, elapsed / self._n_steps, self.previous)
            # The mean of two: an error in tau makes the recursion alternate about its track.
            self.stretch = torch.where(accepted, 2 / (1 / stretch + 1 / self.stretch), self.stretch)
        self.age += accepted
        self.collected += accepted & ~warm
        self.tries.masked_fill_(accepted, 0)
        self.refresh()

    def is_warm_up(self) -> Tensor:
        """Whether an orbit is in the first history_len steps since it started, (L, B)."""
        return self.age < self._history_len

    def warm_up_steps(self) -> Tensor:
        """Return the dynamical criterion's step (L, B) for orbits in their warm-up, NaN for the others."""
        eps = self._eps.expand_as(self.energy)
        return torch.where(self.is_warm_up(), Dynamical(eps).propose(self.state, eps), torch.nan)

    def first_output(self, lane: int) -> float:
        """Return the logarithm of a lane's first proposal: the dynamical criterion's step on its initial orbits."""
        state = self.own_state(lane)
        criterion = Dynamical(self.configs[lane].eps)
        tau = criterion.propose(state, criterion.init(state))
        return float((tau / self.unit[lane, : len(tau)]).log().mean())

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
