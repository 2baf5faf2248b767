"""torch_spmd > comm > forms: a collective on tensors of given shapes, as blocks sent and received.

A form holds everything about a call except the tensors, and all ranks make theirs from the same
facts: the same number of rounds, the same fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from leptonc.backends.torch_spmd.comm.layout import (
    Block,
    Shape,
    check_cuts,
    check_mine,
    dense,
    lengths,
    normal_axis,
    part,
    resized,
)
from leptonc.runtime.group.comm import CommError

OPS = ("sum", "max", "min")
_MASK = (1 << 62) - 1


@dataclass(frozen=True)
class Form:
    """One collective of one rank, in elements.

    Attributes:
        sent: the blocks of the source: one that everybody gets, or one for each rank.
        received: the blocks of the result, one from each rank; where sources are combined, the
            same dense block.
        most: elements of the largest block that any two ranks exchange.
        result: shape of the result.
        fingerprint: the same on all ranks if they do the same, a positive number.
    """

    sent: tuple[Block, ...]
    received: tuple[Block, ...]
    most: int
    result: Shape
    fingerprint: int


def fingerprint(*facts: int | tuple[int, ...]) -> int:
    """Return a number that follows from ``facts``, the same in every process."""
    return hash(facts) & _MASK or 1


def all_reduce(shape: Shape, op: str, world: int) -> Form:
    """Return the form in which every rank combines everything.

    Raises:
        CommError: there is no such ``op``.
    """
    count = 1
    for n in shape:
        count *= n
    whole = dense(count)
    mark = fingerprint(1, check_op(op), shape)
    return Form((whole,), (whole,) * world, count, shape, mark)


def all_gather(shape: Shape, axis: int, cuts: tuple[int, ...], rank: int, world: int) -> Form:
    """Return the form of joining parts of which this rank's has ``shape``.

    Raises:
        CommError: cuts, axis and shape do not fit.
    """
    axis = normal_axis("all_gather", shape, axis)
    check_cuts("all_gather", cuts, world)
    check_mine("all_gather", shape, axis, cuts, rank)
    whole = resized(shape, axis, cuts[-1])
    received = tuple(part(whole, axis, a, b) for a, b in pairwise(cuts))
    sent = dense(received[rank].count)
    mark = fingerprint(2, axis, cuts, whole)
    return Form((sent,), received, max(b.count for b in received), whole, mark)


def reduce_scatter(shape: Shape, axis: int, cuts: tuple[int, ...], rank: int, world: int) -> Form:
    """Return the form of summing tensors of ``shape`` and keeping one part.

    Raises:
        CommError: cuts, axis and shape do not fit.
    """
    axis = normal_axis("reduce_scatter", shape, axis)
    check_cuts("reduce_scatter", cuts, world, shape[axis])
    sent = tuple(part(shape, axis, a, b) for a, b in pairwise(cuts))
    mine = dense(sent[rank].count)
    result = resized(shape, axis, cuts[rank + 1] - cuts[rank])
    mark = fingerprint(3, axis, cuts, shape)
    return Form(sent, (mine,) * world, max(b.count for b in sent), result, mark)


def all_to_all(
    shape: Shape,
    split: int,
    split_cuts: tuple[int, ...],
    join: int,
    join_cuts: tuple[int, ...],
    rank: int,
    world: int,
) -> Form:
    """Return the form of changing the sharded axis from ``join`` to ``split``.

    Raises:
        CommError: cuts, axes and shape do not fit.
    """
    what = "all_to_all"
    split, join = normal_axis(what, shape, split), normal_axis(what, shape, join)
    if split == join:
        raise CommError(f"{what}: split and join are both axis {split}: expected two axes")
    check_cuts(what, split_cuts, world, shape[split])
    check_cuts(what, join_cuts, world)
    check_mine(what, shape, join, join_cuts, rank)
    mine = split_cuts[rank + 1] - split_cuts[rank]
    result = resized(resized(shape, split, mine), join, join_cuts[-1])
    sent = (part(shape, split, a, b) for a, b in pairwise(split_cuts))
    received = (part(result, join, a, b) for a, b in pairwise(join_cuts))
    others = 1
    for axis, n in enumerate(shape):
        others *= 1 if axis in (split, join) else n
    most = others * max(lengths(split_cuts)) * max(lengths(join_cuts))
    whole = resized(shape, join, join_cuts[-1])
    mark = fingerprint(4, split, split_cuts, join, join_cuts, whole)
    return Form(tuple(sent), tuple(received), most, result, mark)


def check_op(op: str) -> int:
    """Return the number of ``op``.

    Raises:
        CommError: there is no such ``op``.
    """
    if op not in OPS:
        raise CommError(f"all_reduce: op {op!r}: expected one of {OPS}")
    return OPS.index(op)
