"""Two cores run two tests: one thread for each, and for the programs that they start."""

import os
import signal
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
# Ray's workers would let every other test go first.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

torch.set_num_threads(1)
# A run under nohup or in the background ignores these, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


#: Files whose tests look at one run that is slow to make: they stay together, and come first.
SHARED = tuple(f"tests/tune/test_{name}.py" for name in ("search", "resume", "report", "monitoring", "cluster"))
#: Where searches are run, on a Ray of their own each.
SEARCHES = ("tests/tune/", "tests/deploy/")


class FromBothEnds(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out single tests: to one process those of searches first, to the others those of searches last.

    A search waits a good deal, and what is beside it uses the time, unless it is another search. They meet where the
    last tests are short.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in SHARED else nodeid

    def _assign_work_unit(self, node: Any) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FromBothEnds:
    return FromBothEnds(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of searches come first. (Groups of tests come before single ones in any case.)"""
    items.sort(key=lambda item: not item.nodeid.startswith(SEARCHES))
