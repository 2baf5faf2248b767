"""numba_cpu > spaced: rows that lie a multiple of a page apart get a gap, so that caches hold them.

The lines of such rows meet in one set of the first-level cache. A product that writes them, and one
that reads them, loses its lines to its own (:func:`igemm.copy_pitch` copies the operand then). What
one product makes for others alone, the wide layer inside of a transformer's block, has no other
reader to whom its strides matter: it lies with a cache line between its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from leptonc.backends.numba_cpu.kernels.igemm_record import LINE, SET_BYTES
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.views import View, row_major, static_shape
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import DType


def spaced(
    ctx: Lowering, ops: Sequence[Op], readers: Sequence[Op], fixed: Collection[Value]
) -> dict[Value, View]:
    """Return where to write the results of linear layers that only linear layers read.

    Args:
        ctx: the lowering, which gives memory.
        ops: the units that may write into gaps, all sizes ints.
        readers: every unit that may read their results.
        fixed: values whose place is given, or that the program returns.
    """
    free: set[Value] = {
        v
        for op in ops
        if _root(op) is not None
        for v in op.results
        if v not in fixed and _needs_gap(v)
    }
    for op in readers:
        body = op.kind.body if isinstance(op.kind, Unit) else None
        root = _root(op)
        for i, v in enumerate(op.operands):
            if v in free and (body is None or root is None or not _only_rows(body, root, i)):
                free.discard(v)
    return {v: _with_gaps(ctx, v) for op in ops for v in op.results if v in free}


def _root(op: Op) -> Op | None:
    """Return the linear layer that a unit begins with, if it is lowered as one product."""
    if not isinstance(op.kind, Unit) or op.kind.pattern != "contract" or len(op.results) != 1:
        return None
    work = (o for o in op.kind.body.ops if not isinstance(o.kind, (Constant, Full)))
    first = next(work, None)
    return first if first is not None and isinstance(first.kind, Linear) else None


def _only_rows(body: Function, root: Op, index: int) -> bool:
    """Return whether operand ``index`` of a unit is the rows of its product and nothing else."""
    param = body.params[index]
    return root.operands[0] is param and body.use_count[param] == 1


def _needs_gap(value: Value) -> bool:
    """Return whether the rows of a float32 ``value`` lie a multiple of a page apart."""
    shape = static_shape(value.type)
    if len(shape) < 2 or 0 in shape:
        return False
    plain = value.type.dtype is DType.F32 and value.type.layout is None
    return plain and 4 * shape[-1] % SET_BYTES == 0


def _with_gaps(ctx: Lowering, value: Value) -> View:
    """Return memory with a cache line between the rows of ``value``."""
    shape = static_shape(value.type)
    pitch = shape[-1] + LINE // DType.F32.nbytes
    whole = ctx.temp(DType.F32, (*shape[:-1], pitch), note=value.hint)
    return View(whole.buffer, DType.F32, shape, row_major(whole.shape))
