"""What a search takes over from an older one: its trials, as far as they say something about this one's parameters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from tune.opening import open_search
from tune.parameters import as_text
from tune.space import Space
from tune.space_checks import SYSTEM_KEYS
from tune.study import Earlier, SearchStudy


@dataclass(frozen=True)
class WarmStart:
    """The trials of an older search that count for the sampler and for early stopping, and how many do not."""

    trials: list[Earlier]
    left_out: int

    @classmethod
    def of(cls, space: Space) -> "WarmStart":
        """Read the older search of a space. Nothing of it is written. Raises UserError."""
        if space.warm_start is None:
            return cls([], 0)
        try:
            folder, older = open_search(Path(space.warm_start))
        except UserError as error:
            raise UserError(f"The value of `warm_start` cannot be used: {error}") from None
        _check_systems(space, older.space)
        ended = [record for record in older.records() if record.state != "RUNNING"]
        found = []
        for record in ended:
            parameters = _known(space, older.config(record).to_dict())
            every = parameters and space.has_every(parameters)
            # Samplers that model what all trials have in common would lose the parameters that this one lacks.
            if not parameters or (space.sampler.common_only and not every):
                continue
            origin = f"{folder.path.name}, trial {record.number}"
            scores, curve = record.scores, older.curve(record.number)
            if older.ranking != space.ranking:  # then only the last value can be told
                curve = {}
            if record.state != "FAIL" and space.ranking.missing(scores):
                continue
            found.append(Earlier(origin, record.state, record.reason, record.epochs, parameters, scores, curve))
        return cls(found, len(ended) - len(found))


def take_over(study: SearchStudy, warm: WarmStart) -> None:
    """Give a new study the older trials."""
    for trial in warm.trials:
        study.take_over(trial)


def _check_systems(space: Space, older: Space) -> None:
    own, other = space.example().to_dict(), older.example().to_dict()
    for key in SYSTEM_KEYS:
        if own[key] != other[key]:
            raise UserError(
                f"The value of `warm_start` is {space.warm_start}, whose `{key}` is {as_text(other[key])}, but must be "
                f"a search over the same systems and periods: here it is {as_text(own[key])}."
            )


def _known(space: Space, settings: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a space that settings give a value that the space allows."""
    known: dict[str, Any] = {}
    for key, parameter in space.draw_order:
        value = settings[key]
        value = list(value) if isinstance(value, tuple) else value
        if parameter.exists(known) and parameter.contains(parameter.domain_given(known)[1], value):
            known[key] = value
    return space.as_drawn(known)
