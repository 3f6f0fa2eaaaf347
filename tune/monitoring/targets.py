"""The file that tells Prometheus where the metrics of a running search are (its `file_sd_configs`)."""

import json
import time
from contextlib import suppress
from pathlib import Path

import ray

#: Below the folder of results: a fixed place, so that one scrape file finds every search.
FOLDER = ".prometheus"
#: A file that nobody wrote for so long is of a search that was killed.
_STALE_SECONDS = 60.0
_REFRESH_SECONDS = 10.0


class Targets:
    """One file for one search, with the metrics ports of all nodes that train.

    Ray has such a file as well, but in a temporary folder of a new name each time, on the head node, and it lists ports
    that are closed.
    """

    def __init__(self, results: Path, search: str) -> None:
        self.file = results / FOLDER / f"{search}.json"
        self._search = search
        self._next = 0.0

    def write(self) -> None:
        """Write the file, if it was not just written."""
        now = time.time()
        if now < self._next:
            return
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        ports = {node["NodeManagerAddress"]: node["MetricsExportPort"] for node in nodes}
        addresses = [f"{address}:{port}" for address, port in ports.items() if port]
        if len(addresses) == len(ports):  # a node that has just started has no port yet
            self._next = now + _REFRESH_SECONDS
        self.file.parent.mkdir(parents=True, exist_ok=True)
        for file in self.file.parent.glob("*.json"):
            with suppress(OSError):
                if now - file.stat().st_mtime > _STALE_SECONDS:
                    file.unlink()
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps([{"labels": {"job": "aitimestepper"}, "targets": addresses}]), encoding="utf-8")
        part.replace(self.file)

    def remove(self) -> None:
        """Remove the file, and its folder if it was the last."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
            self.file.parent.rmdir()
