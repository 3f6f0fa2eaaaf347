"""Two cores run two tests: one thread for each, and for the programs that they start."""

import os
import signal
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

torch.set_num_threads(1)
# A run under nohup or in the background ignores these, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


#: Files of the search's tests that start no Ray.
NO_RAY = "objectives search_quality space space_conditions space_limits study tensorboard wandb".split()


class SearchInOneProcess(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out single tests, but those of the search together: two Ray clusters at a time would starve each other.

    (The groups of pytest-xdist 3.8 would say this with a marker, but pytest 9.2 does not let it set them.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        is_of_search = file.startswith(("tests/tune/", "tests/deploy/"))
        starts_ray = is_of_search and Path(file).stem.removeprefix("test_") not in NO_RAY
        return "search" if starts_ray else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SearchInOneProcess:
    return SearchInOneProcess(config, log)
