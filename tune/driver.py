"""Run a study's trials, and the repeats of its best, under Ray Tune. Optuna decides, Ray executes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from core.scores import References
from tune.callback import SearchCallback
from tune.checkpoints import DropEnded, Unfinished
from tune.confirmation import Confirmation
from tune.ending import EndingCallback
from tune.folder import SearchFolder
from tune.packed.client import PackedTraining
from tune.packed.clients import clients_together
from tune.packed.packs import client_share, packed
from tune.population_scheduler import PopulationScheduler
from tune.progress import Progress
from tune.pruners import PopulationBased
from tune.repeats import RepeatCallback, RepeatSearcher
from tune.scheduler import StudyScheduler, number, repeat
from tune.searcher import StudySearcher
from tune.space import Resources
from tune.storage import Storage
from tune.study import SearchStudy
from tune.trainable import TimeStepTraining


@dataclass(frozen=True)
class Driver:
    """How trainings run: so many at a time. ``storage`` is for Ray's own files.

    Each has a process of its own, or with ``packs`` one of up to ``lanes`` lanes of so many pack actors; ``resources``
    are what such a process takes. A ``trainable`` in the place of the training serves tests and benchmarks.

    ``monitors`` watch trials and repeats; they are called after the study and the folder know what has happened.
    """

    resources: Resources
    concurrent: int
    storage: Storage
    packs: int = 0
    lanes: int = 1
    monitors: Sequence[tune.Callback] = ()
    trainable: type[tune.Trainable] = TimeStepTraining

    def run_trials(
        self, study: SearchStudy, folder: SearchFolder, progress: Progress, validation: References
    ) -> None:
        """Run trials until the study has as many as its space says or is over, until its time is, or until SIGINT.

        Raises ResultsError if something cannot be written.
        """
        states = Unfinished(folder, self.storage, progress.note)
        searcher = StudySearcher(study, folder, states, self._share)
        population = isinstance(study.space.scheduler, PopulationBased)
        if searcher.left:
            study.timed_out = self._run(
                "search",
                searcher.left,
                searcher,
                PopulationScheduler(study, folder, states) if population else StudyScheduler(study, folder),
                [SearchCallback(study, folder, progress), *self.monitors],
                progress,
                lambda: self.concurrent,
                study.space.time_budget,
                self.concurrent if not population else None,
                curves=validation,
            )

    def run_repeats(
        self,
        confirmation: Confirmation,
        folder: SearchFolder,
        progress: Progress,
        validation: References,
        test: References,
    ) -> None:
        """Run repeats until the confirmation is decided, or until SIGINT. Each trains all its epochs.

        Raises ResultsError if something cannot be written.
        """
        self._run(
            "confirmation",
            confirmation.most - confirmation.ended,
            RepeatSearcher(confirmation, folder, Unfinished(folder, self.storage, progress.note), self._share),
            FIFOScheduler(),  # type: ignore[no-untyped-call]
            [RepeatCallback(confirmation, folder, progress), *self.monitors],
            progress,
            lambda: min(self.repeats_at_once, len(confirmation.due())),
            None,
            self.repeats_at_once,
            curves=validation,
            test=test,
        )

    @property
    def repeats_at_once(self) -> int:
        """Repeats that run at a time: as many as there is room for, since no sampler is to learn from them."""
        return self.packs * self.lanes if self.packs else self.concurrent

    @property
    def _share(self) -> dict[str, float]:
        if self.packs:
            return client_share()
        gpu = {"GPU": self.resources.gpu} if self.resources.gpu else {}
        return {"CPU": self.resources.cpu, **gpu}

    def _run(
        self,
        name: str,
        samples: int,
        searcher: Searcher,
        scheduler: TrialScheduler,
        callbacks: list[tune.Callback],
        progress: Progress,
        together: Callable[[], int],
        seconds: float | None,
        most: int | None,
        **held_out: Any,
    ) -> bool:
        """Run Tune; return whether it was ended because so many seconds were over.

        ``most`` is how many trainings may have started and not ended; None lets all take turns.
        """
        with (
            self._trainings(searcher, together, min(most or samples, samples), held_out) as (trainable, searcher),
            EndingCallback(progress.note, seconds) as ending,
        ):
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=scheduler,
                    num_samples=samples,
                    max_concurrent_trials=most,
                    reuse_actors=not self.packs,  # a new worker costs a second or two, mostly torch
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name=name,
                    storage_path=self.storage.path,
                    storage_filesystem=self.storage.filesystem,
                    verbose=0,
                    callbacks=[*callbacks, DropEnded(), ending],
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_at_end=False),
                    # A worker that dies goes on from its last checkpoint; a training that fails says so itself.
                    failure_config=tune.FailureConfig(max_failures=2),
                ),
            )
            tuner.fit()
            return ending.timed_out

    @contextmanager
    def _trainings(
        self, searcher: Searcher, together: Callable[[], int], most: int, held_out: dict[str, Any]
    ) -> Iterator[tuple[type[tune.Trainable], Searcher]]:
        """Give Ray's trainable and the searcher that goes with it.

        ``together`` says how many run at a time, and ``most`` how many at most.
        """
        if not self.packs:
            yield _with(self.trainable, **held_out), searcher
            return
        with (
            packed(searcher, together, self.packs, self.lanes, self.resources, **held_out) as (given, searcher),
            clients_together(most),
        ):
            yield _with(PackedTraining, **given), searcher


def _with(trainable: type[tune.Trainable], **parameters: Any) -> type[tune.Trainable]:
    given: type[tune.Trainable] = tune.with_parameters(trainable, **parameters)
    given.__qualname__ = trainable.__qualname__  # Ray's dashboard would show `_Inner`
    return given


def _name(trial: Trial) -> str:
    return f"trial-{number(trial):05d}" + (f"-{repeat(trial)}" if repeat(trial) else "")
