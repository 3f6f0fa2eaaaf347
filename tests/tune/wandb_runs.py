"""Runs that Weights & Biases kept on disk: records of its own protocol, in LevelDB's log format."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

#: A file begins with seven bytes of its own; a record's head is a checksum, a length and a type.
_FILE_HEAD, _HEAD, _BLOCK = 7, 7, 32768
_FULL, _LAST = 1, 4


@dataclass
class OfflineRun:
    name: str = ""
    group: str = ""
    project: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def read_runs(results: Path) -> list[OfflineRun]:
    """Every run below a results folder."""
    return [read_run(file) for file in sorted(results.glob("wandb/offline-run-*/run-*.wandb"))]


def read_run(file: Path) -> OfflineRun:
    run = OfflineRun()
    for content in records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.HasField("run"):
            run.name, run.group = record.run.display_name, record.run.run_group
            run.project, run.job_type = record.run.project, record.run.job_type
            run.config |= entries(record.run.config.update)
        elif record.HasField("config"):
            run.config |= entries(record.config.update)
        elif record.HasField("summary"):
            run.summary |= entries(record.summary.update)
        elif record.HasField("history"):
            run.history.append(entries(record.history.item))
            run.summary |= run.history[-1]
        elif record.HasField("exit"):
            run.exit_code = record.exit.exit_code
    return run


def entries(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def records(content: bytes) -> Iterator[bytes]:
    assert content.startswith(b":W&B")
    position, parts = _FILE_HEAD, b""
    while position + _HEAD <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _HEAD:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts += content[position + _HEAD : position + _HEAD + length]
        position += _HEAD + length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""
