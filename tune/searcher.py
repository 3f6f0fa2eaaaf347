"""Ray Tune's searcher: hands out the study's proposals."""

from collections import deque
from typing import Any

from ray.tune.search import Searcher

from tune.folder import SearchFolder
from tune.progress import Progress
from tune.snapshot import NotInSnapshots
from tune.storage import Storage
from tune.study import Proposal, SearchStudy
from tune.trainable import RESOURCES, SETTINGS, STATE


class StudySearcher(NotInSnapshots, Searcher):
    """Asks the study for trials. What they report goes to the study through :class:`tune.scheduler.StudyScheduler`.

    Those that an interrupted search has left come first, and go on from their last checkpoints. Raises ResultsError.
    """

    def __init__(
        self,
        study: SearchStudy,
        folder: SearchFolder,
        progress: Progress,
        resources: dict[str, float],
        storage: Storage,
    ) -> None:
        super().__init__()
        self._study = study
        self._folder = folder
        self._progress = progress
        self._resources = resources
        self._storage = storage
        with folder.writing():
            self._unfinished = deque(study.unfinished())
        self._new = study.space.trials - len(study.records())

    @property
    def left(self) -> int:
        """The trials that are still to be handed out."""
        return len(self._unfinished) + self._new

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a Tune trial, or FINISHED, or None after a failure."""
        if not self.left:
            return Searcher.FINISHED
        with self._folder.remembering():
            if self._unfinished:
                return self._config(self._unfinished.popleft())
            self._new -= 1
            return self._config(self._study.ask())
        return None

    def _config(self, proposal: Proposal) -> dict[str, Any]:
        state = self._folder.state(proposal.number, note=self._progress.note)
        return {
            "trial": proposal.number,
            RESOURCES: self._resources,
            SETTINGS: proposal.config.to_dict(),
            **({STATE: self._storage.share(state, f"{proposal.number}.pt")} if state else {}),
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler, which sees the trial itself, has told the study."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""
