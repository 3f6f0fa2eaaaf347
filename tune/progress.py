"""What a search shows while it runs: one live view in a terminal, plain lines elsewhere."""

import math
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.objectives import score
from tune.parameters import as_text
from tune.ranking import Ranking, Scores

#: Optuna's states in the words of the display.
WORDS = {"COMPLETE": "done", "RUNNING": "running", "PRUNED": "stopped", "FAIL": "failed"}
#: Seconds after which a plain line says how far a search is if no training has ended.
_SILENCE = 60.0
#: Columns of the live view's labels.
_LABEL = 7


@dataclass
class _Running:
    epoch: int
    result: str = ""


class Progress:
    """Counts trainings and epochs, and says what is best so far. Use it as a context manager.

    ``before`` counts those that ended before, by Optuna's states; they do not count for the pace. After ``budget``
    seconds it ends at the latest.
    """

    def __init__(
        self,
        what: str,
        total: int,
        console: Console,
        before: Mapping[str, int] | None = None,
        budget: float | None = None,
    ) -> None:
        self._what = what
        #: Trainings that are to be run, as far as is known.
        self.total = total
        self._console = console
        self._start = self._last_line = time.monotonic()
        self._running: dict[str, _Running] = {}
        self._before = Counter(before)
        self._ended: Counter[str] = Counter()
        self._ended_epochs = 0
        self._trained = 0
        self._best: tuple[str, ...] = ("none yet",)
        self._budget = math.inf if budget is None else budget
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def advanced(self, name: str, epoch: int, result: str = "") -> None:
        """Take note of a running training's epoch, and of its newest scores if there are new ones."""
        known = self._running.setdefault(name, _Running(epoch))
        self._trained += max(epoch - known.epoch, 0)
        known.epoch, known.result = epoch, result or known.result
        if not self._console.is_terminal and time.monotonic() - self._last_line > _SILENCE:
            self.note(self._status())

    def ended(self, name: str, state: str, epochs: int, result: str, best: Sequence[str], reason: str = "") -> None:
        """Take note of a training's end. ``best`` is what is best now, and lines with more about it."""
        self._running.pop(name, None)
        self._ended[state] += 1
        self._ended_epochs += epochs
        self.led_by(best)
        when = f" at epoch {epochs}" if state == "PRUNED" else ""
        why = f" ({reason})" if reason else f", {result}" if result else ""
        text = f"{self._what} {name} {WORDS[state]}{when}{why}"
        if not self._console.is_terminal:
            self.note(f"{text} | {self._status()}")
        elif reason:
            self.note(text)

    def led_by(self, best: Sequence[str]) -> None:
        """Take note of what is best now, and of lines with more about it; nothing if there is none."""
        self._best = tuple(best) or self._best

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._last_line = time.monotonic()
        print(f"[{clock(self._last_line - self._start)}] {text}", flush=True)

    def _status(self) -> str:
        return f"{self._counts()} | best: {self._best[0]} | {self._time_left()}{self._pace()}"

    def _counts(self) -> str:
        counts = self._before + self._ended + Counter(RUNNING=len(self._running))
        return ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items()) + f" of {self.total}"

    def _time_left(self) -> str:
        finished, passed = self._ended.total(), time.monotonic() - self._start
        most = max(self._budget - passed, 0)
        if not finished:
            return "time left not known yet" if most == math.inf else f"at most {clock(most)} left"
        mean = self._ended_epochs / finished
        waiting = max(self.total - self._before.total() - finished - len(self._running), 0)
        left = waiting * mean + sum(max(mean - training.epoch, 0) for training in self._running.values())
        return f"about {clock(min(left * passed / max(self._trained, 1), most))} left"

    def _pace(self) -> str:
        minutes = (time.monotonic() - self._start) / 60
        if not self._ended or not minutes:
            return ""
        trainings, epochs = (
            f"{rate:.0f}" if rate >= 100 else f"{rate:.2g}"
            for rate in (self._ended.total() / minutes, self._trained / minutes)
        )
        return f", {trainings} {self._what}s and {epochs} epochs a minute"

    def _view(self) -> Group:
        """The live view: it fills the width, and is never higher than the terminal."""
        width, height = self._console.width, self._console.height
        spent = clock(time.monotonic() - self._start)
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(total=self.total, completed=self._before.total() + self._ended.total()))
        view: list[RenderableType] = []
        # The ^C of a Ctrl-C must find room in the last line: in the next one it would move what is drawn.
        room = max(width - _LABEL - 4, 20)

        def add(label: str, text: str, rows: int) -> None:
            for row in textwrap.wrap(text, room, max_lines=rows, placeholder=" …"):
                view.append(Text(f"{label:{_LABEL}}  {row}", overflow="ellipsis", no_wrap=True))
                label = ""

        add(f"{self._what}s", self._counts(), 2)
        view.append(bar)
        add("time", f"{spent} passed, {self._time_left()}{self._pace()}", 2)
        for index, text in enumerate(self._best):
            add("" if index else "best", text, max(height // 4, 1))
        running = [
            f"{self._what} {name}, epoch {training.epoch}" + (f", {training.result}" if training.result else "")
            for name, training in self._running.items()
        ] or ["starting"]
        rows = max(height - 2 - len(view), 1)
        if len(running) > rows:
            running[rows - 1 :] = [f"and {len(running) - rows + 1} more"]
        for index, text in enumerate(running):
            add("" if index else "now", text, 1)
        return Group(*view)


def clock(seconds: float) -> str:
    """Return a duration as 4:05 or 1:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(parameters: Mapping[str, object]) -> str:
    """Return parameters on one line."""
    return ", ".join(
        f"{key} {format(value, '.3g') if isinstance(value, float) else as_text(value)}"
        for key, value in parameters.items()
    )


def brief(scores: Scores, ranking: Ranking) -> str:
    """Return the objectives and the energy error on one line."""
    keys = dict.fromkeys((*ranking.objectives, ranking.error))
    return ", ".join(f"{key} {format(scores[key], score(key).style)}" for key in keys if key in scores)
