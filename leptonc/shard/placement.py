"""Where a value lives: whole on every rank, cut along an axis, or as a sum over the ranks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Cuts: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank holds the whole value."""

    def __str__(self) -> str:
        return "R"


@dataclass(frozen=True, slots=True)
class Shard:
    """Every rank holds a part along ``axis``.

    The axis is ``outer`` blocks of equal length, of each of which a rank holds its part: the rows
    of a weight that makes queries, keys and values at once are three blocks.
    """

    axis: int
    outer: int = 1

    def __str__(self) -> str:
        return f"S{self.axis}" + (f"/{self.outer}" if self.outer > 1 else "")


@dataclass(frozen=True, slots=True)
class Partial:
    """Every rank holds a value of full size; combined by ``op`` they are the value."""

    op: str = "sum"

    def __str__(self) -> str:
        return "P" if self.op == "sum" else f"P{self.op}"


Placement: TypeAlias = "Replicate | Shard | Partial"
REPLICATE = Replicate()
PARTIAL = Partial()


def cut_evenly(units: int, ranks: int) -> Cuts:
    """Return offsets of ``ranks`` parts of ``units``, which differ by one at most, larger first."""
    each, more = divmod(units, ranks)
    sizes = [each + (r < more) for r in range(ranks)]
    return (0, *itertools.accumulate(sizes))


def cut_by_speed(units: int, speeds: Sequence[float]) -> Cuts:
    """Return offsets of parts in proportion to ``speeds``, one unit each at least.

    The part that would finish last is the smallest possible: units are dealt one by one to the
    rank that is done first with one more.

    Raises:
        ValueError: fewer units than ranks.
    """
    if units < len(speeds):
        raise ValueError(f"{units} units cannot be cut into {len(speeds)} parts")
    sizes = [1] * len(speeds)
    for _ in range(units - len(speeds)):
        r = min(range(len(speeds)), key=lambda r: ((sizes[r] + 1) / speeds[r], r))
        sizes[r] += 1
    return (0, *itertools.accumulate(sizes))


def scaled(cuts: Cuts, factor: int) -> Cuts:
    """Return the offsets in elements, of units of ``factor`` elements."""
    return tuple(c * factor for c in cuts)
