"""Ray Tune's scheduler for population-based training."""

from typing import Any

from ray import tune
from ray.train._internal.session import _TrainingResult
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from tune.checkpoints import STATE, Unfinished
from tune.folder import STATE_FILE, SearchFolder
from tune.population import Population
from tune.scheduler import StudyScheduler, number
from tune.study import SearchStudy
from tune.trainable import EPOCH, SETTINGS


class PopulationScheduler(StudyScheduler):
    """Every so many epochs a trial that is among the worst takes over the training of one of the best, changed.

    All trials of the population advance in turn, however few fit the machine: one that has run its epochs makes room.
    """

    def __init__(self, study: SearchStudy, folder: SearchFolder, states: Unfinished) -> None:
        super().__init__(study, folder)
        self._states = states
        self._population = Population(study)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Report scores, and then let the trial take over another's training, make room, or go on."""
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision != self.CONTINUE or not self._population.is_turn(number(trial), result[EPOCH]):
            return decision
        with self._folder.remembering():
            if checkpoint := self._taken_over(trial, result[EPOCH]):
                tune_controller.pause_trial(trial, should_checkpoint=False)
                # Where Tune looks when it starts the trial again; its own PBT writes there too.
                manager = trial.run_metadata.checkpoint_manager
                assert manager is not None
                manager._latest_checkpoint_result = _TrainingResult(checkpoint, dict(result))
                return self.NOOP
        return self.PAUSE if _waiting(tune_controller) else self.CONTINUE

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The one that has run the fewest epochs."""
        return min(_waiting(tune_controller), key=_epochs_and_number, default=None)

    def _taken_over(self, trial: Trial, epoch: int) -> tune.Checkpoint | None:
        """Give the trial another's state and changed settings, if it is to have them; return the state."""
        donor = self._population.donor(number(trial), epoch)
        if donor is None or not (self._folder.checkpoint(donor) / STATE_FILE).is_file():
            return None
        # First the state: a search that is killed here goes on with it, and with what the trial had.
        self._folder.keep_checkpoint(self._folder.checkpoint(donor), self._folder.checkpoint(number(trial)))
        settings = self._population.adopt(number(trial), donor, epoch)
        trial.set_config({**trial.config, SETTINGS: settings.to_dict()})  # type: ignore[no-untyped-call]
        return self._states.of(number(trial))[STATE]


def _waiting(tune_controller: TuneController) -> list[Trial]:
    trials: list[Trial] = tune_controller.get_trials()  # type: ignore[no-untyped-call]
    return [trial for trial in trials if trial.status in (Trial.PENDING, Trial.PAUSED)]


def _epochs_and_number(trial: Trial) -> tuple[int, int]:
    return (trial.last_result or {}).get(EPOCH, 0), number(trial)
