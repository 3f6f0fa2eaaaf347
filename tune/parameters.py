"""What a search space says about one parameter: a range of floats or integers, or a list of choices.

A range may change with the value of another parameter::

    feature_type: {choice: [basic, rich, delta_mag]}
    history_len:
      int: [0, 8]
      when: {feature_type: {delta_mag: [1, 8]}}

To Optuna each range is a parameter with a name of its own (`history_len`, `history_len.delta_mag`), since a name may
have one range only. Everywhere else there is one `history_len`.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import optuna
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Scalar = bool | int | float | str


class Parameter(BaseModel, ABC):
    """One parameter: its domain, and the domains that replace it where another parameter has a certain value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    domain: list[Any]
    when: dict[str, dict[Scalar, list[Any]]] | None = Field(
        None, description="another domain for some values of one choice parameter: {parameter: {value: domain}}"
    )

    @abstractmethod
    def suggest(self, trial: optuna.Trial, name: str, domain: Sequence[Any]) -> Any:
        """Ask Optuna for a value."""

    @abstractmethod
    def _must_be(self, domain: Sequence[Any]) -> str | None:
        """Say what a domain must be, or nothing if it is so."""

    @model_validator(mode="after")
    def _check_domains(self) -> Self:
        if self.when is not None and len(self.when) != 1:
            raise ValueError(f"its key `when` names {len(self.when)} parameters, but must name one.")
        special = self.when[self.parent].values() if self.when and self.parent else ()
        for domain in (self.domain, *special):
            if rule := self._must_be(domain):
                raise ValueError(f"{as_text(domain)} must be {rule}.")
        return self

    @property
    def kind(self) -> str:
        """float, int or choice."""
        return str(type(self).model_fields["domain"].alias)

    @property
    def parent(self) -> str | None:
        """The parameter that this one depends on."""
        return next(iter(self.when), None) if self.when else None

    def domain_given(self, drawn: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """Return the suffix of the name in Optuna and the domain, given the parameters drawn before."""
        if self.when and self.parent:
            for value, domain in self.when[self.parent].items():
                if drawn[self.parent] == value:
                    return f".{value}", domain
        return "", self.domain


class _Range(Parameter):
    number: ClassVar[tuple[type, ...]]
    log: bool = Field(False, description="draw the logarithm uniformly")

    def _must_be(self, domain: Sequence[Any]) -> str | None:
        if len(domain) != 2 or not all(map(self._is_bound, domain)):
            return f"[low, high], two {'numbers' if float in self.number else 'whole numbers'}"
        if domain[0] > domain[1]:
            return "[low, high] with low <= high; this range is empty"
        if self.log and domain[0] <= 0:
            return "above 0 with `log: true`; raise the lower end or leave `log` out"
        return None

    def _is_bound(self, value: Any) -> bool:
        # bool is an int to Python, but `true` is no bound.
        return type(value) in self.number and math.isfinite(value)


class FloatParameter(_Range):
    """A range of real numbers."""

    number = (int, float)
    domain: list[Any] = Field(alias="float", description="[low, high]")

    def suggest(self, trial: optuna.Trial, name: str, domain: Sequence[Any]) -> float:
        """Ask Optuna for a number."""
        return trial.suggest_float(name, domain[0], domain[1], log=self.log)


class IntParameter(_Range):
    """A range of whole numbers, both ends included."""

    number = (int,)
    domain: list[Any] = Field(alias="int", description="[low, high], both included")

    def suggest(self, trial: optuna.Trial, name: str, domain: Sequence[Any]) -> int:
        """Ask Optuna for a whole number."""
        return trial.suggest_int(name, domain[0], domain[1], log=self.log)


class ChoiceParameter(Parameter):
    """A list of values without an order."""

    domain: list[Any] = Field(alias="choice", description="the values: numbers, words, or lists of them")

    def suggest(self, trial: optuna.Trial, name: str, domain: Sequence[Any]) -> Any:
        """Ask Optuna for one of the values; a list goes into the study as text, since Optuna keeps scalars only."""
        values = {as_text(value) if isinstance(value, list) else value: value for value in domain}
        return values[trial.suggest_categorical(name, list(values))]

    def _must_be(self, domain: Sequence[Any]) -> str | None:
        plain = (bool, int, float, str)
        for value in domain:
            if not all(isinstance(x, plain) for x in (value if isinstance(value, list) else [value])):
                return "a list of numbers, words, or lists of them"
        if not domain or any(value in domain[:index] for index, value in enumerate(domain)):
            return "a list of different values, at least one"
        return None


def as_text(value: Any) -> str:
    """Return a value as a settings file would show it."""
    return json.dumps(value) if isinstance(value, list | tuple | bool | float) else str(value)


def shorten(text: str) -> str:
    """Return what a user wrote as a message can show it: on one line, and not too long."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _kind(entry: Any) -> str | None:
    if isinstance(entry, Parameter):
        return entry.kind
    kinds = [kind for kind in ("float", "int", "choice") if isinstance(entry, Mapping) and kind in entry]
    return kinds[0] if len(kinds) == 1 else None


AnyParameter = Annotated[
    Annotated[FloatParameter, Tag("float")]
    | Annotated[IntParameter, Tag("int")]
    | Annotated[ChoiceParameter, Tag("choice")],
    Discriminator(
        _kind,
        custom_error_type="parameter_kind",
        custom_error_message="must have one of the keys `float: [low, high]`, `int: [low, high]`, `choice: [...]`",
    ),
]
