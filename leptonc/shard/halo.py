"""Windows over a spatial axis that is cut: each rank gets the rows beside its part.

A convolution or a pool of stride ``s`` whose input has ``s`` times as many rows as its output is
cut so that a rank holds the input rows right below its output rows. A window reaches ``before``
rows above them and ``after`` rows below; ranks tell each other their border rows in one
all-gather, and at the ends of the whole axis there is padding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from leptonc.ir.core import Builder, Kind, Op, Value
from leptonc.ir.dims import as_dim, symbol
from leptonc.ir.kinds.collective import AllGather
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.quantize import IntConv
from leptonc.ir.kinds.reduce import AvgPool, MaxPool
from leptonc.ir.kinds.shape import Concat, Pad, Slice
from leptonc.shard.parts import RANK, Parts
from leptonc.shard.placement import Shard
from leptonc.shard.strategy import Strategy

HALO = "halo"  # the name of the form


@dataclass(frozen=True)
class Halo:
    """What windows along one axis need beside a rank's own rows.

    Attributes:
        before: rows above, which are the padding at the top.
        after: rows below.
        units: between how many units the axis may be cut, so that a unit has rows enough for a
            neighbour.
    """

    before: int
    after: int
    units: int

    @property
    def rows(self) -> int:
        """Rows that a rank tells the others."""
        return self.before + self.after


def halo(op: Op, axis: int) -> Halo | None:
    """Return what the windows of ``op`` need along ``axis``; None where it cannot be cut there."""
    kind: Any = op.kind
    size, out = op.operands[0].type.shape[axis], op.result.type.shape[axis]
    if not (isinstance(size, int) and isinstance(out, int) and _plain(kind)):
        return None
    at = axis - (op.result.type.rank - len(kind.stride))
    stride, before = kind.stride[at], kind.padding[at]
    if size != stride * out:
        return None
    span = _dilation(kind, at) * (_kernel(op, axis, at) - 1) + 1
    if before >= span:
        return None  # windows that lie in the padding alone
    after = max(span - stride - before, 0)
    most = max(before, after, 1)
    fits = (u for u in range(out, 0, -1) if out % u == 0 and size // u >= most)
    units = next(fits, 0)
    return Halo(before, after, units) if units else None


def _plain(kind: Any) -> bool:
    """Return whether padding may be rows like others: it has a value, and windows are all equal."""
    if isinstance(kind, AvgPool):
        return not kind.ceil and (kind.include_pad or not any(kind.padding))
    return not getattr(kind, "ceil", False)


def _dilation(kind: Any, at: int) -> int:
    given = getattr(kind, "dilation", ())
    return int(given[at]) if given else 1


def _kernel(op: Op, axis: int, at: int) -> int:
    if isinstance(op.kind, (MaxPool, AvgPool)):
        return op.kind.kernel[at]
    size = op.operands[1].type.shape[axis]
    return size if isinstance(size, int) else 0


def with_halo(
    b: Builder, op: Op, s: Strategy, parts: Parts, operands: Sequence[Value]
) -> tuple[Value, ...]:
    """Emit a convolution or a pool on a rank's rows and those beside them."""
    cut = cast(Shard, s.ins[0])
    need = halo(op, cut.axis)
    assert need is not None
    x = operands[0]
    if need.rows:
        x = _joined(b, x, cut.axis, need, len(parts.speeds), _fill(op.kind))
    kind = _unpadded(op.kind, cut.axis - (x.type.rank - len(cast(Any, op.kind).stride)))
    return b.emit(kind, x, *operands[1:], hint=op.result.hint)


def _joined(b: Builder, x: Value, axis: int, need: Halo, ranks: int, fill: float) -> Value:
    """Return ``x`` between the rows above and below it."""
    rows = need.rows
    size: Any = x.type.shape[axis]
    ends = list[Value]()
    if need.after:  # the rank above reads my first rows
        ends.append(b(Slice(axis, 0, need.after), x))
    if need.before:
        ends.append(b(Slice(axis, as_dim(size - need.before), size), x))
    told = ends[0] if len(ends) == 1 else b(Concat(axis), *ends)
    all_ = b(AllGather(axis, tuple(r * rows for r in range(ranks + 1))), told)
    wide = tuple(rows if a == axis else 0 for a in range(x.type.rank))
    all_ = b(Pad(wide, wide, "constant", fill), all_)
    rank: Any = symbol(RANK)
    first = rank * rows + need.after  # behind the padding: rank r - 1 begins at r * rows
    made = [x]
    if need.before:
        made.insert(0, b(Slice(axis, as_dim(first), as_dim(first + need.before)), all_))
    if need.after:
        below = (rank + 2) * rows
        made.append(b(Slice(axis, as_dim(below), as_dim(below + need.after)), all_))
    return b(Concat(axis), *made)


def _fill(kind: Kind) -> float:
    """Return what lies outside of the whole axis."""
    if isinstance(kind, MaxPool):
        return -math.inf
    return kind.x_zero if isinstance(kind, IntConv) else 0.0


def _unpadded(kind: Kind, at: int) -> Kind:
    """Return ``kind`` without padding along spatial axis ``at``."""
    own: Any = kind
    changed: dict[str, tuple[int, ...]] = {"padding": _zeroed(own.padding, at)}
    if isinstance(kind, (Conv, IntConv)):
        changed["padding_after"] = _zeroed(kind.padding_after or kind.padding, at)
    return dataclasses.replace(own, **changed)


def _zeroed(padding: tuple[int, ...], at: int) -> tuple[int, ...]:
    return tuple(0 if i == at else p for i, p in enumerate(padding))
