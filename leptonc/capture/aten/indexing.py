"""Importers of look-ups: embedding, index, gather, index_select."""

from __future__ import annotations

from collections.abc import Mapping

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, axis_of, want
from leptonc.ir.core import Value
from leptonc.ir.dims import Dim, as_dim, product, same_dim
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.data import Embedding, Gather, IndexSelect, Iota
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.shape import Expand, Reshape, Transpose
from leptonc.ir.types import DType


def _embedding(c: Context, a: Args) -> Value:
    return c(Embedding(), a.weight, a.indices)


def _index(c: Context, a: Args) -> Value:
    """Import ``x[:, i]``, and ``x[i, j]`` where all but one index are ranges within their axis.

    Several indices become one into the joined axes. That keeps torch's range check only if at most
    the slowest of them can leave its axis, so the one that might is moved to the front.
    """
    given = [(axis, i) for axis, i in enumerate(a.indices) if i is not None]
    want(all(i.type.dtype.is_int for _, i in given), "an index by a mask has no kind")
    axes = [axis for axis, _ in given]
    want(axes == list(range(axes[0], axes[0] + len(axes))), "indices of separate axes")
    if len(given) == 1:
        return c(IndexSelect(axes[0], wrap=True), a.self, given[0][1])
    shape = a.self.type.shape
    given.sort(key=lambda g: _within(c, g[1], shape[g[0]]))  # stable: the loose ones first
    loose = sum(not _within(c, i, shape[axis]) for axis, i in given)
    want(loose <= 1, "an index by several tensors whose range is not known")
    return _joined_index(c, a.self, given)


def _joined_index(c: Context, x: Value, given: list[tuple[int, Value]]) -> Value:
    shape, at = x.type.shape, min(axis for axis, _ in given)
    order = [axis for axis, _ in given]
    rest = range(at + len(order), x.type.rank)
    x = c.transpose(x, [*range(at), *order, *rest])
    total = product(shape[axis] for axis in order)
    x = c.reshape(x, (*shape[:at], total, *(shape[i] for i in rest)))
    linear: Value | None = None
    for axis, index in given:
        index = c.cast(index, DType.I64)
        if linear is None:
            linear = index
        else:
            linear = c(Add(), c(Mul(), linear, c.full(shape[axis], DType.I64)), index)
    return c(IndexSelect(at, wrap=True), x, linear)  # type: ignore[arg-type]


def _within(c: Context, index: Value, size: Dim) -> bool:
    """Whether an index is a range that ends within an axis of ``size``, however reshaped."""
    op = c.b.producer.get(index)
    while op is not None and isinstance(op.kind, (Reshape, Expand, Transpose, Cast)):
        op = c.b.producer.get(op.operands[0])
    if op is None or not isinstance(op.kind, Iota):
        return False
    length, start, step = op.kind.length, op.kind.start, op.kind.step
    if not (isinstance(start, int) and start >= 0 and isinstance(step, int) and step == 1):
        return False
    end = as_dim(length + start)
    both = isinstance(end, int) and isinstance(size, int)
    return same_dim(end, size) or (both and end <= size)  # type: ignore[operator]


def _index_select(c: Context, a: Args) -> Value:
    want(a.self.type.rank > 0, "an index of a 0-d tensor")
    index = a.index if a.index.type.rank else c.reshape(a.index, (1,))
    return c(IndexSelect(axis_of(a.dim, a.self.type.rank)), a.self, index)


def _gather(c: Context, a: Args) -> Value:
    want(a.self.type.rank > 0 and a.index.type.rank > 0, "a gather of a 0-d tensor")
    return c(Gather(axis_of(a.dim, a.self.type.rank)), a.self, a.index)


IMPORTERS: Mapping[str, Importer] = {
    **named(_embedding, "embedding.default"),
    **named(_index, "index.Tensor", "_unsafe_index.Tensor"),
    **named(_index_select, "index_select.default"),
    **named(_gather, "gather.default"),
}
