"""parts > weigh: what blocks cost, and what crosses each cut between them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from leptonc.cost.flops import Cost, known, nbytes, op_cost
from leptonc.errors import PartError
from leptonc.ir.constants import Const
from leptonc.ir.core import Op, Value
from leptonc.ir.dims import Dim, as_dim
from leptonc.ir.kinds.data import Constant, Embedding, Gather, IndexSelect
from leptonc.ir.specialize import Specializer
from leptonc.parts.blocks import SOURCES, Blocks

_LOOKUPS = (Embedding, IndexSelect, Gather)  # read as much of a table as they return
SMALL = 64 << 10  # bytes; a constant that is no parameter and not larger is copied, not sent


@dataclass(frozen=True)
class Machine:
    """What one device does in a second, and how fast values move between two of them.

    The defaults are one core of a server; only their ratios decide where cuts go.

    Attributes:
        flops: floating-point operations a second.
        bytes: bytes a second from and to its memory.
        floor: seconds that a block takes however small it is.
        link: bytes a second from one device to the next.
    """

    flops: float = 60e9
    bytes: float = 12e9
    floor: float = 1e-6
    link: float = 10e9

    def __post_init__(self) -> None:
        for name in ("flops", "bytes", "link"):
            if not getattr(self, name) > 0:
                raise PartError(f"machine: {name} is {getattr(self, name)}; it must be positive")

    def seconds(self, cost: Cost) -> float:
        """Return the roofline: the slower of computing and moving, at least the floor."""
        return max(known(cost.flops) / self.flops, known(cost.bytes) / self.bytes, self.floor)


@dataclass(frozen=True)
class Weights:
    """Figures of a row of blocks, one entry a block.

    Attributes:
        costs: operations and bytes of each block.
        live: bytes that cross the cut before each block.
    """

    costs: tuple[Cost, ...]
    live: tuple[int, ...]


def weigh(blocks: Blocks, sizes: Mapping[str, int], copied: Collection[Value]) -> Weights:
    """Return the costs of ``blocks`` and what crosses each cut.

    Args:
        blocks: the program.
        sizes: the value of every symbolic size.
        copied: constants that every part may have for itself; the others are in one part, and
            cross a cut as other values do.
    """
    fix = _Static(sizes)
    first, last = _spans(blocks)
    leaving = {fix.value(v) for v in blocks.function.returns}
    leaving.update(fix.value(v) for v, end in last.items() if end > first[v])
    costs = tuple(_block_cost([fix.op(op) for op in ops], leaving) for ops in blocks.blocks)
    free = {r for op in blocks.function.ops if _is_free(op, copied) for r in op.results}
    steps = [0] * (len(blocks.blocks) + 1)
    for v, end in last.items():
        if v not in free and end > first[v]:
            size = known(nbytes((fix.value(v),)))
            steps[first[v] + 1] += size
            steps[end + 1] -= size
    return Weights(costs, tuple(accumulate(steps[:-1])))


def timed(
    names: Sequence[str], estimated: Sequence[float], measured: Mapping[str, float]
) -> list[float]:
    """Return the seconds of each block: measured where its name is known, else estimated.

    Estimates are scaled to what was measured of the others.
    """
    both = [(e, measured[n]) for n, e in zip(names, estimated, strict=True) if n in measured]
    scale = sum(m for _, m in both) / sum(e for e, _ in both) if both else 1.0
    return [measured.get(n, e * scale) for n, e in zip(names, estimated, strict=True)]


class _Static:
    """Ops and values with the sizes put in; what is static already stays what it is."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._fix = Specializer(sizes)
        self._values: dict[Value, Value] = {}

    def value(self, v: Value) -> Value:
        """Return ``v``, or the one value that stands for it under the sizes."""
        if not self._fix.sizes:
            return v
        if v not in self._values:
            t = self._fix.type(v.type)
            self._values[v] = v if t is v.type else Value(t, v.hint)
        return self._values[v]

    def op(self, op: Op) -> Op:
        """Return ``op`` with concrete types."""
        if not self._fix.sizes:
            return op
        operands, results = (tuple(map(self.value, vs)) for vs in (op.operands, op.results))
        return Op(self._fix.kind(op.kind), operands, results, op.origin)


def _spans(blocks: Blocks) -> tuple[dict[Value, int], dict[Value, int]]:
    """Return the block that each value is there from, and the last that reads it.

    The caller's values are there from the first block on, a source from its first reader on.
    """
    first: dict[Value, int] = dict.fromkeys(blocks.function.params, 0)
    last: dict[Value, int] = {}
    for i, ops in enumerate(blocks.blocks):
        for op in ops:
            for v in op.operands:
                last[v] = i
                first.setdefault(v, i)
            first.update(dict.fromkeys(op.results, i))
    return first, last


def _block_cost(ops: Sequence[Op], leaving: Collection[Value]) -> Cost:
    """Return the operations of ``ops``, and the bytes that enter and leave them together."""
    if len(ops) == 1:
        return op_cost(ops[0])
    made = {r for op in ops for r in op.results}
    flops: Dim = 0
    read: list[Value] = []
    rows: Dim = 0
    for op in ops:
        flops = as_dim(flops + op_cost(op).flops)
        lookup = isinstance(op.kind, _LOOKUPS)
        read += op.operands[1:] if lookup else op.operands
        rows = as_dim(rows + nbytes(op.results)) if lookup else rows
    entering = nbytes(v for v in read if v not in made)
    return Cost(flops, as_dim(rows + entering + nbytes(v for v in made if v in leaving)))


def _is_free(op: Op, copied: Collection[Value]) -> bool:
    """Return whether each part makes the results of ``op`` for itself."""
    if isinstance(op.kind, Constant):
        return op.result in copied
    return isinstance(op.kind, SOURCES)


@dataclass(frozen=True)
class Original:
    """A constant of the captured program: its name, and whether it is a parameter of the model."""

    name: str
    const: Const
    parameter: bool


def copied_constants(
    blocks: Blocks, parts: int, originals: Iterable[Original]
) -> dict[Value, tuple[str, ...]]:
    """Return the constants that each part that reads them may hold for itself, with their names.

    A parameter is in one part only. But equal parameters became one constant under ``cse``: where
    the model has as many as there can be readers, each takes one of them, and its name. Everybody
    has a copy of a small constant that is no parameter, which has no names here.

    Args:
        blocks: the program.
        parts: how many parts there will be.
        originals: the constants of the captured program.
    """
    fn = blocks.function
    readers = _readers(blocks)
    # Names of constants that were not merged away, and those that are given to copies.
    there = {op.result.hint for op in fn.ops if isinstance(op.kind, Constant)}
    by_type: dict[object, list[Original]] = {}
    found: dict[Value, tuple[str, ...]] = {}
    for op in fn.ops:
        if not isinstance(op.kind, Constant) or readers.get(op.result, 0) < 2:
            continue
        if op.result in fn.returns:  # the caller reads it, too: one part gives it to everybody
            continue
        if not by_type:
            for o in originals:
                by_type.setdefault(o.const.type, []).append(o)
        const = op.kind.const
        same = [
            o
            for o in by_type.get(const.type, ())
            if o.const == const and (o.name == op.result.hint or o.name not in there)
        ]
        if not any(o.parameter for o in same) and known(nbytes((op.result,))) <= SMALL:
            found[op.result] = ()
        elif len(same) >= min(parts, readers[op.result]):
            found[op.result] = tuple(o.name for o in same)
            there.update(found[op.result])
    return found


def _readers(blocks: Blocks) -> dict[Value, int]:
    """Return how many blocks read each value."""
    counts: dict[Value, int] = {}
    for ops in blocks.blocks:
        for v in {v for op in ops for v in op.operands}:
            counts[v] = counts.get(v, 0) + 1
    return counts
