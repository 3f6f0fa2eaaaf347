"""Repeats: the best trials are trained again with fresh seeds before a best is named.

The best of many trials owes its rank partly to luck (the winner's curse), so its own score does not count here. Repeats
are rungs: every candidate gets a first one, and has to survive it to get a second. A candidate drops out when a repeat
failed, when the means of its scores do not keep the limits, or when it is clearly behind the leader
(:meth:`tune.spread.Sample.is_clearly_behind`). A rung is decided when all its repeats have ended, so that the outcome
does not depend on which was first. Where the repeats of several rungs run at a time, these are decided as one: to wait
for the first would leave the machine idle.

When a search is extended its candidates are chosen again; who held out before stays one, whatever single scores the
newcomers have. Repeats that have ended are kept: the same seed would give the same.

Candidates are ranked on the validation set. Every repeat is scored on the test set too, which decides nothing: choosing
by it would make it a validation set.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.config import Config
from tune.objectives import score
from tune.spread import Sample, deviation, mean
from tune.study import SearchStudy, TrialRecord

#: The study's attribute that holds the repeats.
ATTRIBUTE = "confirmation"


@dataclass(frozen=True)
class Repeat:
    """A trial's configuration, trained once more, and what came of it. Repeats count from 1."""

    trial: int
    repeat: int
    seed: int
    epochs: int
    reason: str
    validation: dict[str, float]
    test: dict[str, float]


class Confirmation:
    """Says which repeats are due, takes what came of them, and names a winner. All of it is kept in the study.

    ``at_once`` is how many trainings run at a time; a confirmation that has begun keeps to what it was then.
    """

    def __init__(self, study: SearchStudy, at_once: int = 1) -> None:
        assert study.space.confirm is not None
        self.study = study
        self.ranking = study.ranking
        self.seeds = study.space.confirm.seeds
        self._records = {record.number: record for record in study.records()}
        kept = study.attributes.get(ATTRIBUTE, {"repeats": []})
        self._at_once = kept.get("at_once", 1)
        self.candidates = [self._records[number] for number in kept.get("candidates", [])]
        #: Who held out before the search was extended.
        self._earlier: int | None = kept.get("earlier")
        self._repeats = {(entry["trial"], entry["repeat"]): Repeat(**entry) for entry in kept["repeats"]}
        if kept.get("trials") != study.space.trials:
            winner = self.verdict()[0]
            self._earlier = self._earlier if winner is None else winner
            best = study.best(study.space.confirm.top)
            self.candidates = [record for record in best if self.ranking.excess(record.scores) <= 0]
            if self._earlier is not None and self._earlier not in [record.number for record in self.candidates]:
                self.candidates.append(self._records[self._earlier])
            self._at_once = at_once

    @property
    def most(self) -> int:
        """The repeats there are if no candidate drops out from here on, and those that have ended."""
        due, alive = self._state()
        return self.ended + (sum(self.seeds - len(self.of(number)) for number in alive) if due else 0)

    @property
    def ended(self) -> int:
        """The repeats that have ended."""
        return sum(len(self.of(record.number)) for record in self.candidates)

    def states(self) -> Counter[str]:
        """How the repeats have ended, in Optuna's words."""
        ended = (repeat for record in self.candidates for repeat in self.of(record.number))
        return Counter("FAIL" if repeat.reason else "COMPLETE" for repeat in ended)

    def due(self) -> list[tuple[int, int]]:
        """The repeats that can run now, as (trial, repeat); none when the winner is known."""
        return self._state()[0]

    def config(self, trial: int, repeat: int) -> Config:
        """The settings of a repeat: those of its trial, with a seed that no trial has."""
        return self.study.space.config(self._records[trial].parameters, self.study.seed(trial, repeat))

    def end(
        self,
        trial: int,
        repeat: int,
        epochs: int,
        validation: Mapping[str, float],
        test: Mapping[str, float],
        reason: str = "",
    ) -> Repeat:
        """Take a repeat's scores, or the reason why it has none, and keep them."""
        if not reason and (missing := self.ranking.missing(validation)):
            reason = f"{missing} is NaN"
        seed = self.study.seed(trial, repeat)
        ended = Repeat(trial, repeat, seed, epochs, reason, dict(validation), dict(test))
        self._repeats.setdefault((trial, repeat), ended)
        kept = {
            "trials": self.study.space.trials,
            "at_once": self._at_once,
            "candidates": [candidate.number for candidate in self.candidates],
            "earlier": self._earlier,
            "repeats": [asdict(entry) for entry in self._repeats.values()],
        }
        self.study.keep(ATTRIBUTE, kept)
        return ended

    def of(self, trial: int) -> list[Repeat]:
        """A candidate's repeats that have ended, in their order."""
        return [self._repeats[key] for key in sorted(self._repeats) if key[0] == trial]

    def scored(self, trial: int) -> list[Repeat]:
        """Those with scores."""
        return [repeat for repeat in self.of(trial) if not repeat.reason]

    def best_repeat(self, trial: int) -> Repeat | None:
        """A candidate's best repeat, on the validation set."""
        return max(self.scored(trial), key=lambda r: self.ranking.merit(r.validation), default=None)

    def order(self) -> list[TrialRecord]:
        """The candidates that have scores, best first; those that have dropped out come last, by how far they got."""
        alive = self.survivors()

        def place(record: TrialRecord) -> tuple[bool, bool, int, float]:
            number = record.number
            within = self._within(number, self.seeds)
            return number in alive, within, len(self.scored(number)), self._sample(number, self.seeds).mean

        return sorted((c for c in self.candidates if self.scored(c.number)), key=place, reverse=True)

    def survivors(self) -> list[int]:
        """The candidates that have not dropped out."""
        return self._state()[1]

    def furthest(self) -> int | None:
        """The trial that leads once all has been decided, whether or not it held out: its best repeat is exported."""
        order = [] if self.due() else self.order()
        return order[0].number if order else None

    def verdict(self) -> tuple[int | None, bool, str]:
        """Return who won if one held out, whether it is better than the second beyond chance, and a sentence on it."""
        if not self.candidates:
            return None, False, f"No trial kept {self.ranking}, so there was nothing to confirm."
        if self.due():
            return None, False, f"The confirmation was interrupted after {self.ended} of at most {self.most} repeats."
        alive, order = self.survivors(), [record.number for record in self.order()]
        if not order:
            return None, False, "Every repeat failed, so nothing is confirmed: the best model is the search's own."
        first = order[0]
        if not alive:
            return None, False, (
                f"No candidate held out with fresh seeds: each failed or did not keep {self.ranking} in the mean; "
                f"trial {first} came furthest."
            )
        count = f"{len(self.of(first))} fresh seeds"
        if len(self.candidates) == 1:
            return first, True, f"Trial {first}, the only candidate, holds out with {count}."
        if len(alive) == 1:
            return first, True, f"Trial {first} is the best over {count}: the others dropped out."
        second = order[1]
        if self._sample(first, self.seeds).is_better_than(self._sample(second, self.seeds)):
            beaten = f"better than trial {second} beyond chance (95 %)"
            return first, True, f"Trial {first} is the best over {count}, {beaten}."
        return first, False, (
            f"Trial {first} leads over {count}, but is not separable from trial {second}: the 95 % interval of the "
            f"difference of their {self.ranking.first} holds zero."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, as confirmation.json holds it."""
        alive = self.survivors()
        winner, separable, sentence = self.verdict()
        candidates = [
            {
                "trial": record.number,
                "parameters": record.parameters,
                "survived": record.number in alive,
                "seeds": [self._entry(repeat) for repeat in self.of(record.number)],
                "validation": self.summary(record.number, "validation"),
                "test": self.summary(record.number, "test"),
            }
            for record in self.candidates
        ]
        return {"candidates": candidates, "winner": winner, "separable": separable, "sentence": sentence}

    def summary(self, trial: int, name: str) -> dict[str, dict[str, Any]]:
        """Mean and standard deviation over a candidate's repeats on one of the two sets, and its failed orbits."""
        scores: list[dict[str, float]] = [getattr(repeat, name) for repeat in self.scored(trial)]
        keys = [key for key in (scores[0] if scores else {}) if all(key in each for each in scores)]
        values = {key: [each[key] for each in scores] for key in keys}
        return {
            "mean": {key: mean(key, values[key]) for key in keys},
            "std": {key: deviation(values[key]) for key in keys},
            "sum": {key: sum(values[key]) for key in keys if key.startswith("failed_orbits")},
        }

    def metrics(self, repeat: Repeat) -> dict[str, Any]:
        """What best/metrics.json says of a repeat: its own scores, and mean and spread of all of its candidate's."""
        flat: dict[str, Any] = {"trial": repeat.trial, "repeat": repeat.repeat, "epochs": repeat.epochs}
        flat |= repeat.validation | {f"test_{key}": value for key, value in repeat.test.items()}
        flat["seeds"] = len(self.scored(repeat.trial))
        for prefix, name in (("", "validation"), ("test_", "test")):
            for of, values in self.summary(repeat.trial, name).items():
                flat |= {f"{prefix}{key}_{of}": value for key, value in values.items()}
        return flat

    def _entry(self, repeat: Repeat) -> dict[str, Any]:
        entry = {"seed": repeat.seed, "validation": repeat.validation, "test": repeat.test}
        return entry | ({"reason": repeat.reason} if repeat.reason else {})

    def _state(self) -> tuple[list[tuple[int, int]], list[int]]:
        """Follow the rungs from the first, by what has ended: the repeats that are due, and who has not dropped out."""
        alive, rung = [record.number for record in self.candidates], 0
        while alive and rung < self.seeds:
            # Who is alone has nobody to wait for.
            last = self.seeds if len(alive) == 1 else min(rung + max(1, self._at_once // len(alive)), self.seeds)
            due = [(n, r) for r in range(rung + 1, last + 1) for n in alive if (n, r) not in self._repeats]
            if due:
                return due, alive
            rung = last
            alive = self._surviving(alive, rung)
        return [], alive

    def _surviving(self, numbers: Sequence[int], rung: int) -> list[int]:
        samples = {number: self._sample(number, rung) for number in numbers if self._within(number, rung)}
        if not samples:
            return []
        leader = max(samples.values(), key=lambda sample: sample.mean)
        return [number for number, sample in samples.items() if not sample.is_clearly_behind(leader)]

    def _within(self, trial: int, rung: int) -> bool:
        """Whether all repeats up to a rung have scores, and the mean of their error is within the limit."""
        repeats = [repeat for repeat in self.of(trial) if repeat.repeat <= rung]
        if any(repeat.reason for repeat in repeats):
            return False
        limited = self.ranking.limited
        return self.ranking.excess({key: mean(key, [one.validation[key] for one in repeats]) for key in limited}) <= 0

    def _sample(self, trial: int, rung: int) -> Sample:
        name = self.ranking.first
        return Sample.of(score(name), [r.validation[name] for r in self.scored(trial) if r.repeat <= rung])

