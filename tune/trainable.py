"""One trial as Ray Tune runs it: a training of one lane, from evaluation to evaluation."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from core.config import Config
from core.scores import References
from tune.checkpoints import STATE, files_of
from tune.folder import STATE_FILE
from tune.training import Training

#: Keys of a result. Without scores it only shows that the trial is alive; MEMORY asks for a larger share of the GPU.
EPOCH, SCORES, TEST, FAILED, MEMORY = "epoch", "scores", "test", "failed", "memory"
#: Keys of a trial's config: what it takes, and its settings. STATE is the checkpoint that it goes on from, if any.
RESOURCES, SETTINGS = "resources", "settings"

#: Seconds after which a step reports that it is alive, and after which it saves what it has trained. Scores depend on
#: neither.
SLICE, UNSAVED = 1.0, 30.0


class TimeStepTraining(tune.Trainable):
    """Trains one configuration. Actors are reused, so all of a trial's state is in ``_training``."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What a trial takes; asked for here, since `tune.with_resources` would hide the class's name."""
        return tune.PlacementGroupFactory([config[RESOURCES]])

    def setup(
        self, config: dict[str, Any], curves: References | None = None, test: References | None = None
    ) -> None:
        """Prepare a worker. Ray may set up a spare one and never use it: the training starts with the first step.

        With a ``test`` set trials are repeats.
        """
        assert curves is not None  # tune.with_parameters brings them
        self._curves, self._test = curves, test
        # Threads beyond the share would fight those of the trials beside: measured 15 times slower.
        torch.set_num_threads(max(1, int(config[RESOURCES]["CPU"])))
        if (gpu := _gpu_share(config)) and torch.cuda.is_available():
            # To Ray a share is bookkeeping; without a limit a greedy trial would take the memory of those beside it.
            torch.cuda.set_per_process_memory_fraction(min(gpu, 1.0))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the worker over for another trial."""
        self._settings = Config.from_mapping(new_config[SETTINGS])
        self._from: tune.Checkpoint | None = new_config.get(STATE)
        self._gpu = _gpu_share(new_config)
        self._training: Training | None = None
        self._saved = time.monotonic()
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation, or for a slice of time."""
        try:
            stretch = self._started().advance(SLICE)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return self._out_of_memory(error)
        result: dict[str, Any] = {EPOCH: stretch.epoch, DONE: stretch.done}
        if stretch.failed:
            return {**result, FAILED: stretch.failed}
        if stretch.scores:
            result |= {SCORES: stretch.scores, SHOULD_CHECKPOINT: True}
        if stretch.test:
            result[TEST] = stretch.test
        if time.monotonic() - self._saved > UNSAVED:
            result[SHOULD_CHECKPOINT] = True
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write our own files. (Ray would pickle what is returned.)"""
        self._started().save(Path(checkpoint_dir))
        self._saved = time.monotonic()

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from a checkpoint of this run."""
        self._training = Training(self._settings, self._curves, self._test, Path(checkpoint_dir) / STATE_FILE)

    def _started(self) -> Training:
        if self._training is None:
            with files_of(self._from) if self._from else nullcontext() as folder:
                state = folder / STATE_FILE if folder else None
                self._training = Training(self._settings, self._curves, self._test, state)
        return self._training

    def _out_of_memory(self, error: Exception) -> dict[str, Any]:
        """Fail alone, or ask for a larger share of the GPU where there is one. What was trained is let go."""
        epoch, self._training = self._training.epoch if self._training else 0, None
        reason = reason_of(error)
        if 0 < self._gpu < 1:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return {EPOCH: epoch, MEMORY: reason, DONE: False}
        return {EPOCH: epoch, FAILED: reason, DONE: True}

    def __repr__(self) -> str:
        """The trial's name, which Ray's dashboard shows beside the actor."""
        return str(self.trial_name)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a training ran out of memory: torch's allocator on a CPU raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def reason_of(error: Exception) -> str:
    """Return what is said of a training that ran out of memory."""
    return f"out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__})"


def _gpu_share(config: dict[str, Any]) -> float:
    return float(config[RESOURCES].get("GPU", 0))
