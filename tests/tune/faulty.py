"""Trainings with faults, as a driver meets them. What becomes of a trial depends on its number."""

import math
import resource
from pathlib import Path
from typing import Any

import torch

from tune.trainable import RESOURCES, SCORES, TimeStepTraining
from tune.training import Training

RAISES, IS_NAN, NEEDS_THE_WHOLE_GPU, NEEDS_TOO_MUCH = 1, 2, 3, 4


class FaultyTraining(TimeStepTraining):
    """Faults come after two epochs."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._number, self._share = new_config["trial"], new_config[RESOURCES]["GPU"]
        self._stepping = False
        return super().reset_config(new_config)

    def step(self) -> dict[str, Any]:
        self._stepping = True
        try:
            result = super().step()
        finally:
            self._stepping = False
        if self._number == IS_NAN:
            result[SCORES]["work_gain"] = math.nan
        return result

    def _started(self) -> Training:
        training = super()._started()
        if self._stepping and training.epoch >= 2:
            if self._number == RAISES:
                raise ValueError("this one always raises")
            if self._number == NEEDS_THE_WHOLE_GPU and self._share < 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nAnd so on.")
            if self._number == NEEDS_TOO_MUCH:
                allocate_too_much()
        return training


def allocate_too_much() -> None:
    """Ask torch for more than the system gives this process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, before[1]))
    try:
        torch.zeros(2**28)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
