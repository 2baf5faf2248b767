"""numba_cpu > lower > code_ranges: which codes a value can hold, as far as its makers tell.

``quantize`` clamps; what only moves codes about keeps their range. Anything else, and what comes
from outside, may hold all of its dtype. A product of codes reads it (:mod:`int8_job`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from leptonc.backends.numba_cpu.kernels.int8_pairs import Range
from leptonc.ir.core import Op, Value
from leptonc.ir.kinds.quantize import RANGES, Quantize, QuantizeRows
from leptonc.ir.kinds.reduce import AdaptiveMaxPool, MaxPool
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
    """Return the ranges of what ``ops`` make, where they are less than their dtype's."""
    found: dict[Value, Range] = {}
    for op in ops:
        made = _made(op, {**known, **found})
        if made is not None:
            found[op.results[0]] = made
    return found


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
