"""Ray Tune's searcher: hands out the study's proposals."""

from typing import Any

from ray.tune.search import Searcher

from tune.folder import SearchFolder
from tune.snapshot import NotInSnapshots
from tune.study import SearchStudy


class StudySearcher(NotInSnapshots, Searcher):
    """Asks the study for trials. What they report goes to the study through :class:`tune.scheduler.StudyScheduler`."""

    def __init__(self, study: SearchStudy, folder: SearchFolder, resources: dict[str, float]) -> None:
        super().__init__()
        self._study = study
        self._folder = folder
        self._resources = resources
        self._left = study.space.trials

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a Tune trial, or FINISHED, or None after a failure."""
        if not self._left:
            return Searcher.FINISHED
        self._left -= 1
        with self._folder.remembering():
            proposal = self._study.ask()
            return {"trial": proposal.number, "resources": self._resources, "settings": proposal.config.to_dict()}
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler, which sees the trial itself, has told the study."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""
