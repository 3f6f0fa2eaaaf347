"""Run a study's trials under Ray Tune. Optuna decides, Ray executes."""

from pathlib import Path

from ray import tune
from ray.tune.experiment import Trial

from core.scores import References
from tune.callback import SearchCallback
from tune.folder import SearchFolder
from tune.progress import Progress
from tune.scheduler import StudyScheduler, number
from tune.searcher import StudySearcher
from tune.study import SearchStudy
from tune.trainable import TimeStepTraining


def run_trials(
    study: SearchStudy,
    folder: SearchFolder,
    progress: Progress,
    curves: References,
    *,
    concurrent: int,
    storage: Path,
) -> None:
    """Run trials until the study has as many as its space says, or until SIGINT. ``storage`` is for Ray's own files.

    Raises ResultsError if something cannot be written.
    """
    share = study.space.resources
    trainable = tune.with_parameters(TimeStepTraining, curves=curves)
    trainable.__qualname__ = TimeStepTraining.__qualname__  # Ray's dashboard would show `_Inner`
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(study, folder, {"CPU": share.cpu} | ({"GPU": share.gpu} if share.gpu else {})),
            scheduler=StudyScheduler(study, folder),
            num_samples=study.space.trials,
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # a new worker costs a second or two, mostly torch
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(storage),
            verbose=0,
            callbacks=[SearchCallback(study, folder, progress)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_at_end=False),
            # A worker that dies goes on from its last checkpoint; a training that fails says so itself.
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    tuner.fit()


def _name(trial: Trial) -> str:
    return f"trial-{number(trial):05d}"
