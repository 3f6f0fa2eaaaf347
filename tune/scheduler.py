"""Ray Tune's scheduler: tells the study what trials report, and stops those that it wants stopped."""

from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from tune.folder import SearchFolder
from tune.snapshot import NotInSnapshots
from tune.study import SearchStudy
from tune.trainable import EPOCH, FAILED, MEMORY, RESOURCES, SCORES


class StudyScheduler(NotInSnapshots, FIFOScheduler):
    """The study's pruner decides about stopping; its resource is the reported epoch.

    Not Ray's `training_iteration`, which counts reports: those depend on the machine's speed.
    """

    def __init__(self, study: SearchStudy, folder: SearchFolder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._study = study
        self._folder = folder

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Report scores, and stop the trial if the study's pruner says so; no scores are a sign of life only.

        A trial that asks for more of a GPU's memory starts again from its last checkpoint with twice its share.
        """
        if MEMORY in result:
            double_gpu_share(tune_controller, trial)
            return self.NOOP
        if scores := _scores(result):
            with self._folder.remembering():
                self._study.report(number(trial), result[EPOCH], scores)
                if self._study.should_prune(number(trial)):
                    return self.STOP
        return self.CONTINUE

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """End the trial in the study, by its last result."""
        with self._folder.remembering():
            if FAILED in result:
                self._study.fail(number(trial), result[EPOCH], result[FAILED])
                return
            if scores := _scores(result):
                self._study.report(number(trial), result[EPOCH], scores)
            self._study.finish(number(trial), result[EPOCH])


def double_gpu_share(tune_controller: TuneController, trial: Trial) -> None:
    """Take a trial from its worker, and queue it with a larger share of the GPU: at most a whole one."""
    share = trial.config[RESOURCES]
    trial.config[RESOURCES] = {**share, "GPU": min(1.0, 2 * share["GPU"])}
    tune_controller.pause_trial(trial, should_checkpoint=False)
    trial.update_resources(tune.PlacementGroupFactory([trial.config[RESOURCES]]))


def number(trial: Trial) -> int:
    """The trial's number in the study."""
    return int(trial.config["trial"])


def repeat(trial: Trial) -> int:
    """Which repeat of that trial it is, from 1; 0 is the trial itself."""
    return int(trial.config.get("repeat", 0))


def _scores(result: dict[str, Any]) -> dict[str, float]:
    # Tune flattens a result before it hands it on.
    prefix = f"{SCORES}/"
    return {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}
