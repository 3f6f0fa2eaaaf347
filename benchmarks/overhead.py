"""What a search costs beside its trainings, per trial: ``python benchmarks/overhead.py``.

The trials train nothing: their learning curves are formulas, of 10 reports each, stopped early by successive halving.
They run through the whole driver (study, searcher, scheduler, callbacks, results folder), through plain `ray.tune` with
its own OptunaSearch and ASHAScheduler, and through plain Optuna in one process with a journal file; the same space, the
same sampler (tpe), one after the other in one run. The driver also runs longer searches: what a trial costs must not
grow with their number. Times do not include the start of Ray.
"""

import argparse
import contextlib
import io
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tune.ray_session import prepare_environment, ray_session

if __name__ == "__main__":
    prepare_environment(None)  # before Ray is imported

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from tune.driver import Driver
from tune.folder import SearchFolder
from tune.opening import open_study
from tune.progress import Progress
from tune.space import Space
from tune.storage import Storage

REPORTS = 10
CONCURRENT = 2
RANGES = {"lr": (1e-4, 1e-2), "energy_threshold": (1e-4, 1e-3), "E_upper": (0.1, 0.9), "weight_decay": (1e-6, 1e-2)}
SPACE: dict[str, Any] = {
    "question": "What does a search cost beside its trainings?",
    "parameters": {key: {"float": list(ends), "log": True} for key, ends in RANGES.items()},
    "fixed": {"epochs": REPORTS, "evaluate_every": 1, "eval_periods": [1], "bounds_relative": True},
    "scheduler": {"name": "asha", "min_resource": 1, "reduction_factor": 4},
    "max_concurrent": CONCURRENT,
}


def gain(settings: dict[str, Any], epoch: int) -> float:
    """The learning curve of a configuration: it rises to its own limit."""
    away = sum(abs(math.log10(settings[key] / low) - 0.7) for key, (low, _) in RANGES.items())
    return (2 - 0.2 * away) * (1 - 0.6**epoch)


class StandIn(tune.Trainable):
    """Reports a learning curve, and trains nothing."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """One core."""
        return tune.PlacementGroupFactory([{"CPU": 1}])

    def setup(self, config: dict[str, Any], curves: None = None) -> None:
        """Take a trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial."""
        self._settings = new_config.get("settings", new_config)
        self._epoch = 0
        return True

    def step(self) -> dict[str, Any]:
        """One report."""
        self._epoch += 1
        scores = {"work_gain": gain(self._settings, self._epoch), "rel_dE": 1e-3}
        return {"epoch": self._epoch, "scores": scores, **scores, "done": self._epoch == REPORTS}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Nothing to load."""


def platform(trials: int, folder: Path) -> list[float]:
    """Run a search of so many trials; return when each ended, in seconds from the start."""
    space = Space.model_validate({**SPACE, "trials": trials})
    results = SearchFolder(folder / f"search-{trials}")
    results.create(space)
    study = open_study(space, results)
    storage = Storage.find(str(folder), f"tune-{trials}")
    driver = Driver(space.resources, CONCURRENT, storage, trainable=StandIn)
    began = time.time()
    with Progress("trial", trials, Console(file=io.StringIO())) as progress:
        driver.run_trials(study, results, progress, None)  # type: ignore[arg-type]  # nothing is scored
    ends = sorted(trial.datetime_complete.timestamp() - began for trial in study.trials if trial.datetime_complete)
    assert len(ends) == trials
    return [*ends[:-1], time.time() - began]


def plain_tune(trials: int, folder: Path) -> list[float]:
    """The same with `ray.tune` alone."""
    began, ends = time.time(), []

    class Ends(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ends.append(time.time() - began)

    search = OptunaSearch(
        {key: optuna.distributions.FloatDistribution(*ends, log=True) for key, ends in RANGES.items()},
        metric="work_gain",
        mode="max",
        sampler=optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, constant_liar=True),
    )
    scheduler = ASHAScheduler(
        time_attr="epoch", metric="work_gain", mode="max", max_t=REPORTS, grace_period=1, reduction_factor=4
    )
    tune.Tuner(
        StandIn,
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(search, CONCURRENT),
            scheduler=scheduler,
            num_samples=trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="plain", storage_path=str(folder / "plain"), verbose=0, callbacks=[Ends()]),
    ).fit()
    return [*sorted(ends)[:-1], time.time() - began]


def plain_optuna(trials: int, folder: Path) -> list[float]:
    """The same with Optuna alone, in this process."""
    study = optuna.create_study(
        direction="maximize",
        storage=JournalStorage(JournalFileBackend(str(folder / "optuna.journal"))),
        sampler=optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, constant_liar=True),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
    )
    began, ends = time.time(), []

    def objective(trial: optuna.Trial) -> float:
        settings = {key: trial.suggest_float(key, low, high, log=True) for key, (low, high) in RANGES.items()}
        for epoch in range(1, REPORTS + 1):
            trial.report(gain(settings, epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return gain(settings, REPORTS)

    study.optimize(objective, trials, callbacks=[lambda *_: ends.append(time.time() - began)])
    return ends


def row(name: str, trials: int, ends: list[float]) -> str:
    """A row of the table, in milliseconds a trial: all of them, and the last tenth."""
    tenth = max(trials // 10, 5)
    last = (ends[-2] - ends[-2 - tenth]) / tenth
    return f"| {name} | {trials} | {1e3 * ends[-1] / trials:.0f} | {1e3 * last:.0f} |"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Leave out what a search and its libraries print."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 and 30 trials instead of 100, 300 and 1000")
    options = parser.parse_args()
    sizes = (10, 30) if options.quick else (100, 300, 1000)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    print("| | trials | ms a trial | the last tenth |\n|---|---|---|---|", flush=True)
    runs: list[tuple[str, Callable[[int, Path], list[float]], int]] = [
        ("plain Optuna, one process", plain_optuna, sizes[0]),
        ("plain ray.tune and its OptunaSearch", plain_tune, sizes[0]),
        *(("python -m tune.search", platform, size) for size in sizes),
    ]
    costs = {}
    with tempfile.TemporaryDirectory() as folder, ray_session(None, dashboard=False):
        with silent():  # the first run of a Ray starts its workers
            platform(5, Path(folder))
        for name, run, trials in runs:
            with silent():
                ends = run(trials, Path(folder))
            costs[name, trials] = ends[-1] / trials
            print(row(name, trials, ends), flush=True)
    first, last = (costs["python -m tune.search", size] for size in (sizes[0], sizes[-1]))
    print(f"\nWith {sizes[-1]} trials a trial costs {last / first:.2f} times what it costs with {sizes[0]}.")


if __name__ == "__main__":
    main()
