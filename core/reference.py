"""Converged solutions by REBOUND's IAS15 (Rein & Spiegel 2015), for systems that have no formula. G = 1."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.config import Config
from core.errors import UserError
from core.forces import State
from core.held_out import HeldOut
from core.simulation import simulate
from core.timestep import Criterion

#: Orbits of more than two bodies are chaotic: after more crossing times positions say nothing about an integrator.
_CROSSING_TIMES = 2.0


def phase_error(criterion: Criterion, config: Config, systems: HeldOut) -> float:
    """Return how far bodies are from where IAS15 has them after two crossing times, for more than two bodies.

    The median over systems of the mean distance, in units of M^2 / (2 |E|), a system's virial radius. Raises UserError
    without the package rebound, and where it does not know a force.
    """
    state, forces = systems.on(config)
    with torch.no_grad():
        (record,) = simulate(
            state,
            criterion,
            forces,
            systems.orbits.period.to(config.torch_device),
            (_CROSSING_TIMES,),
            n_steps=config.n_steps,
            step_rule=config.step_rule,
        ).records
    if systems.config.external_field_mass:
        raise UserError("The phase error of more than two bodies is not available with an external field.")
    reference = ias15_positions(systems.orbits.state, record.time.cpu(), systems.config.softening)
    away = torch.linalg.vector_norm(record.state.position.double().cpu() - reference, dim=-1).mean(-1)
    size = systems.orbits.state.mass.sum(-1) ** 2 / (2 * record.initial_energy.double().cpu().abs())
    return float(np.median(np.where(record.failed.cpu().numpy(), np.inf, (away / size).numpy())))


def ias15_positions(start: State, time: Tensor, softening: float = 0.0) -> Tensor:
    """Return the positions (M, N, D) of systems (M, N, D) without a field at each one's ``time`` (M,)."""
    rebound = _rebound()
    ends = torch.zeros_like(start.position)
    dim = start.position.shape[-1]
    for number in range(len(start.mass)):
        simulation = rebound.Simulation()
        simulation.integrator, simulation.softening = "ias15", softening
        for mass, position, velocity in zip(*(tensor[number] for tensor in (start.mass, *start[:2])), strict=True):
            x, v = ([*map(float, vector), 0.0][:3] for vector in (position, velocity))
            simulation.add(m=float(mass), x=x[0], y=x[1], z=x[2], vx=v[0], vy=v[1], vz=v[2])
        simulation.integrate(float(time[number]))
        bodies = [list(particle.xyz)[:dim] for particle in simulation.particles]
        ends[number] = torch.tensor(bodies, dtype=torch.float64)
    return ends


def _rebound() -> Any:
    try:
        import rebound  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(
            "The phase error of more than two bodies needs the package rebound, which is not installed; "
            'install it: pip install "aitimestepper[reference]".'
        ) from None
    return rebound
