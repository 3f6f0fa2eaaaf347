"""A pack actor: one process, with a core or a share of a GPU, that trains many trials side by side.

Whoever holds an actor's handle imports its class. So that clients do without torch, this module imports none, and what
trains comes in with the actor itself.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from tune.packed.client import Files


class PackActor:
    """A :class:`tune.packed.host.Host` as an actor of Ray, whose methods are described there."""

    def __init__(self, number: int, lanes: int, threads: int) -> None:
        from tune.packed.host import Host

        self._number = number
        self._host = Host(lanes, threads)

    async def attach(
        self,
        name: str,
        incarnation: int,
        config: Mapping[str, Any],
        files: Files,
        told: Mapping[str, Any],
        held_out: Sequence[Awaitable[Any]],
    ) -> None:
        """Begin a trial, or go on with it."""
        await self._host.attach(name, incarnation, config, files, told, held_out)

    async def advance(self, name: str, incarnation: int) -> dict[str, Any] | None:
        """Return a trial's next result."""
        return await self._host.advance(name, incarnation)

    async def save(self, name: str, incarnation: int, told: Mapping[str, Any]) -> Files | None:
        """Return the files of a trial's checkpoint."""
        return await self._host.save(name, incarnation, told)

    async def release(self, name: str) -> None:
        """Let a trial go."""
        self._host.release(name)

    def __repr__(self) -> str:
        """The name that Ray's dashboard shows."""
        return f"pack-{self._number}"
