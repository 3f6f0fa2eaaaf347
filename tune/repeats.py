"""Ray Tune's part of a confirmation: hands out repeats, keeps their checkpoints, and shows how far they are."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from tune.callback import TrainingCallback, last_error, name
from tune.checkpoints import Unfinished
from tune.confirmation import Confirmation
from tune.folder import SearchFolder
from tune.progress import Progress, brief, describe
from tune.scheduler import number, repeat
from tune.snapshot import NotInSnapshots
from tune.trainable import EPOCH, FAILED, RESOURCES, SCORES, SETTINGS, TEST


class RepeatSearcher(NotInSnapshots, Searcher):
    """Hands out the repeats that are due. (Those of the next rung are once all of this one have ended.)"""

    def __init__(
        self, confirmation: Confirmation, folder: SearchFolder, unfinished: Unfinished, resources: dict[str, float]
    ) -> None:
        super().__init__()
        self._confirmation = confirmation
        self._folder = folder
        self._states = unfinished
        self._resources = resources
        self._handed_out: set[tuple[int, int]] = set()

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a Tune trial, FINISHED when all is decided, or None while a rung is running."""
        due = self._confirmation.due()
        if not due:
            return Searcher.FINISHED
        for trial, count in due:
            if (trial, count) not in self._handed_out:
                self._handed_out.add((trial, count))
                with self._folder.remembering():
                    return {
                        "trial": trial,
                        "repeat": count,
                        RESOURCES: self._resources,
                        SETTINGS: self._confirmation.config(trial, count).to_dict(),
                        **self._states.of(trial, count),
                    }
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the callback, which sees the trial itself, has told the confirmation."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""


class RepeatCallback(TrainingCallback):
    """Tells the confirmation what came of its repeats."""

    def __init__(self, confirmation: Confirmation, folder: SearchFolder, progress: Progress) -> None:
        super().__init__(folder, progress, confirmation.ranking)
        self._confirmation = confirmation
        progress.led_by(self._leader())

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Take a repeat's scores, or the reason why its training failed."""
        result = trial.last_result
        self._end(trial, result.get(SCORES, {}), result.get(TEST, {}), result.get(FAILED, ""))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """End a repeat whose worker died or raised once too often."""
        self._end(trial, {}, {}, last_error(trial))

    def _end(self, trial: Trial, validation: dict[str, float], test: dict[str, float], reason: str) -> None:
        confirmation = self._confirmation
        epochs = (trial.last_result or {}).get(EPOCH, 0)
        with self._folder.remembering():
            ended = confirmation.end(number(trial), repeat(trial), epochs, validation, test, reason)
            best = [confirmation.best_repeat(candidate.number) for candidate in confirmation.candidates]
            self._folder.drop_checkpoints(
                self.checkpoint(trial),
                best=[self._folder.checkpoint(one.trial, one.repeat) for one in best if one],
                unfinished=[self._folder.checkpoint(*due) for due in confirmation.due()],
            )
            self._folder.write_json("confirmation.json", confirmation.to_dict())
        if not self._folder.failure:
            self._progress.total = confirmation.most
            state, result = "COMPLETE", brief(validation, confirmation.ranking) if validation else ""
            if ended.reason:
                state, result = "FAIL", ""
            self._progress.ended(name(trial), state, epochs, result, self._leader(), ended.reason)

    def _leader(self) -> list[str]:
        confirmation = self._confirmation
        order = confirmation.order()
        if not order:
            return []
        first = order[0]
        means = confirmation.summary(first.number, "validation")["mean"]
        count = len(confirmation.scored(first.number))
        text = f"trial {first.number}, {brief(means, confirmation.ranking)} (mean of {count})"
        return [text, describe(first.parameters)]
