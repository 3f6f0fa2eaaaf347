"""A packed trial as Ray Tune runs it: a thin client of the pack actor that trains it.

It hands on what it is given, its config and the files of its checkpoints, and reads none of it. Nothing here imports
torch, nor anything that does: the process of the clients (tune/packed/clients.py) takes little to start.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

#: Seconds between two attempts to reach an actor that has died, and after which another one is asked.
_PAUSE, _PATIENCE = 0.5, 60.0
#: So many actors may die under a training before it has saved anything new. Then it is said to have failed.
_MOST_DEATHS = 3

Files = dict[str, bytes]


class PackedTraining(tune.Trainable):
    """Trains one configuration in a pack actor. If the actor dies, it goes on from the last checkpoint in a new one."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What a client takes, which is next to nothing: the pack actor holds core and GPU."""
        return tune.PlacementGroupFactory([config["resources"]])

    def setup(
        self,
        config: dict[str, Any],
        packs: "Sequence[ActorHandle[Any]]" = (),
        held_out: "Sequence[ray.ObjectRef[Any]]" = (),
    ) -> None:
        """Prepare a client. Ray may set up a spare one and never use it: the pack hears of it with the first step."""
        self._packs, self._held_out = packs, held_out  # tune.with_parameters brings them
        self._config = config
        self._pack = int(config["pack"])
        self._begin({})

    def _begin(self, files: Files) -> None:
        """Start from a checkpoint, or from nothing, at the next call."""
        self._files = files
        self._result: dict[str, Any] = {}
        self._attached = False
        self._deaths = 0
        #: An actor takes the newest: whoever held the trial before, and was thought to be dead, is turned away.
        self._incarnation = time.time_ns()

    def step(self) -> dict[str, Any]:
        """Have the trial trained up to its next evaluation, or for a slice of time."""
        self._result = self._ask("advance")
        return dict(self._result)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the files of the training as it stands, or as it was at the last evaluation if it stands there."""
        self._files = self._ask("save", self._result)
        self._deaths = 0
        for name, content in self._files.items():
            (Path(checkpoint_dir) / name).write_bytes(content)

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from a checkpoint."""
        self._begin({file.name: file.read_bytes() for file in Path(checkpoint_dir).iterdir() if file.is_file()})

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the trial's actor, through its deaths."""
        lost = 0.0
        while True:
            pack, me = self._packs[self._pack], (self._config["lane"], self._incarnation)
            try:
                if not self._attached:
                    ray.get(pack.attach.remote(*me, self._config, self._files, self._result, self._held_out))
                    self._attached, lost = True, 0.0
                answer = ray.get(getattr(pack, method).remote(*me, *arguments))
            except RayActorError as error:
                now = time.monotonic()
                lost = lost or now
                if self._attached:
                    self._deaths += 1
                if self._deaths > _MOST_DEATHS or now - lost > _PATIENCE * len(self._packs):
                    raise RuntimeError(f"the pack actor died: {str(error).splitlines()[0]}") from None
                self._attached = False
                if now - lost > _PATIENCE:
                    self._pack = (self._pack + 1) % len(self._packs)
                    lost = now
                time.sleep(_PAUSE)
                continue
            if answer is not None:
                return answer
            self._attached = False  # the actor has started anew in the meantime

    def __repr__(self) -> str:
        """The trial's name, which Ray's dashboard shows beside the actor."""
        return str(self.trial_name)
