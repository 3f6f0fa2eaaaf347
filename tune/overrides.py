"""`--set key=value`: single entries of a search space from the command line."""

import copy
from collections.abc import Sequence
from typing import Any

from core.errors import UserError, shorten
from tune.parameters import as_text, shown
from tune.yaml_file import read_value

#: Two places of one entry: setting one takes the place of the other.
_SAME = {"objective": "objectives", "objectives": "objective", "fixed": "parameters", "parameters": "fixed"}


def override(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a space's values with entries replaced or added; the path of an entry has dots: ``fixed.epochs=40``.

    ``fixed.lr=1e-3`` fixes what the space would search, ``parameters.dropout=...`` searches what it has fixed.

    Raises UserError for a text that is no ``key=value`` with a YAML value, for an entry that is set twice, or for a
    path through what has no keys.
    """
    values, seen = copy.deepcopy(values), dict[str, str]()
    for text in assignments:
        path, equals, written = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"The value of --set is {shorten(text)}, but must be key=value, for example trials=8.")
        twin = _twin(keys)
        again = [known for known in seen if known == path.strip() or known.split(".")[: len(twin)] == twin != []]
        if again:
            was = shorten(seen[again[0]])
            raise UserError(f"--set gives `{path.strip()}` twice, {was} and {shorten(text)}; leave one out.")
        seen[path.strip()] = text
        _set(values, keys, read_value(written, f"In `{shorten(path.strip())}`"))
        _remove(values, twin)
    return values


def _twin(keys: Sequence[str]) -> list[str]:
    """The other place of what an entry sets, if it has one: scores go by two names, settings are in two sections."""
    depth = 2 if keys[0] in ("fixed", "parameters") else 1
    return [_SAME[keys[0]], *keys[1:depth]] if keys[0] in _SAME and len(keys) >= depth else []


def _remove(values: Any, keys: Sequence[str]) -> None:
    for key in keys[:-1]:
        values = values.get(key)
    if keys and isinstance(values, dict):
        values.pop(keys[-1], None)


def _set(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    entry, named = values, list(keys)
    for depth, key in enumerate(named[:-1], 1):
        entry = entry.setdefault(_as_it_is(entry, key), {})
        if not isinstance(entry, dict):
            is_value = f"`{'.'.join(named[:depth])}` is {shown(entry)}"
            raise UserError(f"The key `{'.'.join(named)}` of --set cannot be there: {is_value}, which has no keys.")
    entry[_as_it_is(entry, named[-1])] = value


def _as_it_is(entry: dict[Any, Any], key: str) -> Any:
    """A key of the mapping that is written so: YAML reads some keys as numbers or as true and false."""
    return next((known for known in entry if as_text(known) == key), key)
