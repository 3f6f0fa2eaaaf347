"""The Optuna study of a search: the only truth about its trials, kept in a journal file.

Ray runs trials and forgets; whatever is known about them is here, in Optuna's own terms: a trial that ran all its
epochs is COMPLETE, one that was stopped early is PRUNED with its intermediate values, one that failed is FAIL with the
user attribute `reason`, and one that was interrupted stays RUNNING. What belongs to the search but is no trial of it
(baselines, repeats) is an attribute of the study: a trial without parameters would spoil the sampler's search space.
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from core.config import Config
from core.errors import UserError
from tune.first_objective import CURVE, FirstObjective, curve_of
from tune.journal import open_journal, together
from tune.proposals import ORIGIN, SKIPPED, Proposals, constrain, is_own
from tune.ranking import Scores
from tune.seeds import TRIAL, derived_seed
from tune.space import Space

#: Attribute of a trial that early stopping ends: after which `epoch`, and the pruner's `notes` of it.
_STOPPED = "stopped"
#: Attribute of a trial that population-based training has changed.
_SCHEDULE = "schedule"
_COMPLETE = TrialState.COMPLETE.name


@dataclass(frozen=True)
class Proposal:
    """A trial to run."""

    number: int
    config: Config
    parameters: dict[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """What is known about a trial."""

    number: int
    state: str
    reason: str
    seed: int
    epochs: int
    parameters: dict[str, Any]
    scores: dict[str, float]
    #: With several objectives: whether no other trial within the limits is better in all of them.
    pareto: bool | None = None


@dataclass(frozen=True)
class Earlier:
    """A trial of an older search that ended."""

    origin: str
    state: str
    reason: str
    epochs: int
    #: Those that the space of this search knows, too.
    parameters: dict[str, Any]
    scores: dict[str, float]
    #: What early stopping was told, by epoch, if it is the same as here.
    curve: dict[int, float]


class SearchStudy:
    """Ask for trials, report their scores, be told when to stop them, and say how they ended.

    ``name`` is that of a new study; without a ``journal`` it is in memory. One that is opened for ``reading`` may
    belong to a search that is running. Raises OSError, and ValueError if a line of the journal is damaged.
    """

    def __init__(self, space: Space, journal: Path | None, name: str, *, reading: bool = False) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.ranking = space.ranking
        storage: BaseStorage = InMemoryStorage()
        if journal is not None:
            storage = open_journal(journal, reading=reading, ends=("seed", SKIPPED, ORIGIN))
        self._storage = storage
        self._pruner = space.scheduler.build(space.epochs, space.seed)
        # A study keeps the name that its folder had at first; it may have been moved since.
        if names := [study.study_name for study in storage.get_all_studies()]:
            self._study = optuna.load_study(storage=storage, study_name=names[0])
        elif reading:
            raise UserError(f"{journal}: holds no study; the search that wrote it did not start.")
        else:
            self._study = optuna.create_study(
                storage=storage, study_name=name, directions=self.ranking.directions
            )
        self._several = len(self.ranking.objectives) > 1
        self._first_objective = FirstObjective(self._study, storage)
        #: Whether the time budget of this run is over.
        self.timed_out = False
        self._running: dict[int, Trial] = {}
        #: Of trials that have ended.
        self._ended: dict[int, TrialRecord] = {}
        self._merits: dict[int, float] = {}
        self._proposals = Proposals(self._study, space)

    def ask(self) -> Proposal:
        """Start a trial. The search must not be :attr:`over`."""
        with together(self._storage):
            return self._start(*self._proposals.make())

    @property
    def over(self) -> str | None:
        """Why no further trial is to be started, though the search has not as many as it may have."""
        if self.exhausted:
            return "every configuration of the space has been tried"
        if self.space.patience is not None and self._in_vain() >= self.space.patience:
            return f"{self.space.patience} trials in a row have brought no better best"
        return None

    @property
    def exhausted(self) -> bool:
        """Whether every configuration of the space has been tried."""
        return self._proposals.exhausted

    @property
    def is_interrupted(self) -> bool:
        """Whether trials are missing that were to be run."""
        ended = [record.state != "RUNNING" for record in self.records()]
        return not (self.timed_out or sum(ended) >= self.space.trials or (all(ended) and self.over))

    def _start(self, trial: Trial, parameters: dict[str, Any]) -> Proposal:
        seed = self.seed(trial.number, 0)
        trial.set_user_attr("parameters", parameters)
        trial.set_user_attr("seed", seed)
        self._running[trial.number] = trial
        return Proposal(trial.number, self.space.config(parameters, seed), parameters)

    def unfinished(self) -> list[Proposal]:
        """Take up the trials that an interrupted search has left, in their order, and return those that are to go on.

        What was decided about the others, but not written down to its end, is.
        """
        proposals = []
        for frozen in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            attributes, number = frozen.user_attrs, frozen.number
            if ORIGIN in attributes:  # the search was killed while it took over an older one
                self._study.sampler = optuna.samplers.RandomSampler()
                self._study.tell(number, state=TrialState.FAIL)
                continue
            # A sampler would prepare a proposal that there is already.
            self._study.sampler = optuna.samplers.RandomSampler()
            trial = Trial(self._study, frozen._trial_id)
            if SKIPPED in attributes:
                self._proposals.skip(trial, attributes[SKIPPED])
                continue
            self._running[number] = trial
            if _STOPPED in attributes:
                self._first_objective.write(frozen, attributes[_STOPPED]["notes"])
                self.finish(number, attributes[_STOPPED]["epoch"])
            elif "reason" in attributes:
                self.fail(number, attributes["epochs"], attributes["reason"])
            else:
                config = self.space.config(attributes["parameters"], attributes["seed"])
                proposals.append(Proposal(number, config, attributes["parameters"]))
        return proposals

    def report(self, number: int, epoch: int, scores: Scores) -> None:
        """Take a running trial's scores at an epoch. A worker that was restarted may say the same again."""
        trial, curve = self._running.get(number), curve_of(self._frozen(number))
        if trial is None or epoch in curve:
            return
        # The curve comes last: an epoch that it has is not taken again.
        with together(self._storage):
            trial.set_user_attr("scores", dict(scores))
            self._add_to_curve(trial, curve, epoch, self.ranking.value(scores))

    def _add_to_curve(self, trial: Trial, curve: Mapping[int, float], epoch: int, value: float) -> None:
        if self._several:
            trial.set_user_attr(CURVE, {**{str(step): kept for step, kept in curve.items()}, str(epoch): value})
        else:
            trial.report(value, epoch)

    def should_prune(self, number: int) -> bool:
        """Whether a running trial is to be stopped, by what it and the others have reported.

        A pruner says so once, so it is written down: the worker or the search may die before the trial has ended.
        """
        trial = self._running.get(number)
        if trial is None:
            return False
        frozen = self._frozen(number)
        if _STOPPED in frozen.user_attrs:
            return True
        epoch = max(curve_of(frozen))
        with together(self._storage):
            return self._first_objective.should_prune(
                self._pruner, frozen, lambda notes: trial.set_user_attr(_STOPPED, {"epoch": epoch, "notes": notes})
            )

    @property
    def running(self) -> set[int]:
        """The trials that run."""
        return set(self._running)

    def change(self, number: int, parameters: Mapping[str, Any], epoch: int, donor: int) -> Config:
        """Give a running trial other parameters from an epoch on, and another one's training; return its settings."""
        own = self._frozen(number).user_attrs
        first = {"epoch": 0, "from": None, "parameters": own["parameters"]}
        step = {"epoch": epoch, "from": donor, "parameters": dict(parameters)}
        with together(self._storage):
            self._running[number].set_user_attr(_SCHEDULE, [*own.get(_SCHEDULE, [first]), step])
            self._running[number].set_user_attr("parameters", dict(parameters))
        return self.space.config(parameters, own["seed"])

    def schedule(self, number: int) -> list[dict[str, Any]]:
        """Where a trial has its parameters from, by epoch, if it was changed on its way; empty otherwise."""
        steps: list[dict[str, Any]] = self._frozen(number).user_attrs.get(_SCHEDULE, [])
        return steps

    def finish(self, number: int, epoch: int) -> None:
        """End a trial by what it reported: COMPLETE after all its epochs, PRUNED before, FAIL if a score is NaN."""
        frozen = self._frozen(number)
        scores = frozen.user_attrs.get("scores", {})
        epoch = max([epoch, *curve_of(frozen)])  # a worker that was restarted may be behind what it has reported
        if not scores:
            return self.fail(number, epoch, "it ended without scores")
        if key := self.ranking.missing(scores):
            return self.fail(number, epoch, f"{key} is NaN")
        if (trial := self._running.pop(number, None)) is None:
            return None
        with together(self._storage):
            trial.set_user_attr("epochs", epoch)
            return self._tell(trial, scores, stopped=epoch < self.space.epochs)

    def _tell(self, trial: Trial, scores: Scores, stopped: bool) -> None:
        for name, excess in self.ranking.excesses(scores).items():
            constrain(trial, name, excess)
        if stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, [scores[key] for key in self.ranking.objectives])

    def fail(self, number: int, epoch: int, reason: str) -> None:
        """End a trial as FAIL."""
        if (trial := self._running.pop(number, None)) is not None:
            trial.set_user_attr("epochs", epoch)
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.FAIL)

    def take_over(self, earlier: Earlier) -> None:
        """Add a trial of an older search: samplers and pruners learn from it, but it is none of this search."""
        named = self.space.stored(earlier.parameters)
        self._study.sampler = optuna.samplers.RandomSampler()
        attributes = {ORIGIN: earlier.origin, "parameters": earlier.parameters, "scores": earlier.scores}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=named,
                distributions={name: self.space.distributions[name] for name in named},
                user_attrs=attributes,
            )
        )
        number = len(self._study.get_trials(deepcopy=False)) - 1
        trial = Trial(self._study, self._frozen(number)._trial_id)
        if earlier.state == TrialState.FAIL.name:
            trial.set_user_attr("reason", earlier.reason)
            self._study.tell(trial, state=TrialState.FAIL)
            return
        curve = earlier.curve or {earlier.epochs: self.ranking.value(earlier.scores)}
        for epoch in sorted(curve):
            self._add_to_curve(trial, curve_of(self._frozen(number)), epoch, curve[epoch])
            # A pruner writes down the rungs that a trial reaches when it is asked.
            self._first_objective.should_prune(self._pruner, self._frozen(number), lambda notes: None)
        self._tell(trial, earlier.scores, stopped=earlier.state == TrialState.PRUNED.name)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial that was to be run, as Optuna knows it. (Numbers have gaps where a proposal was not run.)"""
        return [trial for trial in self._study.get_trials(deepcopy=False) if is_own(trial)]

    def records(self) -> list[TrialRecord]:
        """What is known about these, by number."""
        return self._on_front([self._known(trial) for trial in self.trials])

    def _on_front(self, found: list[TrialRecord]) -> list[TrialRecord]:
        """Say which of all complete trials are on the Pareto front, where there is one."""
        if not self._several:
            return found
        front = self.ranking.front({record.number: record.scores for record in found if record.state == _COMPLETE})
        return [replace(record, pareto=record.number in front) for record in found]

    def _known(self, trial: FrozenTrial) -> TrialRecord:
        """What is known of a trial. It is kept once the trial has ended: nothing changes."""
        if (kept := self._ended.get(trial.number)) is not None:
            return kept
        record = _record(trial)
        if trial.state.is_finished():
            self._ended[trial.number] = record
        return record

    def record(self, number: int) -> TrialRecord:
        """One trial, without its place on the Pareto front."""
        return _record(self._frozen(number))

    def curve(self, number: int) -> dict[int, float]:
        """What early stopping was told of a trial, by epoch."""
        return dict(curve_of(self._frozen(number)))

    def best(self, count: int) -> list[TrialRecord]:
        """The best complete trials, best first."""
        complete = [record for trial in self.trials if (record := self._known(trial)).state == _COMPLETE]
        complete = self._on_front(complete)
        return heapq.nlargest(count, complete, key=lambda record: self._merit(record.number, record.scores))

    def _merit(self, number: int, scores: Scores) -> float:
        if number not in self._merits:
            self._merits[number] = self.ranking.merit(scores)
        return self._merits[number]

    def _in_vain(self) -> int:
        """The trials that have ended since the last one that was better than all before it."""
        ended = [trial for trial in self.trials if trial.datetime_complete is not None]
        best, in_vain = -math.inf, 0
        for trial in sorted(ended, key=lambda trial: (trial.datetime_complete, trial.number)):
            done = trial.state == TrialState.COMPLETE
            merit = self._merit(trial.number, trial.user_attrs["scores"]) if done else -math.inf
            best, in_vain = (merit, 0) if merit > best else (best, in_vain + 1)
        return in_vain

    def seed(self, number: int, repeat: int) -> int:
        """The seed of a trial, or of one of its repeats (counted from 1)."""
        return derived_seed(TRIAL, self.space.seed, number, repeat)

    @property
    def attributes(self) -> dict[str, Any]:
        """What is kept beside the trials."""
        return self._study.user_attrs

    def keep(self, name: str, value: Any) -> None:
        """Keep something beside the trials, under a name."""
        self._study.set_user_attr(name, value)

    def config(self, record: TrialRecord) -> Config:
        """The settings of a trial."""
        return self.space.config(record.parameters, record.seed)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


def _record(trial: FrozenTrial) -> TrialRecord:
    attributes: Mapping[str, Any] = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        reason=attributes.get("reason", ""),
        seed=attributes.get("seed", 0),
        epochs=attributes.get("epochs", max(curve_of(trial), default=0)),
        parameters=attributes.get("parameters", {}),
        scores=attributes.get("scores", {}),
    )
