"""What a pack actor does: it trains many trials side by side, and hears their clients in between."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from core.config import Config
from core.pack import pack_key, trains_alone
from core.scores import References
from core.training_pack import Event, TrainingPack
from tune.checkpoints import STATE, files_of
from tune.folder import MODEL_FILE, STATE_FILE
from tune.packed.client import Files
from tune.trainable import EPOCH, FAILED, SCORES, SETTINGS, SLICE, TEST, UNSAVED, is_out_of_memory, reason_of
from tune.training import next_evaluation

#: Signs of life a second, and checkpoints, of all trials together: each costs driver and client some milliseconds, a
#: checkpoint of a full replay buffer many more, which the packs do not get.
_SIGNS_OF_LIFE, _SAVES = 4, 0.25


@dataclass
class _Trial:
    """A trial of the actor. ``target`` is the epoch of its next evaluation."""

    incarnation: int
    settings: Config
    pack: TrainingPack
    target: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)
    #: What the client is to be told next, and whether it has been told.
    result: dict[str, Any] | None = None
    told: bool = False
    error: str = ""
    #: The end of this epoch is news, too.
    pause: int = 0
    #: Set when there is a result, the awaited epoch has ended, or something has gone wrong.
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Host:
    """Trains the trials that attach, all those of one :func:`core.pack.pack_key` in one pack of up to ``lanes``.

    No result depends on who else is here, nor on when: trials are independent, only their results wait for each other
    when several are to be scored.
    """

    def __init__(self, lanes: int, threads: int) -> None:
        # Threads beyond the share would fight those of the packs beside.
        torch.set_num_threads(threads)
        self._lanes = lanes
        self._held_out: tuple[References, References | None] | None = None
        self._trials: dict[str, _Trial] = {}
        self._packs: list[tuple[str, TrainingPack]] = []
        #: How many trials of a kind go into one pack, where the memory has not sufficed for more.
        self._most: dict[str, int] = {}
        #: Trials that get a pack of their own: an error has ended the one they were in.
        self._apart: set[str] = set()
        self._work = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def attach(
        self,
        name: str,
        incarnation: int,
        config: Mapping[str, Any],
        files: Files,
        told: Mapping[str, Any],
        held_out: Sequence[Awaitable[Any]],
    ) -> None:
        """Begin a trial, or go on with it from the files of a checkpoint.

        ``config`` is the trial's, as Ray has it, and ``told`` the last result that Ray was told. ``held_out`` are the
        two sets that all trials are scored on: at every evaluation on the first, or at the end alone on both if there
        is a second one. The newest incarnation takes the place of an older one. Raises RuntimeError if a newer one is
        here.
        """
        if self._held_out is None:
            self._held_out = await held_out[0], await held_out[1]
        here = self._trials.get(name)
        if here is not None:
            if here.incarnation > incarnation:
                raise RuntimeError(f"a newer incarnation of trial {name} has taken its place.")
            self.release(name)
        settings = Config.from_mapping(config[SETTINGS])
        pack = self._pack_for(name, settings)
        with ExitStack() as stack:
            state: Path | None = None
            if STATE_FILE in files:
                state = Path(stack.enter_context(tempfile.TemporaryDirectory())) / STATE_FILE
                state.write_bytes(files[STATE_FILE])
            elif STATE in config:
                state = stack.enter_context(files_of(config[STATE])) / STATE_FILE
            pack.attach(name, state or settings, **settings.to_dict())
        trial = self._trials[name] = _Trial(incarnation, settings, pack)
        epoch = pack.epoch(name)
        known = epoch == 0 or (told.get(EPOCH) == epoch and SCORES in told)
        if not known and epoch == self._next_evaluation(settings, epoch - 1):
            # It was saved where it was to be scored; whether Ray ever heard of these scores, nobody knows.
            trial.target = epoch
            pack.evaluate(name, self._held_out[0])
            self._work.set()
        else:
            self._go_on(name, trial)
        if self._loop is None:
            self._loop = asyncio.create_task(self._train())

    async def advance(self, name: str, incarnation: int) -> dict[str, Any] | None:
        """Return a result for Ray: that of the trial's next evaluation, or where it stands after a while.

        None if this incarnation is not attached.
        """
        trial = self._current(name, incarnation)
        if trial is None:
            return None
        if trial.told:
            self._go_on(name, trial)
        until = time.monotonic() + max(SLICE, len(self._trials) / _SIGNS_OF_LIFE)
        while trial.result is None:
            left = until - time.monotonic()
            if left <= 0 or not await self._hears(name, trial, left) or self._trials.get(name) is not trial:
                break
        if self._trials.get(name) is not trial:
            return None
        if trial.result is None:
            unsaved = time.monotonic() - trial.saved > max(UNSAVED, len(self._trials) / _SAVES)
            return {EPOCH: trial.pack.epoch(name), DONE: False, **({SHOULD_CHECKPOINT: True} if unsaved else {})}
        trial.told = True
        return trial.result

    async def save(self, name: str, incarnation: int, told: Mapping[str, Any]) -> Files | None:
        """Return the files of a checkpoint, at the end of the epoch that the trial is in.

        ``told`` is the last result of the trial: it is trained as far as that says, if it is not there any more.
        None if this incarnation is not attached.
        """
        trial = self._current(name, incarnation)
        if trial is None:
            return None
        pack, scores = trial.pack, trial.scores
        if pack.epoch(name) < trial.target:
            pause = max(pack.epoch(name) + 1, told.get(EPOCH, 0))
            pack.train_until(name, pause)
            self._work.set()
            trial.pause = pause
            while pack.epoch(name) < pause:
                await self._hears(name, trial)
                if self._trials.get(name) is not trial:
                    return None
                if trial.result and FAILED in trial.result:
                    raise RuntimeError(trial.result[FAILED])
            scores = told.get(SCORES, {}) if told.get(EPOCH) == pause else {}
        with tempfile.TemporaryDirectory() as folder:
            model, state = Path(folder) / MODEL_FILE, Path(folder) / STATE_FILE
            pack.save(name, model, state, scores)
            content = {file.name: file.read_bytes() for file in (model, state)}
        trial.saved = time.monotonic()
        pack.train_until(name, trial.target)
        self._work.set()
        return content

    def release(self, name: str) -> None:
        """Let a trial go, if it is here."""
        trial = self._trials.pop(name, None)
        if trial is not None:
            trial.pack.release(name)
            trial.news.set()
            self._packs = [(key, pack) for key, pack in self._packs if len(pack)]

    def _current(self, name: str, incarnation: int) -> _Trial | None:
        trial = self._trials.get(name)
        if trial is not None and trial.error:
            del self._trials[name]  # whoever attaches again starts anew
            raise RuntimeError(trial.error)
        return trial if trial is not None and trial.incarnation == incarnation else None

    def _pack_for(self, name: str, settings: Config) -> TrainingPack:
        wanted, alone = pack_key(settings), trains_alone(settings) or name in self._apart
        for key, pack in self._packs:
            if key == wanted and pack.has_room and not alone:
                return pack
        pack = TrainingPack(1 if alone else self._most.get(wanted, self._lanes))
        self._packs.append((wanted, pack))
        return pack

    def _go_on(self, name: str, trial: _Trial) -> None:
        """Train on, up to the next evaluation."""
        trial.target = self._next_evaluation(trial.settings, trial.pack.epoch(name))
        trial.result, trial.told, trial.scores = None, False, {}
        trial.pack.train_until(name, trial.target)
        self._work.set()

    def _next_evaluation(self, settings: Config, epoch: int) -> int:
        repeat = self._held_out is not None and self._held_out[1] is not None
        return next_evaluation(settings, epoch, repeat=repeat)

    async def _hears(self, name: str, trial: _Trial, seconds: float | None = None) -> bool:
        """Wait for news of a trial, so long at most. Raises RuntimeError if its pack is lost."""
        trial.news.clear()
        try:
            await asyncio.wait_for(trial.news.wait(), seconds)
        except TimeoutError:
            return False
        self._current(name, trial.incarnation)
        return True

    async def _train(self) -> None:
        """Advance all packs that have anything to do, tick by tick."""
        while True:
            busy = False
            for _, pack in list(self._packs):
                members = {name: trial for name, trial in self._trials.items() if trial.pack is pack}
                try:
                    if pack.is_busy:
                        busy = True
                        for event in pack.advance():
                            self._take(members[event.key], event)
                except Exception as error:  # whatever it is, clients must hear of it: nobody else does
                    self._part(pack, members, error)
            if busy:
                await asyncio.sleep(0)  # let the clients be heard
            else:
                self._work.clear()
                await self._work.wait()

    def _take(self, trial: _Trial, event: Event) -> None:
        """Take note of what happened to a trial."""
        if event.record is not None:
            if event.record.epoch >= trial.target and self._held_out:
                trial.pack.evaluate(event.key, self._held_out[0])
        elif event.failure is not None:
            trial.result = {EPOCH: trial.pack.epoch(event.key), FAILED: event.failure, DONE: True}
        elif event.scores is not None:
            self._take_scores(trial, event.key, event.scores)
        if trial.result is not None or (event.record is not None and event.record.epoch == trial.pause):
            trial.news.set()

    def _take_scores(self, trial: _Trial, name: str, scores: dict[str, float]) -> None:
        epoch = trial.pack.epoch(name)
        done = epoch >= trial.settings.epochs
        result: dict[str, Any] = {EPOCH: epoch, DONE: done, SHOULD_CHECKPOINT: True}
        if trial.scores:
            trial.result = {**result, SCORES: trial.scores, TEST: scores}
            return
        trial.scores = {**scores, "convergence_rate": trial.pack.convergence_rate(name)}
        if (error := trial.pack.last_epoch(name).get("rel_dE_train")) is not None:
            trial.scores["rel_dE_train"] = error
        test = self._held_out[1] if self._held_out else None
        if done and test is not None:
            trial.pack.evaluate(name, test)
        else:
            trial.result = {**result, SCORES: trial.scores}

    def _part(self, pack: TrainingPack, members: Mapping[str, _Trial], error: Exception) -> None:
        """Have the trials of a pack that cannot go on begin again from their checkpoints, with fewer beside them.

        Half as many where the memory has not sufficed, and none where one of them has raised: nobody knows which. A
        single one has failed where the memory has not sufficed, and otherwise raises in its client.
        """
        out_of_memory = is_out_of_memory(error)
        if len(members) == 1 and out_of_memory:
            ((name, trial),) = members.items()
            pack.train_until(name, 0)
            trial.result = {EPOCH: pack.epoch(name), FAILED: reason_of(error), DONE: True}
            trial.news.set()
            return
        if out_of_memory:
            self._most |= {key: len(members) // 2 for key, other in self._packs if other is pack}
        else:
            self._apart |= set(members)
        self._packs = [(key, other) for key, other in self._packs if other is not pack]
        for name, trial in members.items():
            if len(members) == 1:
                trial.error = f"{type(error).__name__}: {error}"
            else:
                del self._trials[name]  # its client attaches again
            trial.news.set()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
