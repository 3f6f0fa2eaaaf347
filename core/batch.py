"""Nested tuples of tensors whose first dimension counts systems: pick some, choose between two, put them together."""

from typing import Any

import torch
from torch import Tensor


def take(tree: Any, index: Tensor | slice) -> Any:
    """Pick systems by a mask, by numbers or by a slice."""
    if isinstance(tree, Tensor):
        return tree[index]
    if isinstance(tree, tuple):
        return _like(tree, [take(part, index) for part in tree])
    return tree


def choose(mask: Tensor, yes: Any, no: Any) -> Any:
    """Take each system from ``yes`` where ``mask`` (m,) is true, and from ``no`` elsewhere."""
    if isinstance(yes, Tensor):
        return torch.where(mask.reshape(-1, *[1] * (yes.dim() - 1)), yes, no)
    if isinstance(yes, tuple):
        return _like(yes, [choose(mask, one, other) for one, other in zip(yes, no, strict=True)])
    return yes


def join(trees: list[Any]) -> Any:
    """Put the systems of several trees of one form one behind the other."""
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(trees)
    if isinstance(first, tuple):
        return _like(first, [join(list(group)) for group in zip(*trees, strict=True)])
    return first


def scatter(values: list[Tensor], numbers: list[Tensor], count: int) -> Tensor:
    """Put systems back into the order of their ``numbers``, ``count`` in all."""
    target = torch.empty((count, *values[0].shape[1:]), dtype=values[0].dtype, device=values[0].device)
    for value, number in zip(values, numbers, strict=True):
        target[number] = value
    return target


def _like(original: tuple[Any, ...], parts: list[Any]) -> tuple[Any, ...]:
    return type(original)(*parts) if hasattr(original, "_fields") else tuple(parts)
