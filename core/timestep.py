"""Step criteria: pure functions of the state, and of a memory of the past for those that look back.

All have one interface, so that a classical and a learned one are interchangeable everywhere:
``init(state) -> memory``, ``propose(state, memory) -> tau`` (...), and ``advance(memory, state, dt)
-> memory`` with the state that the step of ``dt`` reached. States have any leading dimensions.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from core.config import Config
from core.features import InputScales, Units, pair_units
from core.forces import Forces, State, self_exclusion
from core.history import History, input_width
from core.network import FullyConnectedNN


class Criterion(Protocol):
    """What a simulation, a training and an evaluation need of a step criterion."""

    def init(self, state: State) -> Any:
        """Return the memory of a system that starts in ``state``: a (nested) tuple of tensors, or None."""

    def propose(self, state: State, memory: Any) -> Tensor:
        """Propose a step (...) for each system."""

    def advance(self, memory: Any, state: State, dt: Tensor) -> Any:
        """Return the memory after a step of ``dt`` (...) that led to ``state``."""


@dataclass(frozen=True)
class Fixed:
    """The same step always. The memory is the step itself (...), so that each system may have its own."""

    dt: float | Tensor

    def init(self, state: State) -> Tensor:
        """Return ``dt`` for each system (...)."""
        return _each(self.dt, state)

    def propose(self, state: State, memory: Tensor) -> Tensor:
        """Return ``dt`` (...)."""
        return memory

    def advance(self, memory: Tensor, state: State, dt: Tensor) -> Tensor:
        """Remember nothing more."""
        return memory


@dataclass(frozen=True)
class Dynamical:
    """``eps * min over pairs of sqrt(r / |a_rel|)``; ``eps`` is a number or one per system (...), the memory."""

    eps: float | Tensor

    def init(self, state: State) -> Tensor:
        """Return ``eps`` for each system (...)."""
        return _each(self.eps, state)

    def propose(self, state: State, memory: Tensor) -> Tensor:
        """Return the step (...); infinite where nothing accelerates."""
        separation = state.position.unsqueeze(-3) - state.position.unsqueeze(-2)
        relative = state.acceleration.unsqueeze(-3) - state.acceleration.unsqueeze(-2)
        squared = (separation * separation).sum(-1) + self_exclusion(state.position)
        ratio = squared / (relative * relative).sum(-1)
        return memory * ratio.amin((-2, -1)).sqrt().sqrt()

    def advance(self, memory: Tensor, state: State, dt: Tensor) -> Tensor:
        """Remember nothing more."""
        return memory


@dataclass(frozen=True)
class PRS23:
    """``eta * min over bodies of tau`` with tau^2 = 2 a^2 / (j^2 + a s): acceleration, jerk and snap of a body.

    Pham, Rein & Spiegel 2024, Open J. Astrophys. 7, 1, section 3; the criterion of REBOUND's IAS15, whose step is
    this with eta = (5040 epsilon)^(1/7). ``eta`` is a number or one per system (...), the memory.
    """

    eta: float | Tensor
    forces: Forces

    def init(self, state: State) -> Tensor:
        """Return ``eta`` for each system (...)."""
        return _each(self.eta, state)

    def propose(self, state: State, memory: Tensor) -> Tensor:
        """Return the step (...); infinite where nothing accelerates."""
        jerk, snap = self.forces.jerk_and_snap(state)
        pull, jerk, snap = (torch.linalg.vector_norm(vector, dim=-1) for vector in (state.acceleration, jerk, snap))
        squared = 2 * pull * pull / (jerk * jerk + pull * snap)
        # 0 / 0: a body that feels nothing asks for nothing.
        return memory * torch.where(pull == 0, torch.inf, squared).amin(-1).sqrt()

    def advance(self, memory: Tensor, state: State, dt: Tensor) -> Tensor:
        """Remember nothing more."""
        return memory


def _each(value: float | Tensor, state: State) -> Tensor:
    return torch.as_tensor(value, dtype=state.mass.dtype, device=state.mass.device).expand(state.mass.shape[:-1])


class LearnedMemory(NamedTuple):
    """The window (..., K, C) of the past, the state it leads up to, and the steps taken so far (...)."""

    window: Tensor
    state: State
    age: Tensor


class Learned:
    """A trained network's step.

    ``network`` has one lane. Its first output z becomes ``exp(z)`` times the pair time (dt_scale
    "pair") or ``exp(z)`` itself ("unit"), and is never below ``dt_bound``.
    """

    def __init__(self, config: Config, scales: InputScales, network: FullyConnectedNN):
        self.config, self.scales = config, scales
        self.network = network
        self._history = History([config], [scales])

    def init(self, state: State) -> LearnedMemory:
        """Return a memory without a past: zeros in feature space."""
        (window,) = self._history.empty(_one_lane(state))
        age = torch.zeros(state.mass.shape[:-1], dtype=torch.int64, device=state.mass.device)
        return LearnedMemory(_leading(window, state), state, age)

    def propose(self, state: State, memory: LearnedMemory) -> Tensor:
        """Return the step (...) by the deterministic network (no dropout)."""
        flat = _one_lane(state)
        units = pair_units(flat) if self.config.dt_scale == "pair" else None
        window = _one_lane_window(memory.window)
        inputs = self._history.inputs(flat, (window,), units)
        output = self.network(self.network.embed(inputs))[:, : inputs.shape[1], 0]
        tau = proposed_step(output, unit_time(flat, units), self.config.dt_bound)
        tau = tau.reshape(state.mass.shape[:-1])
        if self.config.history_warmup == "analytic":
            classical = Dynamical(self.config.eps)
            warm = memory.age < self.config.history_len
            tau = torch.where(warm, classical.propose(state, classical.init(state)), tau)
        return tau

    def advance(self, memory: LearnedMemory, state: State, dt: Tensor) -> LearnedMemory:
        """Append the step's row to the window."""
        window = _one_lane_window(memory.window)
        before, after = _one_lane(memory.state), _one_lane(state)
        (window,) = self._history.slide((window,), before, after, dt.reshape(1, -1))
        return LearnedMemory(_leading(window, state), state, memory.age + 1)


def network_of(*configs: Config) -> FullyConnectedNN:
    """Make the network that configs of one pack ask for, a lane for each, its weights zero."""
    first = configs[0]
    return FullyConnectedNN(
        [input_width(config) for config in configs],
        first.hidden_dims,
        first.activation,
        first.weights_dtype,
        first.torch_device,
        first.fourier_dim * (first.fourier_scale > 0),
    )


def unit_time(state: State, units: Units | None) -> Tensor:
    """Return what the network's output is a multiple of (...): the pair time, or 1."""
    return torch.ones_like(state.mass[..., 0]) if units is None else units.time


def proposed_step(output: Tensor, unit: Tensor, dt_bound: float | Tensor) -> Tensor:
    """Turn the network's first output z into the step ``max(exp(z) unit, dt_bound)`` (...)."""
    return (output.to(unit.dtype).exp() * unit).clamp_min(dt_bound)


def _one_lane(state: State) -> State:
    bodies, dim = state.position.shape[-2:]
    count = math.prod(state.mass.shape[:-1])
    position, velocity, acceleration = (tensor.reshape(1, count, bodies, dim) for tensor in state[:3])
    return State(position, velocity, acceleration, state.mass.reshape(1, count, bodies))


def _one_lane_window(window: Tensor) -> Tensor:
    return window.reshape(1, math.prod(window.shape[:-2]), *window.shape[-2:])


def _leading(window: Tensor, state: State) -> Tensor:
    return window.reshape(*state.mass.shape[:-1], *window.shape[-2:])
