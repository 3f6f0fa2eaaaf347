"""Combinations of parameters that a search space forbids: `forbid: [{feature_type: rich, history_len: [3, 8]}]`.

A combination is forbidden where all that its rule names is so: a parameter has the value, one of the values (of a
choice), or lies in the interval [low, high], ends included (of a range). A parameter that is not drawn is never so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import UserError
from tune.parameters import ChoiceParameter, Parameter, as_text, shown

Rule = Mapping[str, Any]


def is_forbidden(rules: Sequence[Rule], parameters: Mapping[str, Parameter], drawn: Mapping[str, Any]) -> bool:
    """Whether parameters that were drawn, some or all, are a forbidden combination already."""
    return any(
        all(key in drawn and _is_so(parameters[key], wanted, drawn[key]) for key, wanted in rule.items())
        for rule in rules
    )


def cuts(rules: Sequence[Rule], key: str) -> list[Any]:
    """The values at which the rules change their mind about a range."""
    named = [rule[key] for rule in rules if key in rule]
    return [value for one in named for value in (one if isinstance(one, list) else [one])]


def check_rules(rules: Sequence[Rule], parameters: Mapping[str, Parameter]) -> None:
    """Raise UserError for a rule that can never hold, or that names what is not searched."""
    for number, rule in enumerate(rules, 1):
        which = f"Number {number} of `forbid`"
        if not rule:
            raise UserError(f"{which} names no parameter, but must name at least one.")
        for key, wanted in rule.items():
            if key not in parameters:
                known = ", ".join(parameters)
                raise UserError(f"{which} names `{key}`, but must name parameters of this space: {known}.")
            if must_be := _must_be(parameters[key], wanted):
                raise UserError(f"{which} has {shown(wanted)} for `{key}`, but must have {must_be}.")


def _is_so(parameter: Parameter, wanted: Any, value: Any) -> bool:
    if isinstance(parameter, ChoiceParameter):
        return value in _choices(parameter, wanted)
    if isinstance(wanted, list):
        return bool(wanted[0] <= value <= wanted[1])
    return bool(value == wanted)


def _choices(parameter: Parameter, wanted: Any) -> Sequence[Any]:
    """The values that are meant; a list may itself be one of the choices, such as hidden layers."""
    every = [value for domain in parameter.domains for value in domain]
    return wanted if isinstance(wanted, list) and wanted not in every else [wanted]


def _must_be(parameter: Parameter, wanted: Any) -> str | None:
    every = [value for domain in parameter.domains for value in domain]
    if isinstance(parameter, ChoiceParameter):
        choices = _choices(parameter, wanted)
        if choices and all(value in every for value in choices):
            return None
        named = ", ".join(dict.fromkeys(map(as_text, every)))
        return f"one of {named}, or a list of them"
    low, high = min(every), max(every)
    ends = wanted if isinstance(wanted, list) else [wanted, wanted]
    numbers = len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if numbers and low <= ends[1] and ends[0] <= high and ends[0] <= ends[1]:
        return None
    return f"a number or an interval [low, high], low <= high, that meets [{as_text(low)}, {as_text(high)}]"
