"""The program of all ranks: one function, the sizes and offsets of each rank, and placements."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.collective import Collective
from leptonc.ir.specialize import Specializer
from leptonc.shard.placement import Placement


@dataclass(frozen=True, eq=False)
class Spmd:
    """What every rank runs (single program, multiple data).

    Attributes:
        function: its dims are the model's own dynamic sizes and the symbols of ``tables``.
        tables: for each symbol that differs from rank to rank its values, one a rank; ``rank``
            itself is among them.
        placements: where each value of ``function`` lives; what the verifier checks.
    """

    function: Function
    tables: Mapping[str, Sequence[int]]
    placements: Mapping[Value, Placement]

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return len(self.tables["rank"])

    @property
    def collectives(self) -> tuple[Op, ...]:
        """The ops by which ranks meet, in the order in which they do."""
        return tuple(op for op in self.function.ops if isinstance(op.kind, Collective))

    def sizes(self, rank: int) -> dict[str, int]:
        """Return the symbols of one rank."""
        return {name: values[rank] for name, values in self.tables.items()}

    def local(self, rank: int) -> Function:
        """Return the function of one rank; the model's own dynamic sizes stay symbols."""
        return Specializer(self.sizes(rank), partial=True).function(self.function)


def part_sizes(cuts: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of the parts between offsets."""
    return tuple(b - a for a, b in itertools.pairwise(cuts))
