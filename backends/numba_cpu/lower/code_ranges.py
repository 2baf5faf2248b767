"""numba_cpu > lower > code_ranges: which codes a value can hold, as far as its makers tell.

``quantize`` clamps; what only moves codes about keeps their range. Anything else, and what comes
from outside, may hold all of its dtype. A product of codes reads it (:mod:`int8_job`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from leptonc.backends.numba_cpu.kernels.int8_pairs import Range
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.quantize import RANGES, Quantize, QuantizeRows
from leptonc.ir.kinds.reduce import AdaptiveMaxPool, MaxPool
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.shape import (
    Concat,
    Expand,
    Flip,
    Relayout,
    Reshape,
    Roll,
    Slice,
    Transpose,
)

_MOVES = (Reshape, Transpose, Expand, Slice, Flip, Roll, Relayout, Concat, MaxPool, AdaptiveMaxPool)


def codes_of(value: Value, known: Mapping[Value, Range]) -> Range:
    """Return the range of a value of i8 or u8."""
    return known.get(value) or Range(*RANGES[value.type.dtype])


def ranges_of(ops: Iterable[Op], known: Mapping[Value, Range]) -> dict[Value, Range]:
    """Return ``known`` and the ranges of what ``ops``, units among them, make of it.

    Only ranges that are less than the dtype's stand there.
    """
    found = dict(known)
    for op in ops:
        if isinstance(op.kind, Unit):
            found.update(_of_unit(op, op.kind.body, found))
            continue
        made = _made(op, found)
        if made is not None:
            found[op.results[0]] = made
    return found


def inside(op: Op, body: Function, known: Mapping[Value, Range]) -> dict[Value, Range]:
    """Return the ranges of the values of a unit's body."""
    pairs = zip(body.params, op.operands, strict=True)
    return ranges_of(body.ops, {inner: known[outer] for inner, outer in pairs if outer in known})


def _of_unit(op: Op, body: Function, known: Mapping[Value, Range]) -> dict[Value, Range]:
    """Return the ranges of a unit's results."""
    found = inside(op, body, known)
    pairs = zip(body.returns, op.results, strict=True)
    return {outer: found[inner] for inner, outer in pairs if inner in found}


def _made(op: Op, known: Mapping[Value, Range]) -> Range | None:
    """Return the range of the first result of ``op`` if it is known."""
    k = op.kind
    if isinstance(k, Quantize):
        return Range(k.low, k.high)
    if isinstance(k, QuantizeRows):
        return Range(-127, 127)
    if not isinstance(k, _MOVES) or any(v not in known for v in op.operands):
        return None
    return functools.reduce(Range.joined, (known[v] for v in op.operands))
