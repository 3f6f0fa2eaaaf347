"""What a training shows on standard error: a bar on a terminal, a line every 10 epochs elsewhere, debug lines."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from core.config import Config
from core.lane import EpochRecord

#: Epochs between two lines where there is no terminal.
LINE_EVERY = 10


class TrainingProgress:
    """Shows epochs, convergence rate, mean dt and rel_dE while a training runs: use as a context."""

    def __init__(self, config: Config, done: int = 0):
        self._config = config
        self._epoch = done
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch"),
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=config.epochs, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(text, markup=False)

    def epoch(self, record: EpochRecord) -> None:
        """Show an epoch that ended."""
        self._epoch = record.epoch
        if self._bar is not None:
            self._bar.update(self._task, completed=record.epoch, description=numbers(record))
        elif record.epoch % LINE_EVERY == 0:
            self.say(f"epoch {record.epoch}/{self._config.epochs}  {numbers(record)}")
        if self._config.debug and record.epoch % self._config.debug_every == 0:
            values = " ".join(f"{name}={_short(value)}" for name, value in record.to_dict().items())
            self.say(f"debug: {values}")

    def replay(self, update: int, loss: float) -> None:
        """Show an update of phase 2, if debug lines are wanted."""
        if self._config.debug and update % self._config.debug_replay_every == 0:
            self.say(f"debug: epoch {self._epoch + 1} replay update {update} loss {loss:.6g}")


def numbers(record: EpochRecord) -> str:
    """Return an epoch's numbers for people: convergence rate, mean dt and rel_dE of its accepted steps."""
    dt, error = _short(record.dt_mean), _short(record.rel_dE_train)
    return f"converged {100 * record.convergence_rate:.0f} %  dt {dt}  rel_dE {error}"


def _short(value: float | bool | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
