"""Scores of a training on held-out orbits: over which periods, and for how long."""

import math
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from core import evaluation
from core.config import Config
from core.evaluation import evaluate, reference_curves
from core.forces import State
from core.timestep import Criterion

#: Seconds for scores that nobody asked for: those of a model with minute steps take half an hour.
PATIENCE = 60.0


class Scorer:
    """Scores the models of one training, and says so.

    Scores that are ``asked`` for are over all of eval_periods; a reference curve that is missing is measured here,
    before the training. Those that are not are over the periods whose curve is at hand, and of the last model only.
    """

    def __init__(self, config: Config, say: Callable[[str], None], *, asked: bool):
        self._say, self._asked = say, asked
        self._wanted = tuple(sorted(config.eval_periods))
        self._held = self._wanted if asked else periods_at_hand(config)
        self._config = config.model_copy(update={"eval_periods": self._held})
        self._curves = reference_curves(self._config, progress=say) if self._held else None
        self.scores: dict[str, float] = {}

    def score(self, criterion: Criterion, epoch: int) -> None:
        """Score the model of an epoch, once."""
        if self._curves is None or self.scores.get("epoch") == epoch:
            return
        self.scores = evaluate(criterion, self._config, self._curves) | {"epoch": epoch}
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
            minutes = math.ceil(missing[-1] / 10)
            self._say(
                f"not scored over {_words(missing, ' and ')} periods: {flag} measures the reference curve that this "
                f"needs, once, in about {minutes} minute{'s' * (minutes > 1)}."
            )


def periods_at_hand(config: Config) -> tuple[int, ...]:
    """Return the first few of eval_periods, all that have a reference curve: a shipped one, or one of an earlier run.

    The first few, since names without a suffix are of the first.
    """
    wanted = tuple(sorted(config.eval_periods))
    for count in range(len(wanted), 0, -1):
        name = evaluation._curve_name(config.model_copy(update={"eval_periods": wanted[:count]}), "validation")
        if any((folder / name).exists() for folder in (evaluation._SHIPPED, evaluation._cache_folder())):
            return wanted[:count]
    return ()


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
