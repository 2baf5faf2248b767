"""A row of a benchmark: one network, its contestants, their figures or why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from leptonc.bench.protocol import Footprint, Ratio, Times
from leptonc.bench.protocol import ratio as ratio_of

OURS = "leptonc"


@dataclass(frozen=True)
class Entry:
    """One contestant on one network: its figures, or why there are none.

    ``error`` is the largest difference from eager over eager's largest element.
    """

    times: Times | None = None
    setup: Footprint = field(default_factory=Footprint)
    error: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One network at one batch size and thread count."""

    net: str
    batch: int
    threads: int
    entries: dict[str, Entry]
    export: Footprint
    stats: dict[str, Any]

    def times(self, name: str) -> Times | None:
        """Return the times of a contestant, None where it has none."""
        entry = self.entries.get(name)
        return None if entry is None else entry.times

    def ratio(self, to: Sequence[str]) -> Ratio | None:
        """Return how many times faster leptonc is than the best of ``to``, if both sides ran."""
        ours = self.times(OURS)
        found = {name: t for name in to if (t := self.times(name)) is not None}
        return None if ours is None else ratio_of(ours, found)
