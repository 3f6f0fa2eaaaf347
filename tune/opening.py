"""Open the study of a search: to write it, or to read what a search has left."""

from pathlib import Path

from core.errors import UserError
from tune.folder import SearchFolder
from tune.space import Space, load_space
from tune.study import SearchStudy


def open_study(space: Space, folder: SearchFolder, *, reading: bool = False) -> SearchStudy:
    """Open a folder's study, or start it. Raises UserError if it is damaged, ResultsError if it cannot be written."""
    try:
        with folder.writing():
            return SearchStudy(space, folder.journal, folder.path.name, reading=reading)
    except UserError:
        raise
    except ValueError:  # of the JSON reader, or of Optuna's
        raise UserError(f"{folder.journal}: cannot be read, a line of it is damaged.") from None


def open_search(path: Path) -> tuple[SearchFolder, SearchStudy]:
    """Open a search for reading; it may be running. Raises UserError if the folder is none of a search, or damaged."""
    folder = SearchFolder.existing(path, "study.journal")
    return folder, open_study(load_space(path / "space.yaml"), folder, reading=True)
