"""Population-based training (Jaderberg et al. 2017): who takes over whose training, and with which parameters.

The rules and the names of the options are those of Ray's PopulationBasedTraining, decided on the study: by what its
trials have reported at the same epoch, and with random numbers from the search's seed.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from core.config import Config
from core.errors import ConfigError
from tune.parameters import Parameter
from tune.pruners import PopulationBased
from tune.seeds import POPULATION, derived_seed
from tune.space import Space
from tune.study import SearchStudy

#: A number is changed by one of these.
_FACTORS = (1.2, 0.8)


class Population:
    """Decides for the running trials of a study."""

    def __init__(self, study: SearchStudy) -> None:
        assert isinstance(study.space.scheduler, PopulationBased)
        self._study = study
        self._options = study.space.scheduler

    def is_turn(self, number: int, epoch: int) -> bool:
        """Whether an epoch is one at which something is decided about a trial."""
        due = epoch % self._options.perturbation_interval == 0 and epoch < self._study.space.epochs
        return due and number in self._study.running and epoch in self._study.curve(number)

    def donor(self, number: int, epoch: int) -> int | None:
        """The running trial whose training a trial is to take over, by what all have reported at that epoch."""
        sign = 1 if self._study.ranking.directions[0] == "maximize" else -1
        curves = {record.number: self._study.curve(record.number) for record in self._study.records()}
        merits = {member: sign * curve[epoch] for member, curve in curves.items() if epoch in curve}
        worst, best = quantiles(merits, self._options.quantile_fraction)
        donors = sorted(member for member in best if member in self._study.running)
        return int(self._random(number, epoch).choice(donors)) if number in worst and donors else None

    def adopt(self, number: int, donor: int, epoch: int) -> Config:
        """Give a trial another's parameters, changed; return its settings."""
        others = self._study.record(donor).parameters
        random = self._random(number, epoch, donor)
        parameters = explored(self._study.space, others, self._options.resample_probability, random)
        return self._study.change(number, parameters, epoch, donor)

    def _random(self, *keys: int) -> np.random.Generator:
        return np.random.default_rng(derived_seed(POPULATION, self._study.space.seed, *keys))


def quantiles(merits: Mapping[int, float], fraction: float) -> tuple[set[int], list[int]]:
    """Of trials by number, return the worst and the best share; more is better, and NaN is worst."""
    order = sorted(merits, key=lambda number: (-math.inf if math.isnan(merits[number]) else merits[number], -number))
    share = min(math.ceil(len(order) * fraction), len(order) // 2)
    return set(order[:share]), order[len(order) - share :]


def explored(
    space: Space, parameters: Mapping[str, Any], resample_probability: float, random: np.random.Generator
) -> dict[str, Any]:
    """Return parameters near others; the same ones where what comes out is not allowed.

    Each is drawn anew with a probability; otherwise a number is multiplied by 1.2 or 0.8, within its range, and a
    choice becomes the next one in the list, before or behind.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=int(random.integers(2**31))))
    anew, changed = space.draw(study.ask()), {}
    for key, value in parameters.items():
        again, upwards = random.random() < resample_probability, bool(random.random() < 0.5)
        moved = _moved(space.parameters[key], value, upwards)
        changed[key] = anew.get(key, value) if again else moved
    try:
        space.config(changed)
    except ConfigError:
        return dict(parameters)
    return dict(parameters) if space.forbids(changed) else changed


def _moved(parameter: Parameter, value: Any, upwards: bool) -> Any:
    every = parameter.every(parameter.domain)
    if parameter.kind == "choice":
        assert every is not None
        place = list(every).index(value) + (1 if upwards else -1)
        return every[min(max(place, 0), len(every) - 1)]
    wanted = value * (_FACTORS[0] if upwards else _FACTORS[1])
    if every is None:
        return float(min(max(wanted, parameter.domain[0]), parameter.domain[1]))
    return min(every, key=lambda one: abs(one - wanted))
