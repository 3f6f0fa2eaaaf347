"""What a search is worth: on a stand-in objective, without Ray, medians over ten seeds."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tests.tune.stand_in import distance, epochs_run, run
from tune.space import Space, load_space
from tune.study import SearchStudy

SEEDS = range(10)


def searched(space: Space, seed: int, trials: int) -> SearchStudy:
    study = SearchStudy(space.changed(seed=seed), None, "test")
    run(study, trials)
    return study


def best(study: SearchStudy) -> float:
    return distance(study.config(study.best(1)[0]))


def space_of(write_space: Callable[..., Path], **changes: Any) -> Space:
    def change(values: dict[str, Any]) -> None:
        values |= changes
        values["fixed"] |= {"epochs": 16, "evaluate_every": 16 if changes["scheduler"] == "none" else 1}

    return load_space(write_space(change))


def test_tpe_finds_a_better_best_than_random(write_space: Callable[..., Path]) -> None:
    found = {}
    for name in ("tpe", "random"):
        space = space_of(write_space, sampler=name, scheduler="none")
        found[name] = median(best(searched(space, seed, 40)) for seed in SEEDS)
    assert found["tpe"] < 0.7 * found["random"]


def test_asha_finds_the_same_best_with_less_than_half_of_the_epochs(write_space: Callable[..., Path]) -> None:
    stopping = space_of(write_space, sampler="random", scheduler={"name": "asha", "reduction_factor": 4})
    running = space_of(write_space, sampler="random", scheduler="none")
    pairs = [(searched(stopping, seed, 40), searched(running, seed, 40)) for seed in SEEDS]
    assert median(best(stopped) for stopped, _ in pairs) == median(best(full) for _, full in pairs)
    assert median(epochs_run(stopped) / epochs_run(full) for stopped, full in pairs) < 0.5
