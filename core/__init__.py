"""Physics, features, network, two-phase training and evaluation of a learned time step. Knows no Ray."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.array_timestep import ArrayTimeStep


def load_timestep(path: Path | str, device: str = "cpu") -> "ArrayTimeStep":
    """Load a trained step criterion for somebody's own N-body code, on plain NumPy arrays.

    Positions and velocities are (..., N, D), masses (..., N), G = 1, one dt for each system (...):

        step = core.load_timestep("model.pt")
        memory = step.init(x, v, m, a)
        while t < end:
            dt = step.propose(memory)
            x, v, a, t = *my_leapfrog(x, v, a, m, dt), t + dt
            memory = step.advance(memory, x, v, m, dt, a)

    Raises CheckpointError if the file is not a model of this program.
    """
    # The import takes torch along: those who want core.config alone need not wait for all of it.
    from core.array_timestep import ArrayTimeStep
    from core.checkpoint import load_model

    return ArrayTimeStep(load_model(path, device))
