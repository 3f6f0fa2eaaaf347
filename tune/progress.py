"""What a search shows while it runs: one live view in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.parameters import as_text
from tune.space import Space
from tune.study import TrialRecord

#: Optuna's states in the words of the display.
WORDS = {"COMPLETE": "done", "RUNNING": "running", "PRUNED": "stopped", "FAIL": "failed"}


class Progress:
    """Counts trials and epochs, and says what is best so far. Use it as a context manager."""

    def __init__(self, space: Space, console: Console) -> None:
        self._space = space
        self._console = console
        self._start = time.monotonic()
        self._running: dict[int, int] = {}
        self._ended: Counter[str] = Counter()
        self._ended_epochs = 0
        self._best: TrialRecord | None = None
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def advanced(self, number: int, epoch: int) -> None:
        """Take note of a running trial's epoch."""
        self._running[number] = epoch

    def ended(self, record: TrialRecord, best: TrialRecord | None) -> None:
        """Take note of a trial's end."""
        self._running.pop(record.number, None)
        self._ended[record.state] += 1
        self._ended_epochs += record.epochs
        self._best = best
        result = f" ({record.reason})" if record.reason else f", {self._score(record)}" if record.scores else ""
        text = f"trial {record.number} {WORDS[record.state]}{result}"
        if not self._console.is_terminal:
            self.note(f"{text} | {self._counts()} | best: {self._best_so_far()} | {self._time_left()}")
        elif record.reason:
            self.note(text)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        print(f"[{clock(time.monotonic() - self._start)}] {text}", flush=True)

    def _counts(self) -> str:
        counts = {"COMPLETE": 0, "RUNNING": len(self._running), "PRUNED": 0, "FAIL": 0} | self._ended
        states = ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items())
        return f"{states} of {self._space.trials}"

    def _score(self, record: TrialRecord) -> str:
        objective = self._space.objective
        return f"{objective} {record.scores[objective]:.3f}, rel_dE {record.scores['rel_dE']:.1e}"

    def _best_so_far(self) -> str:
        if self._best is None:
            return "none yet"
        return f"trial {self._best.number}, {self._score(self._best)}"

    def _time_left(self) -> str:
        finished = self._ended.total()
        if not finished:
            return "time left not known yet"
        mean = self._ended_epochs / finished
        waiting = self._space.trials - finished - len(self._running)
        left = waiting * mean + sum(max(mean - epoch, 0) for epoch in self._running.values())
        pace = (time.monotonic() - self._start) / max(self._ended_epochs + sum(self._running.values()), 1)
        return f"about {clock(left * pace)} left"

    def _view(self) -> Table:
        spent = clock(time.monotonic() - self._start)
        running = ", ".join(f"{number} (epoch {epoch})" for number, epoch in sorted(self._running.items()))
        lines = [f"trials: {self._counts()}", f"now: {running or 'starting'}", f"best: {self._best_so_far()}"]
        if self._best is not None:
            lines.append(f"      {describe(self._best.parameters)}")
        view = Table.grid(expand=True)
        view.add_row(f"{spent} passed, {self._time_left()}")
        view.add_row(ProgressBar(total=self._space.trials, completed=self._ended.total()))
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
