"""A strategy: one way to run an op on parts of its operands, and what its rule may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from leptonc.ir.core import Op, Value
from leptonc.ir.dims import Dim
from leptonc.shard.placement import REPLICATE, Placement, Shard


@dataclass(frozen=True, slots=True)
class Strategy:
    """Placements of operands and results under which every rank runs the op on what it holds.

    Attributes:
        ins: one an operand.
        outs: one a result.
        units: all axes that are cut are cut between so many units at most (0: no limit), as
            groups of a convolution and heads are.
        form: how it is lowered where the op on the parts alone does not do; "" else.
    """

    ins: tuple[Placement, ...]
    outs: tuple[Placement, ...]
    units: int = 0
    form: str = ""

    @property
    def divides(self) -> bool:
        """Whether the ranks share the op's operations."""
        return any(isinstance(p, Shard) for p in (*self.ins, *self.outs))

    def __str__(self) -> str:
        ins, outs = ", ".join(map(str, self.ins)), ", ".join(map(str, self.outs))
        return f"({ins}) -> {outs}" + (f" [{self.form}]" if self.form else "")


@dataclass(frozen=True)
class Site:
    """An op, the ways its operands and results may be cut so far, and the number of ranks."""

    op: Op
    shards: Mapping[Value, Iterable[Shard]]
    ranks: int

    @property
    def kind(self) -> Any:
        """The op's kind."""
        return self.op.kind

    def size(self, i: int, axis: int) -> Dim:
        """Return a size of operand ``i``."""
        return self.op.operands[i].type.shape[axis]

    def rank_of(self, i: int) -> int:
        """Return the number of axes of operand ``i``."""
        return self.op.operands[i].type.rank

    def of(self, i: int) -> tuple[Shard, ...]:
        """Return the ways operand ``i`` may be cut."""
        return tuple(self.shards.get(self.op.operands[i], ()))

    def of_result(self, i: int = 0) -> tuple[Shard, ...]:
        """Return the ways result ``i`` may be cut."""
        return tuple(self.shards.get(self.op.results[i], ()))

    def blocks(self, *places: tuple[str, int, int]) -> tuple[int, ...]:
        """Return the numbers of outer blocks by which any of these axes may be cut, ascending.

        Args:
            places: ``("in" | "out", index, axis)`` of axes that have one size.
        """
        found = set[int]()
        for side, i, axis in places:
            shards = self.of(i) if side == "in" else self.of_result(i)
            found.update(s.outer for s in shards if s.axis == axis)
        return tuple(sorted(found))


Rule: TypeAlias = "Callable[[Site], Iterable[Strategy]]"


def whole(op: Op) -> Strategy:
    """Return the strategy that every op has: each rank runs it on whole values."""
    return Strategy((REPLICATE,) * len(op.operands), (REPLICATE,) * len(op.results))


def can_cut(size: Dim) -> bool:
    """Return whether an axis of this size may be cut: its size is known, and above one."""
    return isinstance(size, int) and size > 1


def cuttable(value: Value) -> tuple[Shard, ...]:
    """Return one cut for each axis of ``value`` that can be."""
    return tuple(Shard(a) for a, size in enumerate(value.type.shape) if can_cut(size))
