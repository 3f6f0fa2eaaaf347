"""Weights & Biases: one group for a search, one run for each of its trainings.

A thread of its own talks to it: a slow network must not hold up the driver, which has other trainings to look after.
(Ray's own callback starts two actors for each trial.)
"""

import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tune.monitoring.monitor import Monitor, Training, first_line, give_up, say
from tune.ranking import Scores

#: Seconds that a run may take to begin, and that a search waits at its end for what is not written yet.
_BEGIN, _END = 15, 30


class WandbLog(Monitor):
    """Logs below ``folder``/wandb and, where there is a login and WANDB_MODE does not say otherwise, to the server."""

    name = "wandb"

    _abandoned = False

    def __init__(self, project: str, search: str, folder: Path) -> None:
        import wandb

        self._wandb = wandb
        self._project = project
        self._search = search
        self._folder = folder
        self._runs: dict[str, Any] = {}
        self.mode: Any = wandb.setup(settings=wandb.Settings(silent=True)).settings.mode
        # Without a login wandb would ask in the middle of a search.
        without_login = self.mode in ("online", "shared") and not wandb.login(prompt=False, verify=False)
        if without_login:
            self.mode = "offline"
        self._offline = f"offline; upload with `wandb sync {folder}/wandb/offline-run-*`"
        self.hint = f"{self.mode}: project {project}, group {search}" if self.mode != "offline" else self._offline
        if without_login:
            self.hint = f"no login (`wandb login`), so {self.hint}"
        self._events: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def started(self, training: Training) -> None:
        """Begin a run."""
        self._events.put(lambda: self._begin(training))

    def reported(self, training: Training, epoch: int, scores: Scores) -> None:
        """Log the scores of an evaluation."""
        if scores:
            self._events.put(lambda: self._runs[training.name].log(dict(scores), step=epoch))

    def ended(self, training: Training, state: str, epochs: int, reason: str, test: Scores) -> None:
        """End a run; its summary says how."""
        summary = {"state": state, "epochs": epochs, **({"reason": reason} if reason else {})}
        summary |= {f"test/{key}": value for key, value in test.items()}
        self._events.put(lambda: self._finish(training.name, summary, failed=state == "FAIL"))

    def close(self) -> None:
        """End the runs of interrupted trainings, and wait a while for what is under way."""
        self._events.put(self._finish_all)
        self._events.put(None)
        self._thread.join(_END)
        if self._thread.is_alive():
            self._abandoned = True
            give_up(self.name, TimeoutError(f"not everything was uploaded within {_END} s"))

    def _begin(self, training: Training) -> None:
        try:
            self._runs[training.name] = self._init(training)
        except Exception as error:  # its own kinds, and those of whatever network there is
            if self.mode == "offline":
                raise
            self.mode = "offline"
            say(f"{self.name}: {first_line(error)}; runs are kept {self._offline}")
            self._runs[training.name] = self._init(training, "-offline")  # wandb does not give the first name free

    def _init(self, training: Training, suffix: str = "") -> Any:
        return self._wandb.init(
            project=self._project,
            group=self._search,
            job_type="repeat" if training.repeat else "trial",
            name=training.name,
            # The same after an interruption, so that the run goes on.
            id=re.sub(r"[^\w.-]", "-", f"{self._search}-{training.name}{suffix}"),
            resume="allow" if self.mode == "online" else None,
            config={**training.settings, "trial": training.number, "parameters": dict(training.parameters)},
            dir=str(self._folder),
            mode=self.mode,
            reinit="create_new",
            settings=self._wandb.Settings(console="off", silent=True, x_disable_stats=True, init_timeout=_BEGIN),
        )

    def _finish(self, name: str, summary: dict[str, Any], *, failed: bool) -> None:
        run = self._runs.pop(name)
        run.summary.update(summary)
        run.finish(exit_code=1 if failed else 0)

    def _finish_all(self) -> None:
        for name in list(self._runs):
            self._finish(name, {"state": "RUNNING"}, failed=True)

    def _work(self) -> None:
        try:
            while (event := self._events.get()) is not None:
                event()
        except Exception as error:
            if not self._abandoned:
                give_up(self.name, error)
