"""What a search shows while it runs: one live view in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.objectives import score
from tune.parameters import as_text
from tune.ranking import Ranking, Scores

#: Optuna's states in the words of the display.
WORDS = {"COMPLETE": "done", "RUNNING": "running", "PRUNED": "stopped", "FAIL": "failed"}


class Progress:
    """Counts trainings and epochs, and says what is best so far. Use it as a context manager."""

    def __init__(self, what: str, total: int, console: Console) -> None:
        self._what = what
        #: Trainings that are to be run, as far as is known.
        self.total = total
        self._console = console
        self._start = time.monotonic()
        self._running: dict[str, int] = {}
        self._ended: Counter[str] = Counter()
        self._ended_epochs = 0
        self._best: tuple[str, ...] = ("none yet",)
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def advanced(self, name: str, epoch: int) -> None:
        """Take note of a running training's epoch."""
        self._running[name] = epoch

    def ended(self, name: str, state: str, epochs: int, result: str, best: Sequence[str], reason: str = "") -> None:
        """Take note of a training's end. ``best`` is what is best now, and lines with more about it."""
        self._running.pop(name, None)
        self._ended[state] += 1
        self._ended_epochs += epochs
        self._best = tuple(best) or self._best
        text = f"{self._what} {name} {WORDS[state]}" + (f" ({reason})" if reason else f", {result}" if result else "")
        if not self._console.is_terminal:
            self.note(f"{text} | {self._counts()} | best: {self._best[0]} | {self._time_left()}")
        elif reason:
            self.note(text)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        print(f"[{clock(time.monotonic() - self._start)}] {text}", flush=True)

    def _counts(self) -> str:
        counts = {"COMPLETE": 0, "RUNNING": len(self._running), "PRUNED": 0, "FAIL": 0} | self._ended
        states = ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items())
        return f"{states} of {self.total}"

    def _time_left(self) -> str:
        finished = self._ended.total()
        if not finished:
            return "time left not known yet"
        mean = self._ended_epochs / finished
        waiting = self.total - finished - len(self._running)
        left = waiting * mean + sum(max(mean - epoch, 0) for epoch in self._running.values())
        pace = (time.monotonic() - self._start) / max(self._ended_epochs + sum(self._running.values()), 1)
        return f"about {clock(left * pace)} left"

    def _view(self) -> Table:
        spent = clock(time.monotonic() - self._start)
        running = ", ".join(f"{name} (epoch {epoch})" for name, epoch in self._running.items())
        lines = [f"{self._what}s: {self._counts()}", f"now: {running or 'starting'}", f"best: {self._best[0]}"]
        lines += [f"      {line}" for line in self._best[1:]]
        view = Table.grid(expand=True)
        view.add_row(f"{spent} passed, {self._time_left()}")
        view.add_row(ProgressBar(total=self.total, completed=self._ended.total()))
        for line in lines:
            view.add_row(Text(line, overflow="ellipsis", no_wrap=True))
        return view


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
    return ", ".join(f"{key} {format(scores[key], score(key).style)}" for key in keys)
