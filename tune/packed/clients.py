"""Where the clients of packed trials live: in one process, though to Ray Tune each is an actor of its own.

To Ray an actor is a process. One for each trial took 1.7 s of a core to start and 112 MiB, and 64 of them, though they
only wait, woke up so often that the packs beside them trained at two thirds of their speed (docs/decisions.md). Tune
gets the actors of a run from a cache of their classes. What takes its place here gives classes and handles that look
the same to Tune, and all of whose calls go to one actor.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.actor import ActorClass, ActorHandle
from ray.tune.execution import tune_controller
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune.packed.client import PackedTraining


class Clients:
    """The actor that holds the clients. Each has a thread of it as long as a call of it lasts."""

    def __init__(self) -> None:
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # they share a working directory
        self._clients: dict[str, tune.Trainable] = {}

    def begin(self, key: str, trainable: type[tune.Trainable], arguments: Mapping[str, Any]) -> None:
        """Make a client; done twice it is made anew."""
        self._clients[key] = trainable(**arguments)

    def call(self, key: str, method: str, positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Call a method of a client, which after `stop` is gone."""
        if key not in self._clients:
            raise RuntimeError("the process of the packed trials' clients has started anew.")
        client = self._clients[key] if method != "stop" else self._clients.pop(key)
        return getattr(client, method)(*positional, **named)

    def __repr__(self) -> str:
        """The name that Ray's dashboard shows."""
        return "clients"


class _Method:
    """A method of a client's handle, with what Tune uses of one."""

    def __init__(self, clients: "ActorHandle[Any]", key: str, task: str, name: str) -> None:
        self._call: Any = clients.call.options(name=task)
        self._key: str = key
        self._name: str = name

    def remote(self, *positional: Any, **named: Any) -> "ray.ObjectRef[Any]":
        """Call it; the result is to come."""
        reference: ray.ObjectRef[Any] = self._call.remote(self._key, self._name, positional, named)
        return reference


class _Ready:
    """Tells that a client has been made."""

    def __init__(self, made: "ray.ObjectRef[Any]") -> None:
        self._made = made

    def remote(self) -> "ray.ObjectRef[Any]":
        return self._made


class _Handle:
    """What Tune takes for the handle of an actor: a client, under a key."""

    def __init__(self, clients: "ActorHandle[Any]", trainable: Any, arguments: Mapping[str, Any]) -> None:
        self._clients, self._key, self._name = clients, uuid4().hex, arguments["config"]["lane"]
        #: What `ray.kill` kills: Tune only does so at the end of a run, or when a client does not stop for minutes.
        self._ray_actor_id = clients._ray_actor_id
        # The actor may just be starting again.
        begin: Any = clients.begin.options(name=_task("begin", self._name), max_task_retries=-1)
        self._made: ray.ObjectRef[Any] = begin.remote(self._key, trainable, arguments)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # for isinstance
        return ActorHandle

    def __getattr__(self, name: str) -> Any:
        if name == "__ray_ready__":
            return _Ready(self._made)
        name = "stop" if name == "__ray_terminate__" else name
        return _Method(self._clients, self._key, _task(name, self._name), name)


def _task(method: str, trial: str) -> str:
    """Return what Ray calls a task, and its process meanwhile."""
    return f"Clients.{method} of trial {trial}"


class _Class:
    """What Tune takes for an actor's class."""

    def __init__(self, clients: "ActorHandle[Any]", trainable: type[tune.Trainable]) -> None:
        self._clients, self._trainable = clients, ray.put(trainable)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # for isinstance
        return ActorClass

    def options(self, **_: Any) -> "_Class":
        """Return itself: a client takes nothing that could be set aside for it."""
        return self

    def remote(self, **arguments: Any) -> _Handle:
        """Begin a client."""
        return _Handle(self._clients, self._trainable, arguments)


class _Classes:
    """In the place of Tune's cache of actors' classes."""

    def __init__(self, clients: "ActorHandle[Any]") -> None:
        self._clients = clients
        self._known: dict[type[tune.Trainable], _Class] = {}

    def get(self, trainable: type[tune.Trainable]) -> _Class:
        """Return the class of a trainable's clients."""
        assert issubclass(trainable, PackedTraining)
        if trainable not in self._known:
            self._known[trainable] = _Class(self._clients, trainable)
        return self._known[trainable]


@contextmanager
def clients_together(most: int) -> Iterator[None]:
    """Have the trainables of a Tune run, up to ``most`` at a time, live in one process on the driver's machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # A client's training and its end may overlap.
    options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 2 * most + 8, "scheduling_strategy": here}
    clients: Any = ray.remote(Clients).options(**options).remote()
    controller: Any = tune_controller
    before = controller._ActorClassCache
    controller._ActorClassCache = lambda: _Classes(clients)
    try:
        yield
    finally:
        controller._ActorClassCache = before
        ray.kill(clients)
