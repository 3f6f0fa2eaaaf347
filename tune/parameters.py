"""What a search space says about one parameter: a range of floats or integers, or a list of choices.

A parameter may depend on others: its domain may be another one, or it may not be there at all::

    feature_type: {choice: [basic, rich, delta_mag]}
    history_len:
      int: [0, 8]
      when: {feature_type: {delta_mag: [1, 8]}}
    optimizer: {choice: [adam, sgd]}
    momentum: {float: [0.5, 0.99], only: {optimizer: sgd}}

To Optuna each domain is a parameter with a name of its own (`history_len`, `history_len.delta_mag`), since a name may
have one domain only. Everywhere else there is one `history_len`.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from core.errors import shorten

Scalar = bool | int | float | str
_SCALARS = (bool, int, float, str)
#: More points than this on a grid are a slip of the pen.
_MOST_POINTS = 10**9
#: More choices than this are not told apart by any search, and each is checked.
_MOST_CHOICES = 1000
#: A grid of more configurations than this is not counted.
MOST_CELLS = 100_000


class Parameter(BaseModel, ABC):
    """One parameter: its domain, the domains that replace it, and where it exists at all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    domain: list[Any]
    when: dict[str, dict[Scalar, list[Any]]] | None = Field(
        None, description="another domain for some values of one other parameter: {parameter: {value: domain}}"
    )
    only: dict[str, Any] | None = Field(
        None,
        description="drawn only where other parameters have these values, {parameter: value or list of values}; "
        "elsewhere the configuration's default holds",
    )

    @abstractmethod
    def distribution(self, domain: Sequence[Any]) -> BaseDistribution:
        """Return Optuna's distribution of a domain."""

    @abstractmethod
    def points(self, domain: Sequence[Any], cuts: Iterable[Any] = ()) -> list[Any]:
        """Return values to try a space at: the ends or choices first, then one on and on each side of every cut."""

    @abstractmethod
    def every(self, domain: Sequence[Any]) -> Sequence[Any] | None:
        """Return all values, in a sequence that may be long; None where they cannot be counted."""

    @abstractmethod
    def contains(self, domain: Sequence[Any], value: Any) -> bool:
        """Whether a value can be drawn."""

    @abstractmethod
    def _must_be(self, domain: Sequence[Any]) -> str | None:
        """Say what a domain must be, or nothing if it is so."""

    def stored(self, domain: Sequence[Any], value: Any) -> Any:
        """What Optuna keeps for a value."""
        return value

    def value(self, domain: Sequence[Any], stored: Any) -> Any:
        """The value that Optuna keeps as ``stored``."""
        return stored

    def suggest(self, trial: optuna.Trial, name: str, domain: Sequence[Any]) -> Any:
        """Ask Optuna for a value."""
        about = self.distribution(domain)
        if isinstance(about, CategoricalDistribution):
            return self.value(domain, trial.suggest_categorical(name, about.choices))
        if isinstance(about, IntDistribution):
            return self.value(domain, trial.suggest_int(name, about.low, about.high, step=about.step, log=about.log))
        assert isinstance(about, FloatDistribution)
        return self.value(domain, trial.suggest_float(name, about.low, about.high, step=about.step, log=about.log))

    @model_validator(mode="after")
    def _check_domains(self) -> Self:
        if self.when is not None and len(self.when) != 1:
            raise ValueError(f"its key `when` names {len(self.when)} parameters, but must name one.")
        if self.only is not None and not self.only:
            raise ValueError("its key `only` names no parameter, but must name at least one.")
        for parent, values in self.required.items():
            if not values or not all(isinstance(value, _SCALARS) for value in values):
                raise ValueError(
                    f"its key `only` has {shown(self.only[parent] if self.only else None)} for {parent}, but must "
                    "have a number, a word, or a list of them."
                )
        for domain in self.domains:
            if rule := self._must_be(domain):
                raise ValueError(f"{shown(domain)} must be {rule}.")
        return self

    @property
    def kind(self) -> str:
        """float, int or choice."""
        return str(type(self).model_fields["domain"].alias)

    @property
    def parent(self) -> str | None:
        """The parameter that the domain depends on."""
        return next(iter(self.when), None) if self.when else None

    @property
    def required(self) -> dict[str, list[Any]]:
        """Values of other parameters without which this one is not drawn."""
        return {key: value if isinstance(value, list) else [value] for key, value in (self.only or {}).items()}

    @property
    def parents(self) -> dict[str, list[Any]]:
        """All parameters that this one depends on, each with the values that are named."""
        named = {key: list(values) for key, values in self.required.items()}
        for key, special in (self.when or {}).items():
            named[key] = named.get(key, []) + list(special)
        return named

    @property
    def domains(self) -> list[Sequence[Any]]:
        """Every domain there is, that without a condition first."""
        return [self.domain, *(self.when[self.parent].values() if self.when and self.parent else ())]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every domain, by the suffix of its name."""
        suffixes = ["", *(f".{value}" for special in (self.when or {}).values() for value in special)]
        named = zip(suffixes, self.domains, strict=True)
        return {suffix + self._index: self.distribution(domain) for suffix, domain in named}

    def exists(self, drawn: Mapping[str, Any]) -> bool:
        """Whether the parameter is drawn, given those drawn before."""
        return all(key in drawn and drawn[key] in values for key, values in self.required.items())

    def domain_given(self, drawn: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """Return the suffix of the name in Optuna and the domain, given the parameters drawn before."""
        if self.when and self.parent and self.parent in drawn:
            for value, domain in self.when[self.parent].items():
                if drawn[self.parent] == value:
                    return f".{value}{self._index}", domain
        return self._index, self.domain

    @property
    def _index(self) -> str:
        """The end of the name where Optuna keeps the number of a point and not its value."""
        return ""


class _Range(Parameter):
    number: ClassVar[tuple[type, ...]]
    log: bool = Field(False, description="draw the logarithm uniformly")
    step: int | float | None = Field(
        None, description="draw from the grid low, low + step, ...; with log a factor: low, low * step, ..."
    )

    def distribution(self, domain: Sequence[Any]) -> BaseDistribution:
        """Return Optuna's distribution, of the points' numbers where a grid is logarithmic: Optuna has none."""
        low, high = domain
        if self.step is not None and self.log:
            return IntDistribution(0, self._last(domain))
        if self.step is not None:
            high = self._point(domain, self._last(domain))
        if int in self.number and float not in self.number:
            return IntDistribution(low, high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(low, high, log=self.log, step=self.step)

    def stored(self, domain: Sequence[Any], value: Any) -> Any:
        """What Optuna keeps for a value: the number of its point on a logarithmic grid."""
        return round(self._place(domain, value)) if self._index else value

    def value(self, domain: Sequence[Any], stored: Any) -> Any:
        """The value that Optuna keeps as ``stored``, without the last digits that only rounding put there."""
        if self._index:
            return self._point(domain, stored)
        if float in self.number:
            return float(stored if self.step is None else self._point(domain, round(self._place(domain, stored))))
        return stored

    def contains(self, domain: Sequence[Any], value: Any) -> bool:
        """Whether a value can be drawn."""
        if not self._is_bound(value) or not domain[0] <= value <= domain[1]:
            return False
        nearest = self._point(domain, round(self._place(domain, value))) if self.step is not None else value
        return math.isclose(nearest, value, abs_tol=1e-9 * (self.step or 1) * (not self.log))

    def points(self, domain: Sequence[Any], cuts: Iterable[Any] = ()) -> list[Any]:
        """Return both ends, then one value on and on each side of every cut that lies between them."""
        low, high = domain
        inside = sorted({cut for cut in cuts if low <= cut <= high})
        if self.step is None and float in self.number:
            edges = sorted({low, *inside, high})
            between = [(one + other) / 2 for one, other in pairwise(edges)] if inside else []
            return list(dict.fromkeys([low, high, *inside, *between]))
        last = self._last(domain)
        around = {math.floor(self._place(domain, cut)) + shift for cut in inside for shift in (-1, 0, 1, 2)}
        numbers = [0, last, *sorted(number for number in around if 0 < number < last)]
        return [self._point(domain, number) for number in dict.fromkeys(numbers)]

    def every(self, domain: Sequence[Any]) -> Sequence[Any] | None:
        """Return all values, in a sequence that may be long; None where they cannot be counted."""
        if float in self.number and self.step is None and domain[0] < domain[1]:
            return None
        if float not in self.number and self.step is None:
            return range(domain[0], domain[1] + 1)
        last = self._last(domain) if domain[0] < domain[1] else 0
        return [self._point(domain, number) for number in range(last + 1)] if last < MOST_CELLS else None

    def _place(self, domain: Sequence[Any], value: float) -> float:
        """The number of a value's point on the grid, as a fraction."""
        if self.log and self.step is not None:
            return math.log(value / domain[0]) / math.log(self.step)
        return float((value - domain[0]) / (self.step or 1))

    def _last(self, domain: Sequence[Any]) -> int:
        """The number of the grid's last point."""
        return math.floor(self._place(domain, domain[1]) + 1e-9)

    def _point(self, domain: Sequence[Any], number: int) -> Any:
        """A point of the grid, without the last digits that only rounding put there."""
        step = self.step or 1
        if float not in self.number:
            return domain[0] * step**number if self.log and self.step else domain[0] + number * step
        if self.log:
            return float(f"{domain[0] * step**number:.12g}")
        return float(Decimal(str(domain[0])) + number * Decimal(str(step)))

    @property
    def _index(self) -> str:
        return ".index" if self.log and self.step is not None else ""

    def _must_be(self, domain: Sequence[Any]) -> str | None:
        if len(domain) != 2 or not all(map(self._is_bound, domain)):
            return f"[low, high], two {'numbers' if float in self.number else 'whole numbers'}"
        if domain[0] > domain[1]:
            return "[low, high] with low <= high; this range is empty"
        if self.log and domain[0] <= 0:
            return "above 0 with `log: true`; raise the lower end or leave `log` out"
        if self.step is not None and domain[0] < domain[1] and not 1 <= self._last(domain) < _MOST_POINTS:
            return f"wide enough for two points of a grid with `step: {self.step:g}`, and for at most {_MOST_POINTS:g}"
        return None

    @model_validator(mode="before")
    @classmethod
    def _check_step(cls, values: Any) -> Any:
        """Before the domains are checked: a wrong step would be blamed on them."""
        step = values.get("step") if isinstance(values, Mapping) else None
        if step is None:
            return values
        whole = float not in cls.number
        is_number = type(step) in cls.number and math.isfinite(step)
        if values.get("log") is True:
            if not is_number or step <= 1:
                kind = "a whole number >= 2" if whole else "a number > 1"
                raise ValueError(f"its key `step` is {shown(step)}, but must be {kind} with `log: true`: a factor.")
        elif not is_number or step <= 0:
            raise ValueError(
                f"its key `step` is {shown(step)}, but must be {'a whole number >= 1' if whole else 'a number > 0'}."
            )
        return values

    def _is_bound(self, value: Any) -> bool:
        # bool is an int to Python, but `true` is no bound.
        return type(value) in self.number and math.isfinite(value)


def _two(kind: str) -> dict[str, Any]:
    """What a JSON Schema says of a range."""
    return {"items": {"type": kind}, "minItems": 2, "maxItems": 2}


class FloatParameter(_Range):
    """A range of real numbers."""

    number = (int, float)
    domain: list[Any] = Field(alias="float", description="[low, high]", json_schema_extra=_two("number"))


class IntParameter(_Range):
    """A range of whole numbers, both ends included."""

    number = (int,)
    domain: list[Any] = Field(
        alias="int", description="[low, high], both included", json_schema_extra=_two("integer")
    )


class ChoiceParameter(Parameter):
    """A list of values without an order."""

    domain: list[Any] = Field(
        alias="choice", description="the values: numbers, words, or lists of them", json_schema_extra={"minItems": 1}
    )

    def distribution(self, domain: Sequence[Any]) -> BaseDistribution:
        """Return Optuna's distribution; a list goes into the study as text, since Optuna keeps scalars only."""
        return CategoricalDistribution([self.stored(domain, value) for value in domain])

    def stored(self, domain: Sequence[Any], value: Any) -> Any:
        """What Optuna keeps for a value."""
        return as_text(value) if isinstance(value, list) else value

    def value(self, domain: Sequence[Any], stored: Any) -> Any:
        """The value that Optuna keeps as ``stored``."""
        return next(value for value in domain if self.stored(domain, value) == stored)

    def contains(self, domain: Sequence[Any], value: Any) -> bool:
        """Whether a value can be drawn."""
        return value in domain

    def points(self, domain: Sequence[Any], cuts: Iterable[Any] = ()) -> list[Any]:
        """Return all choices."""
        return list(domain)

    def every(self, domain: Sequence[Any]) -> Sequence[Any] | None:
        """Return all choices."""
        return domain

    def _must_be(self, domain: Sequence[Any]) -> str | None:
        if len(domain) > _MOST_CHOICES:
            return f"a list of at most {_MOST_CHOICES:,} values, not {len(domain):,}; give a range, or fewer of them"
        for value in domain:
            if not all(isinstance(x, _SCALARS) for x in (value if isinstance(value, list) else [value])):
                return "a list of numbers, words, or lists of them"
        if not domain or any(value in domain[:index] for index, value in enumerate(domain)):
            return "a list of different values, at least one"
        return None


def as_text(value: Any) -> str:
    """Return a value as a settings file would show it."""
    try:
        return json.dumps(value) if isinstance(value, list | tuple | bool | float) else str(value)
    except TypeError:  # it holds a date, say
        return str(value)


def shown(value: Any) -> str:
    """Return a value that a user gave as a message can show it."""
    return "empty" if value is None or value == "" else shorten(as_text(value))


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
