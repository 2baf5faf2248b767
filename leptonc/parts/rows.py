"""parts > rows: arguments of any callable cut along their batch, its results joined again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from leptonc.errors import InputError

Call = tuple[tuple[Any, ...], dict[str, Any]]


def rows_of(args: Sequence[Any], kwargs: Mapping[str, Any], axis: int = 0) -> int:
    """Return the size of the batch: that of the first tensor along ``axis``; 0 without a tensor."""
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor) and leaf.ndim > axis:
            return leaf.shape[axis]
    return 0


def cut_rows(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sizes: Sequence[int],
    axis: int = 0,
    whole: Collection[int | str] = (),
) -> list[Call]:
    """Return the arguments of each piece of a batch.

    Tensors of the size of the batch along ``axis`` are cut, into views; everything else is in every
    piece.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        sizes: rows of each piece.
        axis: where the batch is.
        whole: positions and names of arguments that are not cut.
    """
    total = sum(sizes)
    ends = list(pairwise([0, *accumulate(sizes)]))

    def cut(leaf: Any, a: int, b: int) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim > axis and leaf.shape[axis] == total:
            return leaf.narrow(axis, a, b - a)
        return leaf

    def part(key: int | str, value: Any, a: int, b: int) -> Any:
        return value if key in whole else pytree.tree_map(lambda leaf: cut(leaf, a, b), value)

    return [
        (
            tuple(part(i, v, a, b) for i, v in enumerate(args)),
            {k: part(k, v, a, b) for k, v in kwargs.items()},
        )
        for a, b in ends
    ]


def join_rows(results: Sequence[Any], sizes: Sequence[int], axis: int = 0) -> Any:
    """Return the results of the pieces as one: tensors joined along ``axis``, the rest as it is.

    Raises:
        InputError: a tensor has not as many rows as its piece, or what is no tensor differs.
    """
    if len(results) == 1:
        return results[0]
    flat = [pytree.tree_flatten(r) for r in results]
    spec = flat[0][1]
    if any(s != spec for _, s in flat):
        raise InputError("the pieces of the batch gave results of different structure")
    joined = [
        _joined(i, column, sizes, axis)
        for i, column in enumerate(zip(*(leaves for leaves, _ in flat), strict=True))
    ]
    return pytree.tree_unflatten(joined, spec)


def _joined(index: int, column: Sequence[Any], sizes: Sequence[int], axis: int) -> Any:
    if not isinstance(column[0], Tensor):
        if any(c != column[0] for c in column):
            raise InputError(f"result {index} differs between the pieces of the batch: {column}")
        return column[0]
    for t, n in zip(column, sizes, strict=True):
        if t.ndim <= axis or t.shape[axis] != n:
            raise InputError(
                f"result {index} has shape {list(t.shape)} for {n} rows: its axis {axis} is not "
                "the batch, so pieces of a batch cannot be joined; call with the batch whole"
            )
    return torch.cat(list(column), axis)
