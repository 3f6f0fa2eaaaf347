"""One trial as Ray Tune runs it: a training of one lane, from evaluation to evaluation."""

import time
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from core.checkpoint import load_state, save_model, save_state
from core.config import Config
from core.scores import References, evaluate
from core.trainer import Trainer, TrainingFailed
from tune.folder import MODEL_FILE, STATE_FILE

#: Keys of a result. Without scores it only shows that the trial is alive.
EPOCH, SCORES, TEST, FAILED = "epoch", "scores", "test", "failed"

#: Seconds after which a step reports that it is alive. Scores do not depend on it.
_SLICE = 1.0


class TimeStepTraining(tune.Trainable):
    """Trains one configuration. Actors are reused, so all of a trial's state is in ``_trainer``."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What a trial takes; asked for here, since `tune.with_resources` would hide the class's name."""
        return tune.PlacementGroupFactory([config["resources"]])

    def setup(
        self, config: dict[str, Any], curves: References | None = None, test: References | None = None
    ) -> None:
        """Prepare a worker. Ray may set up a spare one and never use it: the training starts with the first step.

        ``test``, where it is given, is what a trained model is scored on too.
        """
        assert curves is not None  # tune.with_parameters brings them
        self._curves, self._test = curves, test
        # Threads beyond the share would fight those of the trials beside: measured 15 times slower.
        torch.set_num_threads(max(1, int(config["resources"]["CPU"])))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the worker over for another trial."""
        self._settings = Config.from_mapping(new_config["settings"])
        self._trainer: Trainer | None = None
        self._scores: dict[str, float] = {}
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation, or for a slice of time."""
        if self._trainer is None:
            self._trainer = Trainer([self._settings])
        lane = self._trainer.lanes[0]
        until = time.monotonic() + _SLICE
        training: dict[str, Any] = {}
        try:
            while lane.epoch < self._settings.epochs:
                training = self._trainer.train_epoch().to_dict()
                if self._evaluation_is_due(lane.epoch):
                    break
                if time.monotonic() > until:
                    return {EPOCH: lane.epoch}
        except TrainingFailed as failure:
            return {EPOCH: lane.epoch, FAILED: str(failure), DONE: True}
        scores = evaluate(self._trainer.criterion(0), self._settings, self._curves)
        scores["convergence_rate"] = lane.converged_epochs / lane.epoch
        if training.get("rel_dE_train") is not None:
            scores["rel_dE_train"] = training["rel_dE_train"]
        self._scores = scores
        done = lane.epoch >= self._settings.epochs
        result = {EPOCH: lane.epoch, SCORES: scores, DONE: done, SHOULD_CHECKPOINT: True}
        if done and self._test is not None:
            result[TEST] = evaluate(self._trainer.criterion(0), self._settings, self._test)
        return result

    def _evaluation_is_due(self, epoch: int) -> bool:
        every = self._settings.evaluate_every
        return epoch == self._settings.epochs or (every > 0 and epoch % every == 0)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write our own files. (Ray would pickle what is returned.)"""
        assert self._trainer is not None
        save_model(Path(checkpoint_dir) / MODEL_FILE, self._trainer, metrics=self._scores)
        save_state(Path(checkpoint_dir) / STATE_FILE, self._trainer)

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from a checkpoint."""
        self._trainer = load_state(Path(checkpoint_dir) / STATE_FILE)

    def __repr__(self) -> str:
        """The trial's name, which Ray's dashboard shows beside the actor."""
        return str(self.trial_name)
