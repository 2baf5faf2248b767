"""From one placement of a value to another: which ops, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from leptonc.cost import cluster
from leptonc.cost.cluster import Link
from leptonc.ir.core import Builder, Value
from leptonc.ir.dims import Dim, as_dim, symbol
from leptonc.ir.kinds.collective import AllGather, AllReduce, AllToAll, Owned, ReduceScatter
from leptonc.ir.kinds.shape import Reshape, Slice
from leptonc.shard.parts import RANK, Cut, Parts
from leptonc.shard.placement import Partial, Placement, Replicate, Shard

_LOCAL_S = 1e-7  # seconds: a cut of what is whole is a view, but no reason to cut


@dataclass(frozen=True, slots=True)
class Move:
    """One step of data between ranks: a kind of collective, or "" where none is needed."""

    collective: str
    possible: bool = True


_FREE, _NO = Move(""), Move("", possible=False)


def move(a: Placement, b: Placement) -> Move:
    """Return how a value gets from placement ``a`` to ``b``."""
    if a == b:
        return _FREE
    match a, b:
        case Replicate(), Shard():
            return _FREE
        case Replicate(), Partial(op="sum"):
            return _FREE
        case Shard(), Replicate():
            return Move(cluster.ALL_GATHER)
        case Shard(axis=i), Shard(axis=j) if i != j:
            return Move(cluster.ALL_TO_ALL)
        case Partial(), Replicate():
            return Move(cluster.ALL_REDUCE)
        case Partial(op="sum"), Shard():
            return Move(cluster.REDUCE_SCATTER)
        case _:
            return _NO


def seconds(a: Placement, b: Placement, nbytes: float, link: Link, ranks: int) -> float:
    """Return what a move of a value of ``nbytes`` (of the whole) takes; inf if there is none."""
    step = move(a, b)
    if not step.possible:
        return math.inf
    if not step.collective:
        return 0.0 if a == b else _LOCAL_S
    return link.collective_s(step.collective, nbytes, ranks)


@dataclass
class Mover:
    """Emits moves of values of ``b`` (local values) that stand for values of the whole program."""

    b: Builder
    parts: Parts

    def __call__(self, value: Value, local: Value, a: Placement, to: Placement) -> Value:
        """Return ``local``, which stands for ``value`` under ``a``, under ``to``."""
        match a, to:
            case Replicate(), Shard():
                return self.own_part(value, local, to)
            case Replicate(), Partial():
                rank: Any = symbol(RANK)
                return self.b(Owned(rank), local, hint=value.hint)
            case Shard(), Replicate():
                return self._gather(value, local, a)
            case Shard(), Shard():
                return self._exchange(value, local, a, to)
            case Partial(op=op), Replicate():
                return self.b(AllReduce(op), local, hint=value.hint)
            case Partial(), Shard():
                return self._scatter(value, local, to)
            case _:
                raise AssertionError(f"no way from {a} to {to}")

    def own_part(self, value: Value, local: Value, s: Shard) -> Value:
        """Return the rank's part of a whole value."""
        cut = self.parts.cut(value, s)
        x = self._open(local, s, cut, cut.block)
        axis = s.axis + (s.outer > 1)
        stop: Any = cut.start
        x = self.b(Slice(axis, cut.start, as_dim(stop + cut.size)), x, hint=value.hint)
        return self._close(value, x, s)

    def _gather(self, value: Value, local: Value, s: Shard) -> Value:
        cut = self.parts.cut(value, s)
        x = self._open(local, s, cut, cut.size)
        x = self.b(AllGather(s.axis + (s.outer > 1), cut.cuts), x, hint=value.hint)
        return x if s.outer == 1 else self.b(Reshape(value.type.shape), x, hint=value.hint)

    def _scatter(self, value: Value, local: Value, s: Shard) -> Value:
        cut = self.parts.cut(value, s)
        x = self._open(local, s, cut, cut.block)
        kind = ReduceScatter(s.axis + (s.outer > 1), cut.cuts, cut.size)
        x = self.b(kind, x, hint=value.hint)
        return self._close(value, x, s)

    def _exchange(self, value: Value, local: Value, a: Shard, to: Shard) -> Value:
        """Move parts along one axis to parts along another (their blocks opened, if any)."""
        old, new = self.parts.cut(value, a), self.parts.cut(value, to)
        shape = list[Dim]()
        axes = dict[int, int]()
        for i, size in enumerate(value.type.shape):
            cut = {a.axis: old, to.axis: new}.get(i)
            if cut is not None and cut.outer > 1:
                shape.append(cut.outer)
            axes[i] = len(shape)
            if cut is None:
                shape.append(size)
            else:
                shape.append(old.size if i == a.axis else new.block)
        x = local if len(shape) == value.type.rank else self.b(Reshape(tuple(shape)), local)
        kind = AllToAll(axes[to.axis], new.cuts, new.size, axes[a.axis], old.cuts)
        return self._close_shape(value, self.b(kind, x), to)

    def _open(self, x: Value, s: Shard, cut: Cut, size: Dim) -> Value:
        """Return ``x`` with the outer blocks of its cut axis as an axis of their own."""
        if s.outer == 1:
            return x
        shape = x.type.shape
        return self.b(Reshape((*shape[: s.axis], s.outer, size, *shape[s.axis + 1 :])), x)

    def _close(self, value: Value, x: Value, s: Shard) -> Value:
        if s.outer == 1:
            return x
        return self.b(Reshape(self.parts.shape(value, s)), x, hint=value.hint)

    def _close_shape(self, value: Value, x: Value, s: Shard) -> Value:
        """Return ``x`` in the shape that a rank holds under ``s``."""
        shape = self.parts.shape(value, s)
        return x if x.type.shape == shape else self.b(Reshape(shape), x)
