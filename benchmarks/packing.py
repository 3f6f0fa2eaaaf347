"""Trials per hour with a process for each trial, in packs, and in plain Optuna: ``python benchmarks/packing.py``.

The same trials (settings, seeds, epochs) are trained by (a) Ray Tune with a process for each (`trainer: solo`), (b)
Ray Tune with packs (`trainer: packed`) and (c) plain Optuna, one after the other in one process with one thread. Each
arm starts anew, Ray included; (a) runs before (b) and again after it, for a machine is not equally fast at all times,
and ratios are to the mean of the two. The steady state is counted in epochs: from when as many trials as run at a time
have reported, to the first end of a trial that no other one follows. ``--solo-trials`` lets (a) and (c), which are at
their steady state from the first minute on, run the first few trials only.

Behind these tables comes how a tick scales with the number of lanes, beside its floor (benchmarks/lanes.py).

With ``--gpu`` four solo trials share a GPU, and one pack has all of it.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console

from core.scores import References, references
from tune.folder import SearchFolder
from tune.progress import Progress
from tune.ray_session import prepare_environment, ray_session
from tune.search import fit_to_machine
from tune.space import Resources, Space, load_space
from tune.storage import Storage
from tune.study import SearchStudy, TrialRecord
from tune.training import Training

SPACE = """\
question: How many trials fit into an hour?
parameters:
  energy_threshold: {float: [1.0e-3, 3.0e-3], log: true}
  lr: {float: [1.0e-3, 3.0e-3], log: true}
fixed: {hidden_dims: [64, 64], n_steps: 1, dropout: 0.0, dt_scale: pair, normalize_inputs: true, bounds_relative: true,
        weight_decay: 0.0, feature_type: basic, num_orbits: 8, stop_at_period: true, steps_per_epoch: 16,
        replay_steps: 60, replay_batch_size: 32, epochs: 600, eval_periods: [10]}
trials: 64
sampler: {name: random}
scheduler: none
"""


#: Titles of Ray's processes: what trains alone, all clients of packs, and a pack.
KINDS = ("TimeStepTraining", "Clients", "PackActor")


@dataclass
class Arm:
    """What one arm did. Times are seconds after its start; ``epochs`` holds (time, trial, epoch) of every report."""

    name: str
    concurrent: int
    epochs_each: int
    epochs: list[tuple[float, int, int]] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    records: list[TrialRecord] = field(default_factory=list)
    megabytes: dict[str, float] = field(default_factory=dict)
    utilisation: list[float] = field(default_factory=list)

    @property
    def steady(self) -> float:
        """Trials per hour in the steady state; NaN where trials were too few or too short for one."""
        first: dict[int, float] = {}
        for moment, trial, _ in self.epochs:
            first.setdefault(trial, moment)
        start = sorted(first.values())[self.concurrent - 1]
        end = self.ended[len(self.ended) - self.concurrent]
        done = self._done(end) - self._done(start)
        return 3600 * done / (end - start) / self.epochs_each if done > 0 else float("nan")

    @property
    def overall(self) -> float:
        """Trials per hour from the start of the command."""
        return 3600 * len(self.ended) / self.ended[-1]

    def _done(self, until: float) -> int:
        return sum({trial: epoch for moment, trial, epoch in self.epochs if moment <= until}.values())


def through_ray(space: Space, against: References, name: str) -> Arm:
    """Run a space's trials as a search does."""
    started = time.monotonic()
    prepare_environment(None)
    with ray_session(None, dashboard=False) as session, tempfile.TemporaryDirectory() as place:
        from ray import tune

        from tune.driver import Driver
        from tune.snapshot import NotInSnapshots
        from tune.trainable import EPOCH

        fitted, concurrent, packs = fit_to_machine(space, session)
        arm = Arm(name, concurrent, space.epochs)

        class Watch(NotInSnapshots, tune.Callback):
            def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **_: Any) -> None:
                arm.epochs.append((time.monotonic() - started, trial.config["trial"], result[EPOCH]))

            def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
                arm.ended.append(time.monotonic() - started)
                arm.megabytes = arm.megabytes or memory()  # replay buffers are as full as they get

        folder = SearchFolder(Path(place) / "search")
        folder.create(fitted)
        study = SearchStudy(fitted, folder.journal, name)
        storage = Storage.find(place, "tune")
        driver = Driver(fitted.resources, concurrent, storage, packs, fitted.lanes or 1, [Watch()])
        quiet = Progress("trial", space.trials, Console(file=io.StringIO()))
        with redirect_stdout(sys.stderr), quiet as progress, gpu_watched(arm):
            driver.run_trials(study, folder, progress, against)
        arm.records = study.records()
        arm.scores = {record.number: record.scores for record in arm.records}
    return arm


def plain_optuna(records: Sequence[TrialRecord], space: Space, against: References) -> Arm:
    """Train the same trials one after the other, in this process."""
    arm, started = Arm("plain Optuna, sequential", 1, space.epochs), time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler())

    def objective(trial: optuna.Trial) -> float:
        record = records[trial.number]
        drawn = {key: trial.suggest_float(key, *space.parameters[key].domain, log=True) for key in record.parameters}
        training = Training(space.config(drawn, record.seed), against)
        while True:
            stretch = training.advance(1.0)
            arm.epochs.append((time.monotonic() - started, trial.number, stretch.epoch))
            if stretch.done:
                arm.scores[trial.number] = stretch.scores
                arm.ended.append(time.monotonic() - started)
                return stretch.scores["work_gain"]

    for record in records:
        study.enqueue_trial(record.parameters)
    study.optimize(objective, n_trials=len(records))
    return arm


def memory() -> dict[str, float]:
    """USS in MiB of the mean process of each kind below this one; empty where /proc tells nothing."""
    parents, kinds = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            title = (folder / "cmdline").read_text()
        except (OSError, IndexError):
            continue
        kinds[int(folder.name)] = next((kind for kind in KINDS if f"ray::{kind}" in title), "")
    sizes: dict[str, list[float]] = {}
    for pid, kind in kinds.items():
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if kind and above == os.getpid():
            rows = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
            own = sum(int(row.split()[1]) for row in rows if row.startswith("Private_"))
            sizes.setdefault(kind, []).append(own / 1024)
    return {kind: sum(values) / len(values) for kind, values in sizes.items()}


@contextmanager
def gpu_watched(arm: Arm) -> Iterator[None]:
    """Ask for the GPU's utilisation every second, where there is one that tells."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            try:
                answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            except (OSError, subprocess.CalledProcessError):
                return
            arm.utilisation += [float(row) for row in answer.split() if row.isdecimal()]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(space: Space, rows: int, solo_trials: int, together: int, *, sequential: bool) -> list[Arm]:
    """Run the arms at one size of the minibatch, and print a table."""
    space = space.changed(fixed={**space.fixed, "replay_batch_size": rows})
    against = references(space.example())
    share = space.resources
    alone = Resources(cpu=1, gpu=0.25) if share.gpu else share
    one_each = space.changed(trainer="solo", trials=solo_trials, resources=alone)
    packs = space.changed(trainer="packed", lanes=together, max_concurrent=together)
    solo = through_ray(one_each, against, "solo, before")
    arms = [solo, through_ray(packs, against, "packed"), through_ray(one_each, against, "solo, after")]
    steady, overall = (solo.steady + arms[-1].steady) / 2, (solo.overall + arms[-1].overall) / 2
    if sequential:
        arms.append(plain_optuna(solo.records, space, against))
    print(f"\n{rows} replay rows, {space.epochs} epochs, {together} packed trials at a time\n")
    print("| arm | trials | at a time | steady, per hour | from the start, per hour | steady ratio | from the start |")
    print("|---|---|---|---|---|---|---|")
    for arm in arms:
        ratios = f"{arm.steady / steady:.2f} | {arm.overall / overall:.2f}"
        print(f"| {arm.name} | {len(arm.ended)} | {arm.concurrent} | {arm.steady:.0f} | {arm.overall:.0f} | {ratios} |")
        if arm.utilisation:
            print(f"{arm.name}: GPU utilisation {sum(arm.utilisation) / len(arm.utilisation):.0f} %")
    same = [all(arm.scores[trial] == solo.scores[trial] for trial in solo.scores) for arm in arms]
    print(f"\nscores of trials 0 to {solo_trials - 1} are the same in all arms: {'yes' if all(same) else 'NO'}")
    return arms


def print_memory(solo: Arm, packed: Arm, packs: int) -> None:
    """Say what one more trial takes. A solo worker is about a pack of one lane."""
    if not (solo.megabytes and packed.megabytes):
        return
    worker, clients, pack = solo.megabytes[KINDS[0]], packed.megabytes[KINDS[1]], packed.megabytes[KINDS[2]]
    lane, client = (pack - worker) / max(packed.concurrent / packs - 1, 1), clients / packed.concurrent
    print(
        f"\nmemory of its own: a solo trial {worker:.0f} MiB; a packed one {client + lane:.1f} MiB "
        f"(its lane {lane:.1f} of a pack's {pack:.0f}, its client {client:.1f} of the {clients:.0f} that all take)"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=64, help="packed trials (default 64)")
    parser.add_argument("--solo-trials", type=int, help="solo and plain trials, if fewer (default: as many)")
    parser.add_argument("--epochs", type=int, default=600, help="epochs of a trial (default 600: about 30 s solo)")
    parser.add_argument("--together", type=int, default=64, help="packed trials at a time (default 64)")
    parser.add_argument("--dtype", choices=["float64", "mixed", "float32"], default="float64", help="of all trials")
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 128, 512], help="replay rows (default 32 128 512)")
    parser.add_argument("--default-network", action="store_true", help="the default network instead of 64-64")
    parser.add_argument("--gpu", action="store_true", help="share a GPU")
    parser.add_argument("--quick", action="store_true", help="a few short trials, to see that it works")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "packing.yaml"
        file.write_text(SPACE, encoding="utf-8")
        space = load_space(file)
    device = "cuda" if options.gpu else "cpu"
    fixed = {**space.fixed, "epochs": options.epochs, "dtype": options.dtype, "device": device}
    if options.default_network:
        del fixed["hidden_dims"]
    if options.quick:
        options.trials, options.solo_trials, options.together, options.rows = 4, 2, 2, options.rows[:1]
        fixed |= {"epochs": 4, "eval_periods": [1]}
    space = space.changed(
        trials=options.trials, fixed=fixed, resources=Resources(cpu=1, gpu=1.0 if options.gpu else 0.0)
    )
    torch.set_num_threads(1)
    solo_trials = min(options.solo_trials or options.trials, options.trials)
    for number, rows in enumerate(options.rows):
        solo, packed, *_ = measure(space, rows, solo_trials, options.together, sequential=number == 0)
        if number == 0:
            print_memory(solo, packed, min(packed.concurrent, os.cpu_count() or 1) if not options.gpu else 1)
    print("\nThe trainer alone, and its floor\n", flush=True)
    lanes = [sys.executable, str(Path(__file__).with_name("lanes.py")), "--device", device, "--dtype", options.dtype]
    rows = [] if options.quick else ["--repeats", "100", "--rows", *map(str, options.rows)]
    subprocess.run([*lanes, *(rows or ["--quick"])], check=True)


if __name__ == "__main__":
    main()
