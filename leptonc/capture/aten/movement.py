"""Importers of ops that take apart, join, pad and reorder tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, axis_of, want
from leptonc.errors import CaptureError
from leptonc.ir.core import Value
from leptonc.ir.dims import Dim, as_dim
from leptonc.ir.kinds.binary import Sub
from leptonc.ir.kinds.data import Constant, IndexSelect
from leptonc.ir.kinds.shape import Concat, Flip, Pad, Roll
from leptonc.ir.types import DType
from leptonc.meaning import const_of


def _join(c: Context, values: Sequence[Value], axis: int) -> Value:
    return values[0] if len(values) == 1 else c(Concat(axis), *values)


def _cat(c: Context, a: Args) -> Value:
    rank = c.out.rank
    axis = axis_of(a.get("dim", a.get("axis", 0)), rank)
    parts = [c.cast(t, c.dtype) for t in a.tensors if t.type.rank == rank]  # torch skips f32[0]
    want(bool(parts), "it joins nothing but empty vectors")
    return _join(c, parts, axis)


def _stack(c: Context, a: Args) -> Value:
    axis = axis_of(a.dim, c.out.rank)
    shape = c.out.shape
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    return _join(c, [c.reshape(c.cast(t, c.dtype), one) for t in a.tensors], axis)


def _hstack(c: Context, a: Args) -> Value:
    parts = [c.cast(t, c.dtype) for t in a.tensors]
    parts = [c.reshape(t, (1,)) if t.type.rank == 0 else t for t in parts]
    return _join(c, parts, 0 if parts[0].type.rank == 1 else 1)


def _vstack(c: Context, a: Args) -> Value:
    parts = [c.cast(t, c.dtype) for t in a.tensors]
    parts = [c.reshape(t, (1, t.type.numel)) if t.type.rank < 2 else t for t in parts]
    return _join(c, parts, 0)


def _pieces(c: Context, a: Args) -> Any:
    """Import any split of one axis into runs: the result types tell where each ends."""
    x = a.self
    want(x.type.rank > 0, "a split of a 0-d tensor")
    axis = axis_of(a.get("dim", 0), x.type.rank)
    start: Dim = 0
    made: list[Value | None] = []
    for i, out in enumerate(c.outs):
        want(out is not None, "it returns no tensor")
        length = out.shape[axis]  # type: ignore[union-attr]
        made.append(c.slice(x, axis, start, length) if c.used(i) else None)
        start = as_dim(start + length)
    return tuple(made)


def _tensor_split(c: Context, a: Args) -> Any:
    want(not isinstance(a.get("tensor_indices_or_sections"), Value), "a split by a tensor")
    indices = a.get("indices")
    if indices is not None:
        whole = all(isinstance(i, int) and i >= 0 for i in indices)
        want(whole, "a split counted from the end")
        want(list(indices) == sorted(indices), "a split whose parts overlap")
    return _pieces(c, a)


def _unbind(c: Context, a: Args) -> Any:
    axis = axis_of(a.dim, a.self.type.rank)
    return tuple(
        None if out is None or not c.used(i) else _selected(c, a.self, axis, i)
        for i, out in enumerate(c.outs)
    )


def _selected(c: Context, x: Value, axis: int, at: Dim) -> Value:
    one = c.slice(x, axis, at, 1)
    return c.reshape(one, (*x.type.shape[:axis], *x.type.shape[axis + 1 :]))


def from_end(at: Dim, size: Dim) -> Dim:
    """Return an index counted from the front, when its sign is known. Raises Unclaimed."""
    if isinstance(at, int):
        return as_dim(size + at) if at < 0 else at
    if at.is_nonnegative:
        return at
    want(at.is_negative is True, f"the sign of the index {at} is not known")
    return as_dim(size + at)


def _select(c: Context, a: Args) -> Value:
    axis = axis_of(a.dim, a.self.type.rank)
    return _selected(c, a.self, axis, from_end(a.index, a.self.type.shape[axis]))


def slice_start(a: Args, size: Dim) -> Dim:
    """Return where a slice begins, held within the axis."""
    at = 0 if a.start is None else from_end(a.start, size)
    if isinstance(at, int) and isinstance(size, int):
        return min(max(at, 0), size)
    if at == 0 or (isinstance(at, sympy.Expr) and at.is_nonnegative):
        return at
    return at if isinstance(at, int) else as_dim(sympy.Max(at, 0))


def _slice(c: Context, a: Args) -> Value:
    x = a.self
    axis = axis_of(a.dim, x.type.rank)
    want(isinstance(a.step, int), "a dynamic step")
    start, length = slice_start(a, x.type.shape[axis]), c.out.shape[axis]
    if isinstance(length, int) and length == 0 and not isinstance(start, int):
        start = 0
    return c.slice(x, axis, start, length, a.step)


def _narrow(c: Context, a: Args) -> Value:
    want(not isinstance(a.start, Value), "a slice whose start is a tensor")
    axis = axis_of(a.dim, a.self.type.rank)
    start = from_end(a.start, a.self.type.shape[axis])
    return c.slice(a.self, axis, start, a.length)


def _between(c: Context, x: Value, axis: int, start: Dim, stop: Dim) -> list[Value]:
    length = as_dim(stop - start)
    empty = isinstance(length, int) and length == 0
    return [] if empty else [c.slice(x, axis, start, length)]


def _slice_scatter(c: Context, a: Args) -> Value:
    """Import as the untouched ends around the new part."""
    x = a.self
    axis = axis_of(a.dim, x.type.rank)
    want(a.step == 1, "a scatter with a step has no kind")
    size, part = x.type.shape[axis], c.cast(a.src, c.dtype)
    start = slice_start(a, size)
    stop = as_dim(start + part.type.shape[axis])
    parts = [*_between(c, x, axis, 0, start), part, *_between(c, x, axis, stop, size)]
    return _join(c, parts, axis)


def _select_scatter(c: Context, a: Args) -> Value:
    x = a.self
    axis = axis_of(a.dim, x.type.rank)
    size = x.type.shape[axis]
    at = from_end(a.index, size)
    part = c.cast(a.src, c.dtype)
    part = c.reshape(part, (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :]))
    parts = [*_between(c, x, axis, 0, at), part]
    return _join(c, [*parts, *_between(c, x, axis, as_dim(at + 1), size)], axis)


def _as_strided(c: Context, a: Args) -> Value:
    """Import as a look-up by flat positions: the IR has no strides of its own."""
    fake = c.node.args[0].meta["val"]  # type: ignore[union-attr]
    plain = fake.is_contiguous() and fake.storage_offset() == 0
    numbers = (*a.size, *a.stride, a.storage_offset or 0, *c.out.shape)
    if not plain or not all(isinstance(n, int) for n in numbers):
        raise CaptureError("as_strided of memory that is not row-major; use plain indexing")
    at = torch.full((), a.storage_offset or 0, dtype=torch.int64)
    for n, stride in zip(a.size, a.stride, strict=True):
        at = at.unsqueeze(-1) + torch.arange(n) * stride
    flat = c.reshape(a.self, (a.self.type.numel,))
    return c(IndexSelect(0), flat, c(Constant(const_of(at))))


def _diff(c: Context, a: Args) -> Value:
    """Import the ``n``-th difference along an axis."""
    want(c.dtype is not DType.BOOL, "the difference of bools")
    x, axis = a.self, axis_of(a.dim, a.self.type.rank)
    x = _join(c, [t for t in (a.prepend, x, a.append) if t is not None], axis)
    for _ in range(a.n):
        length = as_dim(x.type.shape[axis] - 1)
        x = c(Sub(), c.slice(x, axis, 1, length), c.slice(x, axis, 0, length))
    return x


def _flip(c: Context, a: Args) -> Value:
    axes = tuple(sorted(axis_of(d, a.self.type.rank) for d in a.dims))
    return c(Flip(axes), a.self) if axes and a.self.type.rank else a.self


def _flip_one(axis: int) -> Importer:
    return lambda c, a: c(Flip((axis,)), a.self)


def _roll(c: Context, a: Args) -> Value:
    x = a.self
    want(all(isinstance(s, int) for s in a.shifts), "a dynamic shift")
    if not a.dims:
        flat = c(Roll(tuple(a.shifts), (0,)), c.reshape(x, (x.type.numel,)))
        return c.reshape(flat, x.type.shape)
    return c(Roll(tuple(a.shifts), tuple(axis_of(d, x.type.rank) for d in a.dims)), x)


def _padded(c: Context, x: Value, pads: Sequence[Any], mode: str, value: Any) -> Value:
    """Return ``x`` padded as torch lists it: pairs from the last axis backwards."""
    want(all(isinstance(p, int) for p in pads), "a dynamic padding")
    rest = [0] * (x.type.rank - len(pads) // 2)
    low, high = (tuple(rest + list(pads[i::2])[::-1]) for i in (0, 1))
    if not any((*low, *high)):
        return x
    if mode == "circular" and min(*low, *high) < 0:  # torch crops first, then wraps what is left
        crop = Pad(tuple(min(p, 0) for p in low), tuple(min(p, 0) for p in high))
        x = c(crop, x)
        low, high = (tuple(max(p, 0) for p in pads) for pads in (low, high))
    number = bool if c.dtype.value == "bool" else float if c.dtype.is_float else int
    return c(Pad(low, high, mode, number(value or 0)), x)


def _pad(c: Context, a: Args) -> Value:
    return _padded(c, a.self, a.pad, a.get("mode", "constant"), a.value)


def _pad_mode(mode: str) -> Importer:
    return lambda c, a: _padded(c, a.self, a.get("padding", a.get("pad")), mode, 0)


_SPLITS = (
    "split.Tensor", "split.sizes", "split.default", "split_with_sizes.default", "chunk.default",
    "unsafe_split.Tensor", "unsafe_chunk.default", "unsafe_split_with_sizes.default",
    "split_copy.Tensor", "split_with_sizes_copy.default",
)  # fmt: skip
_TENSOR_SPLITS = ("sections", "indices", "tensor_indices_or_sections")

IMPORTERS: Mapping[str, Importer] = {
    **named(_cat, "cat.default", "concat.default", "concatenate.default"),
    **named(_stack, "stack.default"),
    **named(_hstack, "hstack.default"),
    **named(_vstack, "vstack.default", "row_stack.default"),
    **named(_pieces, *_SPLITS),
    **named(_tensor_split, *(f"tensor_split.{form}" for form in _TENSOR_SPLITS)),
    **named(_unbind, "unbind.int", "unbind_copy.int"),
    **named(_select, "select.int", "select_copy.int"),
    **named(_slice, "slice.Tensor", "slice_copy.Tensor"),
    **named(_narrow, "narrow.default"),
    **named(_slice_scatter, "slice_scatter.default"),
    **named(_select_scatter, "select_scatter.default"),
    **named(_as_strided, "as_strided.default", "as_strided_copy.default"),
    **named(_diff, "diff.default"),
    **named(_flip, "flip.default"),
    **named(_flip_one(0), "flipud.default"),
    **named(_flip_one(1), "fliplr.default"),
    **named(_roll, "roll.default"),
    **named(_pad, "pad.default", "constant_pad_nd.default"),
    **{f"aten.reflection_pad{n}d.default": _pad_mode("reflect") for n in (1, 2, 3)},
    **{f"aten.replication_pad{n}d.default": _pad_mode("replicate") for n in (1, 2, 3)},
}
