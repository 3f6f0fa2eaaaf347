"""The configurations of a space that has finitely many."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from tune.forbidden import is_forbidden
from tune.parameters import MOST_CELLS, Parameter

if TYPE_CHECKING:
    from tune.space import Space


def number_of_cells(space: "Space") -> int | None:
    """Count the configurations that a space allows; None if there are too many to be counted."""
    if any(parameter.every(domain) is None for parameter in space.parameters.values() for domain in parameter.domains):
        return None
    count = sum(1 for _ in islice(cells(space), MOST_CELLS + 1))
    return count if count <= MOST_CELLS else None


def cells(space: "Space") -> Iterator[dict[str, Any]]:
    """Yield every configuration that a space allows, once, in the order of its parameters' values."""
    for cell in _cells(space, space.draw_order, {}):
        yield {key: cell[key] for key in space.parameters if key in cell}


def _cells(
    space: "Space", order: Sequence[tuple[str, Parameter]], drawn: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    if is_forbidden(space.forbid, space.parameters, drawn):
        return
    if not order:
        yield drawn
        return
    (key, parameter), rest = order[0], order[1:]
    if not parameter.exists(drawn):
        yield from _cells(space, rest, drawn)
        return
    values = parameter.every(parameter.domain_given(drawn)[1])
    assert values is not None
    for value in values:
        yield from _cells(space, rest, {**drawn, key: value})
