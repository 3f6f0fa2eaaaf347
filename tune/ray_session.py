"""A private Ray on this machine: quiet, guarded by a token, gone without a trace at the end.

`prepare_environment` must run before Ray is imported anywhere, which is why this module imports it late.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own progress output and loggers: ours is one view, one table.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ray's metrics endpoints need no token and listen on all interfaces. Those of the dashboard and of the autoscaler,
    # which has nothing to scale here, stay closed in any case.
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
    # Otherwise Ray warns that it will one day hide GPUs from workers that ask for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: Ray's sockets lie about 65 characters below its folder, and the system allows 107 (103 on macOS) in all.
_LONGEST_ROOT = 24
#: Only the reference curves and models go through Ray's object store.
_OBJECT_STORE_BYTES = 128 * 2**20
#: Values are read every second, and those that are not set any more are gone after a few.
_METRICS = {"metrics_report_interval_ms": 2000}
#: What ends a search from outside: `kill`, SLURM before its time limit, and a terminal that is closed.
_ENDING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@dataclass(frozen=True)
class RaySession:
    """A running Ray."""

    cpus: float
    gpus: float
    dashboard: str | None
    storage: Path


def prepare_environment() -> None:
    """Set what Ray reads when it is imported."""
    os.environ.update(_ENVIRONMENT)


@contextmanager
def ray_session(*, dashboard: bool, metrics: bool = False, verbose: bool = False) -> Iterator[RaySession]:
    """Start Ray on this machine alone, whatever RAY_ADDRESS says, and stop it and remove its files at the end.

    ``metrics`` opens the port that Prometheus reads, ``verbose`` shows what Ray and its workers say.
    """
    import ray

    root = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="tune-", dir=root if len(root) <= _LONGEST_ROOT else "/tmp"))
    _guard_token()
    before = {number: signal.getsignal(number) for number in _ENDING}
    environment = os.environ.copy()
    os.environ["TMPDIR"] = str(folder)  # what libraries drop in the workers goes with the rest
    try:
        context = ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            logging_level=logging.INFO if verbose else logging.CRITICAL,
            log_to_driver=verbose,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            _system_config={"enable_metrics_collection": metrics, **(_METRICS if metrics else {})},
        )
        _guard_token()
        # Tune ends a run in good order on SIGINT only. (Ray has just set a handler that exits at once.)
        for number, handler in before.items():
            if number != signal.SIGHUP or handler != signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        url = f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None
        yield RaySession(resources.get("CPU", 0), resources.get("GPU", 0), url, folder / "tune")
    finally:
        ray.shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
        _remove(folder)


def _guard_token() -> None:
    """Make Ray's token readable by its owner alone: Ray writes it for all to read."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)


def _remove(folder: Path) -> None:
    for _ in range(20):  # a process of Ray's that is still ending may write once more
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    print(f"Ray's temporary folder {folder} could not be removed.", file=sys.stderr)
