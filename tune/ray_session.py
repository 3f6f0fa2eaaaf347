"""The Ray that a search runs on: a private one on this machine, or a running cluster that it joins.

`prepare_environment` must run before Ray is imported anywhere, which is why this module imports it late.
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from core.interrupts import ENDING
from tune.cluster import join
from tune.ray_token import guard_token, make_token

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own progress output and loggers: ours is one view, one table.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Otherwise Ray warns that it will one day hide GPUs from workers that ask for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # What becomes of a trial whose worker died is a line of ours; Ray prints a paragraph.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed|has been marked dead|killed due to memory pressure",
}
_PRIVATE = {
    "RAY_AUTH_MODE": "token",
    # Ray's switch for macOS and Windows. All its ports then listen on 127.0.0.1, elsewhere on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's metrics endpoints need no token. Those of the dashboard and of the autoscaler, which has nothing to scale
    # here, stay closed in any case.
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
}
#: Ray's sockets lie about 65 characters below its folder, and the system allows 107 (103 on macOS) in all.
_LONGEST_ROOT = 22
#: Only the reference curves and models go through Ray's object store.
_OBJECT_STORE_BYTES = 128 * 2**20
#: Values are read every second, and those that are not set any more are gone after a few.
_METRICS = {"metrics_report_interval_ms": 2000}
#: The start of the names of our temporary folders, and the file in each that its process holds a lock on.
_PREFIX, _LOCK = "tune-", "lock"
#: Shares such as 1/3 are not exact.
_ROUNDING = 1e-9
#: Packed trials take one of these each: they hold no core of their own.
_LANES = 100_000


@dataclass(frozen=True)
class Node:
    """What a machine has for trials."""

    cpus: float
    gpus: float

    def slots(self, cpu: float, gpu: float) -> int:
        """How many trials with such shares fit at a time. A share of a GPU is of one, not of several."""
        slots = int(self.cpus / cpu + _ROUNDING)
        if gpu > 1:
            slots = min(slots, int(self.gpus / gpu))
        elif gpu:
            slots = min(slots, int(self.gpus) * int(1 / gpu + _ROUNDING))
        return slots

    def __str__(self) -> str:
        """As it is shown: "2 CPUs, 0 GPUs"."""
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs"


@dataclass(frozen=True)
class RaySession:
    """A running Ray. ``folder`` is for files of this search on this machine; it goes with the session."""

    nodes: tuple[Node, ...]
    dashboard: str | None
    folder: Path


def prepare_environment(address: str | None) -> None:
    """Set what Ray reads when it is imported. ``address`` is that of the cluster to join, or None."""
    os.environ.update(_ENVIRONMENT)
    if address is None:
        os.environ.update(_PRIVATE)
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def ray_session(
    address: str | None, *, dashboard: bool, metrics: bool = False, verbose: bool = False
) -> Iterator[RaySession]:
    """Join the cluster at ``address``, or start Ray on this machine alone, whatever RAY_ADDRESS says.

    ``metrics`` opens the port that Prometheus reads, ``verbose`` shows what Ray and its workers say. At the end a
    private Ray is stopped and its files are removed; of a cluster only this search's share is given back.

    Raises UserError if there is no cluster to join.
    """
    import ray

    root = tempfile.gettempdir()
    if not verbose:
        _silence_raylets()
    _set_apart()
    before = {number: signal.getsignal(number) for number in ENDING}
    environment, temporary = os.environ.copy(), tempfile.tempdir
    with _private_folder(Path(root if len(root) <= _LONGEST_ROOT else "/tmp")) as folder:
        try:
            # Ray's start has to be whole before it can be ended: half of it would leave processes behind.
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            held = _hold(before)  # of those that come by way of another thread
            try:
                tempfile.tempdir = str(folder)  # what libraries drop goes with the rest
                context = join(address, verbose) if address else _start(folder, dashboard, metrics, verbose)
                # Tune ends a run in good order on SIGINT only.
                for number, handler in before.items():
                    if handler != signal.SIG_IGN:  # of nohup, or of a job in the background
                        signal.signal(number, _interrupt)
                signal.signal(signal.SIGINT, before[signal.SIGINT])
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            for late in held:
                os.kill(os.getpid(), late)
            url = f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None
            yield RaySession(_nodes(), url, folder)
        finally:
            ray.shutdown()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.environ.clear()
            os.environ.update(environment)
            tempfile.tempdir = temporary


def _hold(handlers: Mapping[signal.Signals, Any]) -> list[int]:
    """Note signals instead of acting on them, but those that are ignored; return the list that they come into."""
    import ray._private.utils as utils

    held: list[int] = []
    # Ray's own, which exits at once, would take the place of ours half-way through its start.
    utils.set_sigterm_handler = lambda _: None  # type: ignore[assignment]
    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, _: held.append(number))
    return held


def _interrupt(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _set_apart() -> None:
    """Start Ray's servers in process groups of their own, where no signal to ours ends them under the search.

    A terminal sends Ctrl-C to the whole group, and so does `timeout`. (Linux ends them with the search whatever
    happens to it; elsewhere Ray ends its group.)
    """
    import ray._private.services as services

    def start(command: list[str], *, preexec_fn: Callable[[], None], **options: Any) -> "subprocess.Popen[bytes]":
        def prepare() -> None:
            # By this one the search ends them. The others stay held back: SLURM sends them to all processes of a step.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            preexec_fn()

        options |= {"preexec_fn": prepare, "process_group": 0}
        return subprocess.Popen(command, **options)

    if sys.platform == "linux":
        services.ConsolePopen = start  # type: ignore[misc,assignment]


def _silence_raylets() -> None:
    """Keep Ray from printing what its raylets warn of, such as the number of processes: no setting of its own does."""
    import ray._private.worker as worker

    worker.print_to_stdstream = lambda *_, **__: None


def _start(folder: Path, dashboard: bool, metrics: bool, verbose: bool) -> Any:
    import ray

    make_token()
    guard_token()
    os.environ["TMPDIR"] = str(folder)  # in the workers, too
    with _few_servers(dashboard, verbose):
        return ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            logging_level=logging.INFO if verbose else logging.CRITICAL,
            log_to_driver=verbose,
            object_store_memory=_OBJECT_STORE_BYTES,
            resources={"lane": _LANES},
            _temp_dir=str(folder / "r"),  # Ray opens its folder to everyone: it stays inside ours, which is private
            _system_config={"enable_metrics_collection": metrics, **(_METRICS if metrics else {})},
        )


@contextmanager
def _few_servers(dashboard: bool, verbose: bool) -> Iterator[None]:
    """Leave out Ray's servers that have nothing to do here: each is a Python of its own, which takes time to start.

    They are the one that would scale a cluster, the one that copies what workers print to the driver, and the
    dashboard's, which Ray starts without a dashboard, too.
    """
    import ray._private.parameter as parameter
    import ray._private.services as services

    before = parameter.RayParams, services.start_api_server
    few: Any = partial(before[0], no_monitor=True, include_log_monitor=verbose)  # type: ignore[arg-type]
    parameter.RayParams = few  # type: ignore[misc]
    if not dashboard:
        services.start_api_server = _no_dashboard  # type: ignore[assignment]
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = before  # type: ignore[misc]


def _no_dashboard(
    _include: bool, _raise: bool, _host: str, gcs_address: str, cluster_id: str, *_: Any, **__: Any
) -> tuple[None, None]:
    """Start no server, but say what Ray's agents would otherwise ask for every second."""
    import ray._private.ray_constants as constants
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    address, space = constants.DASHBOARD_ADDRESS.encode(), constants.KV_NAMESPACE_DASHBOARD
    GcsClient(address=gcs_address, cluster_id=cluster_id).internal_kv_put(address, b"127.0.0.1:0", True, space)
    return None, None


@contextmanager
def _private_folder(root: Path) -> Iterator[Path]:
    """Make a temporary folder, and remove it at the end; those of processes that were killed are removed now."""
    for lock in root.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    part = folder / f"{_LOCK}.part"
    with part.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        part.rename(folder / _LOCK)
        try:
            yield folder
        finally:
            _remove(folder)


def _nodes() -> tuple[Node, ...]:
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return tuple(Node(resources.get("CPU", 0), resources.get("GPU", 0)) for resources in alive)


def _remove(folder: Path) -> None:
    for _ in range(20):  # a process of Ray's that is still ending may write once more
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    print(f"Ray's temporary folder {folder} could not be removed.", file=sys.stderr)
