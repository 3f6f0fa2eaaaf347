"""A trained step criterion on NumPy arrays, for N-body codes that know no torch. G = 1."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from core.checkpoint import Model
from core.errors import UserError
from core.forces import State
from core.orbits import forces_of
from core.step_rule import reversible_step

#: The dt of each system (...); a number for a single system.
Steps = NDArray[np.float64] | np.float64


class ArrayMemory(NamedTuple):
    """What the criterion remembers, and the previous dt (...), 0 before the first (for the reversible rule)."""

    criterion: Any
    previous: Tensor


class ArrayTimeStep:
    """``init``, ``propose`` and ``advance`` of a trained model: pure functions of arrays and of a memory.

    Arrays are (..., N, D) for positions, velocities and accelerations, (..., N) for masses, (...) for dt.
    ``acceleration`` is that of the model's own forces (``config`` names softening and field); left
    out, it costs one more force evaluation. A model trained with ``n_steps`` > 1 proposes the dt of
    each of ``n_steps`` leapfrog steps in a row.
    """

    def __init__(self, model: Model):
        self.config = model.config
        self.n_steps = model.config.n_steps
        self._criterion = model.criterion
        self._forces = forces_of(model.config)

    def init(
        self, position: ArrayLike, velocity: ArrayLike, mass: ArrayLike, acceleration: ArrayLike | None = None
    ) -> ArrayMemory:
        """Return the memory of systems that start here: a past of nothing, and the state itself."""
        with torch.no_grad():
            state = self._state(position, velocity, mass, acceleration)
            return ArrayMemory(self._criterion.init(state), torch.zeros_like(state.mass[..., 0]))

    def propose(self, memory: ArrayMemory) -> Steps:
        """Return the next dt (...) from where the memory's last ``init`` or ``advance`` was."""
        with torch.no_grad():
            dt = self._criterion.propose(memory.criterion.state, memory.criterion)
            if self.config.step_rule == "reversible":
                dt = reversible_step(dt, memory.previous).dt
        return np.float64(dt.item()) if dt.dim() == 0 else dt.double().cpu().numpy()

    def advance(
        self,
        memory: ArrayMemory,
        position: ArrayLike,
        velocity: ArrayLike,
        mass: ArrayLike,
        dt: ArrayLike,
        acceleration: ArrayLike | None = None,
    ) -> ArrayMemory:
        """Return the memory after a step of ``dt`` (...) that led here; dt is the whole time since the last call."""
        state = self._state(position, velocity, mass, acceleration)
        with torch.no_grad():
            elapsed = self._tensor(dt).expand(state.mass.shape[:-1])
            return ArrayMemory(self._criterion.advance(memory.criterion, state, elapsed), elapsed / self.n_steps)

    def _state(
        self, position: ArrayLike, velocity: ArrayLike, mass: ArrayLike, acceleration: ArrayLike | None
    ) -> State:
        x, v, m = self._tensor(position), self._tensor(velocity), self._tensor(mass)
        wanted = (self.config.num_particles, self.config.dim)
        if x.shape[-2:] != wanted:
            raise UserError(
                f"The positions have the shape {tuple(x.shape)}, but the model was trained on (..., {wanted[0]}, "
                f"{wanted[1]}): {wanted[0]} bodies in {wanted[1]} dimensions."
            )
        if v.shape != x.shape or m.shape not in (x.shape[:-1], wanted[:1]):
            raise UserError(
                f"Velocities {tuple(v.shape)} and masses {tuple(m.shape)} do not fit positions {tuple(x.shape)}: they "
                "must be (..., N, D), (..., N) and (..., N, D)."
            )
        m = m.expand(x.shape[:-1])
        if acceleration is None:
            return self._forces.state(x, v, m)
        a = self._tensor(acceleration)
        if a.shape != x.shape:
            raise UserError(f"Accelerations {tuple(a.shape)} do not fit positions {tuple(x.shape)}.")
        return State(x, v, a, m)

    def _tensor(self, values: ArrayLike) -> Tensor:
        # A copy: what the memory holds must not change when a code updates its arrays in place.
        array = np.array(values, dtype=np.float64)
        return torch.from_numpy(array).to(self.config.torch_device, self.config.torch_dtype)
