"""Ray's metrics: what Prometheus reads of a search while it runs.

Ray exports what was set since its last export, and drops what has not been set for two of them. So the values of
running trainings are set again every second, by a thread, and those of an ended one are gone after a few.
Nothing but the names of the search and of its trials is in the tags: anyone who reaches the port can read them.
"""

import math
import threading
from collections import Counter

from ray.util.metrics import Gauge

from tune.monitoring.monitor import Monitor, Training, give_up
from tune.monitoring.targets import Targets
from tune.ranking import Scores
from tune.study import SearchStudy

#: Scores of running trainings, with what Prometheus shows as their help.
SCORES = {
    "work_gain": "Work at equal error, over the dynamical criterion",
    "rel_dE": "Median energy error",
    "steps_per_orbit": "Force evaluations per period",
    "convergence_rate": "Share of epochs that converged",
}
#: Ray puts `ray_` before it.
PREFIX = "aitimestepper_"
_SECONDS = 1.0


class Metrics(Monitor):
    """Gauges of one search, tagged with its name. ``targets`` says where Prometheus finds them."""

    name = "metrics"

    def __init__(self, study: SearchStudy, search: str, targets: Targets) -> None:
        self._study = study
        self.hint = f"{targets.file} tells Prometheus where they are: deploy/monitoring/README.md"
        self._search = search
        self._targets = targets
        self._scores = {key: _gauge(key, meaning, "trial") for key, meaning in SCORES.items()}
        self._epoch = _gauge("epoch", "Epochs that a running trial has trained", "trial")
        self._trials = _gauge("trials", "Trials by state", "state")
        self._best = _gauge("best", "Scores of the best trial so far", "trial", "score")
        self._states = Counter(record.state for record in study.records() if record.state != "RUNNING")
        self._running: dict[str, tuple[int, Scores]] = {}
        self._leader: tuple[str, Scores] = ("", {})
        self._find_leader()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._thread.start()

    def started(self, training: Training) -> None:
        """Count a running trial."""
        with self._lock:
            self._running[training.name] = (0, {})

    def reported(self, training: Training, epoch: int, scores: Scores) -> None:
        """Keep what is newest."""
        with self._lock:
            self._running[training.name] = (epoch, scores or self._running[training.name][1])

    def ended(self, training: Training, state: str, epochs: int, reason: str, test: Scores) -> None:
        """Forget a training, and count a trial that has ended."""
        with self._lock:
            del self._running[training.name]
            if not training.repeat:
                self._states[state] += 1
                self._find_leader()

    def close(self) -> None:
        """Take the search out of Prometheus' list."""
        self._over.set()
        self._thread.join()
        self._targets.remove()

    def _find_leader(self) -> None:
        ranking = self._study.ranking
        for best in self._study.best(1):
            keys = dict.fromkeys((*ranking.objectives, ranking.error))
            self._leader = (f"trial-{best.number:05d}", {key: best.scores[key] for key in keys})

    def _refresh(self) -> None:
        try:
            while True:
                with self._lock:
                    self._set()
                self._targets.write()
                if self._over.wait(_SECONDS):
                    return
        except Exception as error:
            give_up(self.name, error)

    def _set(self) -> None:
        for name, (epoch, scores) in self._running.items():
            self._epoch.set(epoch, self._tags(trial=name))
            for key, gauge in self._scores.items():
                if math.isfinite(value := scores.get(key, math.nan)):
                    gauge.set(value, self._tags(trial=name))
        running = sum(name.count("-") == 1 for name in self._running)  # a repeat's name has one more
        for state, count in {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0, **self._states, "RUNNING": running}.items():
            self._trials.set(count, self._tags(state=state))
        trial, best = self._leader
        for key, value in best.items():
            self._best.set(value, self._tags(trial=trial, score=key))

    def _tags(self, **tags: str) -> dict[str, str]:
        return {"search": self._search, **tags}


def _gauge(name: str, meaning: str, *tags: str) -> Gauge:
    # (OpenTelemetry, by which Ray exports, knows lower case only.)
    return Gauge(f"{PREFIX}{name.lower()}", description=meaning, tag_keys=("search", *tags))
