"""Ray Tune's searcher: hands out the study's proposals."""

from collections import deque
from typing import Any

from ray.tune.search import Searcher

from tune.checkpoints import Unfinished
from tune.folder import SearchFolder
from tune.snapshot import NotInSnapshots
from tune.study import Proposal, SearchStudy
from tune.trainable import RESOURCES, SETTINGS


class StudySearcher(NotInSnapshots, Searcher):
    """Asks the study for trials. What they report goes to the study through :class:`tune.scheduler.StudyScheduler`.

    Those that an interrupted search has left come first, and go on from their last checkpoints. Raises ResultsError.
    """

    def __init__(
        self, study: SearchStudy, folder: SearchFolder, unfinished: Unfinished, resources: dict[str, float]
    ) -> None:
        super().__init__()
        self._study = study
        self._folder = folder
        self._states = unfinished
        self._resources = resources
        with folder.writing():
            self._unfinished = deque(study.unfinished())
        self._new = study.space.trials - len(study.records())

    @property
    def left(self) -> int:
        """The trials that are still to be handed out."""
        return len(self._unfinished) + (0 if self._study.over else self._new)

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a Tune trial, or FINISHED, or None after a failure."""
        if self._unfinished:
            with self._folder.remembering():
                return self._config(self._unfinished.popleft())
            return None
        if not self._new or self._study.over:
            return Searcher.FINISHED
        self._new -= 1
        with self._folder.remembering():
            return self._config(self._study.ask())
        return None

    def _config(self, proposal: Proposal) -> dict[str, Any]:
        return {
            "trial": proposal.number,
            RESOURCES: self._resources,
            SETTINGS: proposal.config.to_dict(),
            **self._states.of(proposal.number),
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler, which sees the trial itself, has told the study."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""
