"""Open the study of a search: to write it, or to read what a search has left."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from tune.folder import MODEL_FILE, SearchFolder
from tune.journal import damaged_line
from tune.space import Space, load_space
from tune.study import SearchStudy, TrialRecord


@dataclass(frozen=True)
class Best:
    """The model that a search exported, or would: its trial, its scores, and its file if it is there."""

    trial: int
    scores: dict[str, float]
    path: Path | None


def open_study(space: Space, folder: SearchFolder, *, reading: bool = False) -> SearchStudy:
    """Open a folder's study, or start it. Raises UserError if it is damaged, ResultsError if it cannot be written."""
    try:
        with folder.writing():
            return SearchStudy(space, folder.journal, folder.path.name, reading=reading)
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError):  # of the JSON reader, or of Optuna's
        number = damaged_line(folder.journal)
        if number is None:
            raise
        raise UserError(
            f"{folder.journal}: cannot be read, line {number} of it is damaged; delete that line, or restore the file "
            "from a copy."
        ) from None


def open_search(path: Path) -> tuple[SearchFolder, SearchStudy]:
    """Open a search for reading; it may be running. Raises UserError if the folder is none of a search, or damaged."""
    folder = SearchFolder.existing(path, "study.journal")
    return folder, open_study(load_space(path / "space.yaml"), folder, reading=True)


def best_model(folder: SearchFolder, ranked: list[TrialRecord]) -> Best | None:
    """What best/ holds: a confirmation may have put another trial there than the one that leads the table."""
    exported, metrics = folder.path / "best" / MODEL_FILE, read_json(folder.path / "best" / "metrics.json")
    numbers = {record.number: record for record in ranked}
    number = metrics.get("trial")
    if exported.is_file() and isinstance(number, int) and number in numbers:
        record = numbers[number]
        # After a confirmation the model is that of a repeat, with scores of its own.
        own = {key: metrics[key] for key in record.scores if isinstance(metrics.get(key), int | float)}
        return Best(record.number, record.scores | own, exported)
    if not ranked:
        return None
    kept = folder.checkpoint(ranked[0].number) / MODEL_FILE
    return Best(ranked[0].number, ranked[0].scores, kept if kept.is_file() else None)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that may not be there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, or search again.") from None
    return content if isinstance(content, dict) else {}
