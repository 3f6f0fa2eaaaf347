"""The driver's side of packed trials: starts the pack actors of a run, and says which trial goes to which."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.tune.search import Searcher

from core.config import Config
from core.pack import pack_key
from core.scores import References
from tune.packed.actor import PackActor
from tune.snapshot import NotInSnapshots
from tune.space import Resources
from tune.trainable import SETTINGS

#: What a client takes: a unit of a resource that means nothing, or on a cluster without it a byte.
LANE = "lane"
#: Trials that one pack takes in any case.
_A_FEW = 4


def client_share() -> dict[str, float]:
    """Return what a client asks of the Ray that is running."""
    has_lanes = LANE in ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {LANE: 1} if has_lanes else {"memory": 1}


def measured_lanes(config: Config, share: Resources, most: int) -> int:
    """Return how many trials like ``config`` fill a pack, up to ``most``, measured where a pack could run.

    A few always belong together: to measure that would take longer than it saves.
    """
    if most <= _A_FEW:
        return most
    measure = ray.remote(_saturating_lanes).options(num_cpus=share.cpu, num_gpus=share.gpu)
    lanes: int = ray.get(measure.remote(config.to_dict(), _threads(share), most))
    return lanes


def _saturating_lanes(settings: Mapping[str, Any], threads: int, most: int) -> int:
    import torch

    from core.pack_size import saturating_lanes

    torch.set_num_threads(threads)
    return saturating_lanes(Config.from_mapping(settings), most)


def _threads(share: Resources) -> int:
    """Threads beyond the share would fight those of the packs beside."""
    return max(1, int(share.cpu))


class Packs:
    """The pack actors of a run. One that dies starts again; its trials then come back to it."""

    def __init__(self, count: int, lanes: int, resources: Resources) -> None:
        actor = ray.remote(PackActor).options(
            num_cpus=resources.cpu, num_gpus=resources.gpu, max_restarts=-1, max_concurrency=1000
        )
        self.actors: list[Any] = [actor.remote(number, lanes, _threads(resources)) for number in range(count)]

    def release(self, name: str) -> None:
        """Free the lane of a trial that has ended, whichever actor it has moved to."""
        for actor in self.actors:
            actor.release.remote(name)

    def stop(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)


class Placement:
    """Which of ``count`` actors a trial goes to."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._places: dict[str, tuple[int, str]] = {}

    def place(self, name: str, settings: Config, among: int) -> int:
        """Choose the actor of a trial, one of about ``among`` that will be there together; return its number.

        Trials that fit into one pack belong together, but not so many that another actor has less to do.
        """
        kind = pack_key(settings)
        held = Counter(number for number, _ in self._places.values())
        alike = Counter(number for number, other in self._places.values() if other == kind)
        fair = -(-among // self._count)
        number = max(range(self._count), key=lambda n: (held[n] < fair and alike[n], -held[n]))
        self._places[name] = number, kind
        return number

    def forget(self, name: str) -> None:
        """Take note that a trial has ended."""
        self._places.pop(name, None)


class PlacingSearcher(NotInSnapshots, Searcher):
    """Hands on what another searcher suggests, with the actor that is to train it; frees the lanes of what has ended.

    ``together`` says how many trainings will be there at a time.
    """

    def __init__(self, inner: Searcher, packs: Packs, together: Callable[[], int]) -> None:
        super().__init__()
        self._inner = inner
        self._packs = packs
        self._together = together
        self._placement = Placement(len(packs.actors))
        self._names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a Tune trial, or what the other searcher says instead."""
        config = self._inner.suggest(trial_id)
        if not isinstance(config, dict):
            return config
        name = self._names[trial_id] = "-".join(str(config[key]) for key in ("trial", "repeat") if key in config)
        settings = Config.from_mapping(config[SETTINGS])
        return {**config, "lane": name, "pack": self._placement.place(name, settings, self._together())}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the lane."""
        if name := self._names.pop(trial_id, None):
            self._placement.forget(name)
            self._packs.release(name)
        self._inner.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing, as the other one does."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, as the other one does."""


@contextmanager
def packed(
    searcher: Searcher,
    together: Callable[[], int],
    count: int,
    lanes: int,
    resources: Resources,
    curves: References,
    test: References | None = None,
) -> Iterator[tuple[dict[str, Any], Searcher]]:
    """Start ``count`` packs; give what their clients are made with, and the searcher of a run. End them at its end."""
    packs = Packs(count, lanes, resources)
    try:
        yield (
            {"packs": packs.actors, "held_out": [ray.put(curves), ray.put(test)]},
            PlacingSearcher(searcher, packs, together),
        )
    finally:
        packs.stop()
