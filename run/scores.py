"""Scores of a training on held-out orbits: over which periods, and for how long."""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from core.config import Config
from core.forces import State
from core.held_out import held_out
from core.scores import SCORED_AGAINST, evaluate, references
from core.timestep import Criterion
from core.work_precision import has_curve

#: Seconds for scores that nobody asked for: those of a model with minute steps take half an hour.
PATIENCE = 60.0


class Scorer:
    """Scores the models of one training, and says so.

    Scores that are ``asked`` for are over all of eval_periods; curves that are missing are measured here,
    before the training. Those that are not are over the shortest of them, of the last model, if its curves are at hand.
    """

    def __init__(self, config: Config, say: Callable[[str], None], *, asked: bool):
        self._say, self._asked = say, asked
        self._wanted = tuple(sorted(set(config.eval_periods)))
        self._held = self._wanted if asked else shortest_at_hand(config)
        self._config = config.model_copy(update={"eval_periods": self._held})
        self._against = references(self._config, progress=say) if self._held else None
        self.scores: dict[str, float] = {}

    def score(self, criterion: Criterion, epoch: int) -> None:
        """Score the model of an epoch, once."""
        if self._against is None or self.scores.get("epoch") == epoch:
            return
        self.scores = evaluate(criterion, self._config, self._against) | {"epoch": epoch}
        shown = "  ".join(f"{name} {value:.3g}" for name, value in self.scores.items() if name != "epoch")
        self._say(f"scores after epoch {epoch}: {shown}")

    def score_last(self, criterion: Criterion, epoch: int) -> None:
        """Score the model that a training ends with, and say how to get the scores that are left out."""
        if self._asked:
            self.score(criterion, epoch)
            return
        flag = f"--eval-periods {_words(self._wanted, ' ')}"
        if self._held:
            self._say(f"scoring over {_words(self._held, ' and ')} periods of held-out orbits")
            try:
                self.score(_Limited(criterion, PATIENCE), epoch)
            except _TooSlow:
                self._say(f"not scored: it takes longer than {PATIENCE:g} s; {flag} takes the time that it needs.")
                return
        missing = self._wanted[len(self._held) :]
        if missing:
            self._say(
                f"not scored over {_words(missing, ' and ')} periods: {flag} takes the time that it needs, and "
                "measures curves that are missing."
            )


def shortest_at_hand(config: Config) -> tuple[int, ...]:
    """Return the shortest of eval_periods if all its curves are at hand, shipped or of an earlier run; else none."""
    systems = held_out(config)
    shortest = systems.periods[0]
    return (shortest,) if all(has_curve(systems, name, shortest) for name in SCORED_AGAINST) else ()


class _TooSlow(Exception):
    """A score takes longer than it is worth waiting for."""


class _Limited:
    """A criterion that gives up after so many seconds."""

    def __init__(self, criterion: Criterion, seconds: float):
        self._criterion = criterion
        self._end = time.monotonic() + seconds

    def init(self, state: State) -> Any:
        return self._criterion.init(state)

    def propose(self, state: State, memory: Any) -> Tensor:
        if time.monotonic() > self._end:
            raise _TooSlow
        return self._criterion.propose(state, memory)

    def advance(self, memory: Any, state: State, dt: Tensor) -> Any:
        return self._criterion.advance(memory, state, dt)


def _words(numbers: tuple[int, ...], between: str) -> str:
    return between.join(map(str, numbers))
