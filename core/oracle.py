"""The oracle: the largest step that keeps a step's own energy error within a tolerance, found by trying.

It is no criterion for a simulation (a step costs some forty force evaluations) but the limit of what
any criterion that looks at one step at a time can reach, and is drawn as such beside the models.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.forces import Forces, State, relative_energy_scale
from core.leapfrog import leapfrog
from core.timestep import Dynamical

#: Steps tried: dE(dt) has accidental zeros, and the first crossing has to be seen among them. A step's error grows
#: as dt^3, so they are multiples of tolerance^(1/3) times the dynamical time min sqrt(r / |a_rel|).
_LOWEST, _HIGHEST, _TRIED = 0.1, 30.0, 32
#: Halvings of the bracket in ln(dt): the step is then known to 2e-4 of itself.
_BISECTIONS = 10


@dataclass(frozen=True)
class Oracle:
    """The first crossing of ``tolerance`` (a number or one per system (...), the memory) by rel_dE(dt)."""

    tolerance: float | Tensor
    forces: Forces
    n_steps: int = 1

    def init(self, state: State) -> Tensor:
        """Return the tolerance of each system (...)."""
        tolerance = torch.as_tensor(self.tolerance, dtype=state.mass.dtype, device=state.mass.device)
        return tolerance.expand(state.mass.shape[:-1])

    def propose(self, state: State, memory: Tensor) -> Tensor:
        """Return the largest dt (...) such that every smaller one tried keeps rel_dE within the tolerance."""
        energy, magnitude = self.forces.energy(state)
        largest = memory * relative_energy_scale(energy, magnitude)
        unit = Dynamical(1.0).propose(state, memory ** (1 / 3))
        base = _HIGHEST / _LOWEST
        tried = torch.logspace(0, 1, _TRIED, base=base, dtype=unit.dtype, device=unit.device) * _LOWEST
        several = state.map(lambda tensor: tensor.unsqueeze(0).expand(_TRIED, *tensor.shape))
        steps = tried.view(-1, *[1] * unit.dim()) * unit
        change = leapfrog(several, steps, self.forces, self.n_steps).energy - energy
        within = change.abs() <= largest
        # The number of steps tried before the first that is too large.
        first = within.long().cumprod(0).sum(0)
        lower = steps.gather(0, (first - 1).clamp_min(0).unsqueeze(0)).squeeze(0)
        upper = steps.gather(0, first.clamp_max(_TRIED - 1).unsqueeze(0)).squeeze(0)
        lower = torch.where(first == 0, lower * 1e-3, lower)
        for _ in range(_BISECTIONS):
            middle = (lower * upper).sqrt()
            change = leapfrog(state, middle, self.forces, self.n_steps).energy - energy
            good = change.abs() <= largest
            lower, upper = torch.where(good, middle, lower), torch.where(good, upper, middle)
        return lower

    def advance(self, memory: Tensor, state: State, dt: Tensor) -> Tensor:
        """Remember nothing more."""
        return memory
