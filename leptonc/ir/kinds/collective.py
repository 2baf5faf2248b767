"""Kinds by which the ranks of a sharded program exchange data.

A sharded program is one function that every rank runs. Sizes that differ from rank to rank are
symbols; ``cuts`` are the offsets of the ranks' parts in a whole axis: rank ``r`` of ``n`` holds
``cuts[r] : cuts[r + 1]``, ``len(cuts) == n + 1``.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

from leptonc.ir.core import Kind, Trait, Types, kind
from leptonc.ir.dims import Dim, same_dim
from leptonc.ir.kinds.base import ORDERED, accept, arity, check_axis, need
from leptonc.ir.types import TensorType

REDUCTIONS = ("sum", "max", "min")
Cuts = tuple[int, ...]


class Collective(Kind):
    """Base of the kinds that every rank must run together, in one order."""

    TRAITS: ClassVar[Trait] = Trait.PURE


@kind
class AllReduce(Collective):
    """Combine the ranks' ``x`` element by element, in the order of the ranks: ``T`` -> ``T``."""

    op: str = "sum"
    NAME: ClassVar[str] = "all_reduce"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(self.op in REDUCTIONS, self, f"op must be one of {', '.join(REDUCTIONS)}")
        return (accept(self, x, ORDERED),)


@kind
class AllGather(Collective):
    """Join the ranks' parts along ``axis``: ``T[..,part,..]`` -> ``T[..,whole,..]``."""

    axis: int
    cuts: Cuts
    NAME: ClassVar[str] = "all_gather"

    def infer(self, args: Types) -> Types:
        """Return the whole type. Raises InferError."""
        (x,) = arity(self, args, 1)
        check_axis(self, self.axis, x.rank)
        _check_part(self, x, self.axis, self.cuts)
        return (_resized(x, self.axis, self.cuts[-1]),)


@kind
class ReduceScatter(Collective):
    """Add the ranks' ``x`` and keep the own part along ``axis``, of ``part`` elements."""

    axis: int
    cuts: Cuts
    part: Dim
    NAME: ClassVar[str] = "reduce_scatter"

    def infer(self, args: Types) -> Types:
        """Return the type of the part. Raises InferError."""
        (x,) = arity(self, args, 1)
        accept(self, x, ORDERED)
        check_axis(self, self.axis, x.rank)
        _check_cuts(self, self.cuts)
        need(same_dim(x.shape[self.axis], self.cuts[-1]), self, f"cuts {self.cuts} of {x}")
        return (_resized(x, self.axis, self.part),)


@kind
class AllToAll(Collective):
    """Turn parts along ``join`` into parts along ``split``.

    ``T[..,whole,..,part,..]`` -> ``T[..,part,..,whole,..]``; ``part`` is the own share of
    ``split``.
    """

    split: int
    split_cuts: Cuts
    part: Dim
    join: int
    join_cuts: Cuts
    NAME: ClassVar[str] = "all_to_all"

    def infer(self, args: Types) -> Types:
        """Return the type of the new part. Raises InferError."""
        (x,) = arity(self, args, 1)
        for axis in (self.split, self.join):
            check_axis(self, axis, x.rank)
        need(self.split != self.join, self, "split and join are one axis")
        _check_cuts(self, self.split_cuts)
        _check_part(self, x, self.join, self.join_cuts)
        whole = self.split_cuts[-1]
        need(same_dim(x.shape[self.split], whole), self, f"cuts {self.split_cuts} of {x}")
        return (_resized(_resized(x, self.split, self.part), self.join, self.join_cuts[-1]),)


@kind
class Owned(Kind):
    """``x`` on rank 0 and zeros on all others: a whole value as a sum over the ranks."""

    rank: Dim
    NAME: ClassVar[str] = "owned"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        return (x,)


def _check_cuts(k: Kind, cuts: Cuts) -> None:
    rising = all(a <= b for a, b in itertools.pairwise(cuts))
    need(len(cuts) >= 2 and cuts[0] == 0 and rising, k, f"cuts {cuts} do not rise from 0")


def _check_part(k: Kind, x: TensorType, axis: int, cuts: Cuts) -> None:
    """Raise InferError unless ``x`` may be a part under ``cuts``."""
    _check_cuts(k, cuts)
    size = x.shape[axis]
    parts = {b - a for a, b in itertools.pairwise(cuts)}
    need(not isinstance(size, int) or size in parts, k, f"{x} is no part under cuts {cuts}")


def _resized(x: TensorType, axis: int, size: Dim) -> TensorType:
    return x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :]))


KINDS: tuple[type[Kind], ...] = (AllReduce, AllGather, ReduceScatter, AllToAll, Owned)
