"""Every random number of a search comes from its one seed."""

import numpy as np

# Streams of seeds. A stream has a number of its own, since numpy pads short seeds with zeros: (3, 5) and (3, 5, 0)
# would be the same.
SAMPLER, TRIAL, DRAW, GRID, POPULATION = 1, 2, 3, 4, 5


def derived_seed(*keys: int) -> int:
    """Return a seed that depends on all the keys and on nothing else."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])
