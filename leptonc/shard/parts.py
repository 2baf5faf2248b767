"""Sizes and offsets of the ranks' parts: plain numbers where all are equal, symbols where not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leptonc.ir.core import Value
from leptonc.ir.dims import Dim, DimRange, Shape, as_dim, symbol
from leptonc.ir.types import TensorType
from leptonc.shard.placement import Cuts, Placement, Shard, cut_by_speed, cut_evenly, scaled
from leptonc.shard.program import part_sizes

RANK = "rank"
_NAMES = re.compile(rf"{RANK}|(len|off)\d+")


def is_name_of_parts(name: str) -> bool:
    """Return whether a symbol may stand for a rank, or for the size or the offset of a part."""
    return _NAMES.fullmatch(name) is not None


@dataclass(frozen=True)
class Cut:
    """How a cut axis is divided: ``outer`` blocks of ``units`` runs of ``inner`` elements.

    Attributes:
        outer: blocks.
        inner: elements of a unit.
        cuts: offsets of the parts in one block, in elements.
        size: elements of the own part of one block.
        start: where the own part of a block begins.
    """

    outer: int
    inner: int
    cuts: Cuts
    size: Dim
    start: Dim

    @property
    def block(self) -> int:
        """Elements of one block."""
        return self.cuts[-1]


@dataclass
class Parts:
    """Deals out units to ranks and names what differs from rank to rank.

    Attributes:
        units: between how many units each value is cut.
        speeds: of the ranks, any unit; equal ones give parts that differ by one unit at most.
        tables: the symbols so far and their values, one a rank.
    """

    units: Mapping[tuple[Value, Shard], int]
    speeds: Sequence[float]
    tables: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def __post_init__(self) -> None:
        self.tables[RANK] = tuple(range(len(self.speeds)))

    def cut(self, value: Value, s: Shard) -> Cut:
        """Return how ``s`` divides its axis of ``value``."""
        units = self.units[value, s]
        size = value.type.shape[s.axis]
        assert isinstance(size, int), "only axes of known size are cut"
        inner = size // s.outer // units
        cuts = self._cuts(units)
        sizes = part_sizes(cuts)
        if len(set(sizes)) == 1:
            each = sizes[0] * inner
            rank: Any = symbol(RANK)
            return Cut(s.outer, inner, scaled(cuts, inner), each, as_dim(rank * each))
        count, first = f"len{units}", f"off{units}"
        self.tables[count], self.tables[first] = sizes, cuts[:-1]
        own, start = (as_dim(symbol(name) * inner) for name in (count, first))
        return Cut(s.outer, inner, scaled(cuts, inner), own, start)

    def _cuts(self, units: int) -> Cuts:
        if len(set(self.speeds)) == 1:
            return cut_evenly(units, len(self.speeds))
        return cut_by_speed(units, self.speeds)

    def shape(self, value: Value, p: Placement) -> Shape:
        """Return the shape of what a rank holds of ``value``."""
        if not isinstance(p, Shard):
            return value.type.shape
        cut = self.cut(value, p)
        size: Any = cut.size
        own = as_dim(size * cut.outer)
        shape = value.type.shape
        return (*shape[: p.axis], own, *shape[p.axis + 1 :])

    def type(self, value: Value, p: Placement) -> TensorType:
        """Return the type of what a rank holds of ``value``."""
        return value.type.with_shape(self.shape(value, p)) if isinstance(p, Shard) else value.type

    def share(self, value: Value, p: Placement) -> float:
        """Return the largest part of ``value`` that a rank holds, 1.0 for all of it."""
        if not isinstance(p, Shard):
            return 1.0
        units = self.units[value, p]
        return max(part_sizes(self._cuts(units))) / units

    def dims(self) -> tuple[DimRange, ...]:
        """Return the symbols and the ranges of their values."""
        return tuple(DimRange(n, min(v), max(v)) for n, v in sorted(self.tables.items()))
