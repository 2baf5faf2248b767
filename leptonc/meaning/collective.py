"""Collectives as torch expressions over the tensors of all ranks.

``TOGETHER`` maps a kind to ``(kinds, tensors) -> tensors``, one of each a rank: attributes may
differ from rank to rank (the size of the own part). Sums are added in the order of the ranks, so
every rank holds the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from leptonc.errors import InputError
from leptonc.ir.core import Kind
from leptonc.ir.kinds import collective
from leptonc.meaning.elementwise import Expression

Together = Callable[[Sequence[Any], Sequence[Tensor]], list[Tensor]]
_COMBINE: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"sum": torch.add, "max": torch.maximum, "min": torch.minimum}
)


def combined(tensors: Sequence[Tensor], op: str) -> Tensor:
    """Return the tensors combined element by element, the first with the second, and so on."""
    total = tensors[0].clone()
    for t in tensors[1:]:
        total = _COMBINE[op](total, t) if total.dtype is not torch.bool else _logical(op, total, t)
    return total


def _logical(op: str, a: Tensor, b: Tensor) -> Tensor:
    return a & b if op == "min" else a | b


def part(x: Tensor, axis: int, cuts: Sequence[int], rank: int) -> Tensor:
    """Return a rank's part of ``x`` along ``axis``, a view."""
    return x.narrow(axis, cuts[rank], cuts[rank + 1] - cuts[rank])


def _all_reduce(kinds: Sequence[collective.AllReduce], tensors: Sequence[Tensor]) -> list[Tensor]:
    total = combined(tensors, kinds[0].op)
    return [total.clone() for _ in tensors]


def _all_gather(kinds: Sequence[collective.AllGather], tensors: Sequence[Tensor]) -> list[Tensor]:
    _check_parts(tensors, kinds[0].axis, kinds[0].cuts)
    whole = torch.cat(list(tensors), kinds[0].axis)
    return [whole.clone() for _ in tensors]


def _reduce_scatter(
    kinds: Sequence[collective.ReduceScatter], tensors: Sequence[Tensor]
) -> list[Tensor]:
    total = combined(tensors, "sum")
    axis, cuts = kinds[0].axis, kinds[0].cuts
    return [part(total, axis, cuts, r).clone() for r in range(len(tensors))]


def _all_to_all(kinds: Sequence[collective.AllToAll], tensors: Sequence[Tensor]) -> list[Tensor]:
    k = kinds[0]
    _check_parts(tensors, k.join, k.join_cuts)
    whole = torch.cat(list(tensors), k.join)
    return [part(whole, k.split, k.split_cuts, r).clone() for r in range(len(tensors))]


def _check_parts(tensors: Sequence[Tensor], axis: int, cuts: Sequence[int]) -> None:
    """Raise InputError unless the ranks hold the parts that ``cuts`` tell."""
    got = [t.shape[axis] for t in tensors]
    want = [b - a for a, b in itertools.pairwise(cuts)]
    if got != want:
        raise InputError(f"parts along axis {axis} are {got}, cuts {tuple(cuts)} ask for {want}")


TOGETHER: Mapping[type[Kind], Together] = MappingProxyType(
    {
        collective.AllReduce: _all_reduce,
        collective.AllGather: _all_gather,
        collective.ReduceScatter: _reduce_scatter,
        collective.AllToAll: _all_to_all,
    }
)


def _refuse(kind: Kind, *operands: Tensor) -> Tensor:
    raise InputError(f"{kind.NAME}: one rank alone cannot run it; run all in lock step")


def owned(kind: collective.Owned, x: Tensor) -> Tensor:
    """Return ``x`` on rank 0, zeros elsewhere."""
    return x.clone() if kind.rank == 0 else torch.zeros_like(x)


ALONE: Mapping[type[Kind], Expression] = {
    **dict.fromkeys(TOGETHER, _refuse),
    collective.Owned: owned,
}
