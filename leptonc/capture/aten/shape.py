"""Importers of ops that rename axes: views, permutations, broadcasts, splits of axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leptonc.capture.aten.base import Importer, first, named
from leptonc.capture.context import Args, Context, axis_of, want
from leptonc.ir.core import Value
from leptonc.ir.dims import Dim
from leptonc.ir.types import DType


def _operand(a: Args) -> Value:
    return next(iter(a.given.values()))


def _reshape(c: Context, a: Args) -> Value:
    return c.reshape(_operand(a), c.out.shape)


def _squeeze(c: Context, a: Args) -> Value:
    """Import ``squeeze``; an axis of dynamic size stays, and so must never be 1."""
    x, dims = a.self, a.get("dim")
    axes = range(x.type.rank) if dims is None else [dims] if isinstance(dims, int) else dims
    for axis in axes if x.type.rank else ():
        c.sizes.exclude_one(x.type.shape[axis])
    return c.reshape(x, c.out.shape)


def _expand(c: Context, a: Args) -> Value:
    return c.expand(_operand(a), c.out.shape)


def _permute(c: Context, a: Args) -> Value:
    return c.transpose(a.self, [axis_of(d, a.self.type.rank) for d in a.dims])


def _transpose(c: Context, a: Args) -> Value:
    x = a.self
    i, j = (v for k, v in a.given.items() if k != "self")
    return c.swap(x, axis_of(i, x.type.rank), axis_of(j, x.type.rank)) if x.type.rank else x


def _matrix_transpose(c: Context, a: Args) -> Value:
    return c.swap(a.self, -2, -1) if a.self.type.rank >= 2 else a.self


def _reverse_axes(c: Context, a: Args) -> Value:
    return c.transpose(a.self, tuple(range(a.self.type.rank))[::-1])


def _movedim(c: Context, a: Args) -> Value:
    rank = a.self.type.rank
    source, to = (
        [axis_of(d, rank) for d in ([v] if isinstance(v, int) else v)]
        for v in (a.source, a.destination)
    )
    rest = iter(d for d in range(rank) if d not in source)
    placed = dict(zip(to, source, strict=True))
    return c.transpose(a.self, [placed[i] if i in placed else next(rest) for i in range(rank)])


def _repeat(c: Context, a: Args) -> Value:
    """Import ``repeat`` as an expansion of one new axis before each repeated one."""
    times = list(a.get("repeats", a.get("dims")))
    x = a.self
    times = [1] * (x.type.rank - len(times)) + times  # tile may name fewer axes
    shape = (*(1,) * (len(times) - x.type.rank), *x.type.shape)
    x = c.reshape(x, shape)
    lead: list[Dim] = []
    wide: list[Dim] = []
    for n, d in zip(times, shape, strict=True):
        again = not (isinstance(n, int) and n == 1)
        lead += [1, d] if again else [d]
        wide += [n, d] if again else [d]
    return c.reshape(c.expand(c.reshape(x, tuple(lead)), tuple(wide)), c.out.shape)


def _repeat_interleave(c: Context, a: Args) -> Value:
    x, n = a.self, a.repeats
    want(not isinstance(n, Value), "a repeat by a tensor depends on its values")
    if a.dim is None:
        x = c.reshape(x, (x.type.numel,))
    axis = axis_of(a.dim or 0, x.type.rank)
    before, d, after = x.type.shape[:axis], x.type.shape[axis], x.type.shape[axis + 1 :]
    wide = c.expand(c.reshape(x, (*before, d, 1, *after)), (*before, d, n, *after))
    return c.reshape(wide, c.out.shape)


def _broadcast_tensors(c: Context, a: Args) -> Any:
    return tuple(
        c.expand(t, o.shape) for t, o in zip(a.tensors, c.outs, strict=True) if o is not None
    )


def _meshgrid(c: Context, a: Args) -> Any:
    made: list[Value] = []
    swapped = a.get("indexing") == "xy"
    for i, t in enumerate(a.tensors):
        axis = {0: 1, 1: 0}.get(i, i) if swapped and len(a.tensors) > 1 else i
        shape: list[Dim] = [1] * len(a.tensors)
        shape[axis] = t.type.numel
        out = c.outs[i]
        want(out is not None, "it returns no tensor")
        made.append(c.expand(c.reshape(t, tuple(shape)), out.shape))  # type: ignore[union-attr]
    return tuple(made)


def _at_least(c: Context, a: Args) -> Value:
    return c.reshape(a.self, c.out.shape)


def _cast(c: Context, a: Args) -> Value:
    return c.cast(_operand(a), c.dtype)


def _pixel_shuffle(c: Context, a: Args) -> Value:
    x, r = a.self, a.upscale_factor
    *lead, _, h, w = x.type.shape
    n = len(lead)
    x = c.reshape(x, (*lead, c.out.shape[-3], r, r, h, w))
    x = c.transpose(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return c.reshape(x, c.out.shape)


def _pixel_unshuffle(c: Context, a: Args) -> Value:
    x, r = a.self, a.downscale_factor
    *lead, ch, _, _ = x.type.shape
    n = len(lead)
    x = c.reshape(x, (*lead, ch, c.out.shape[-2], r, c.out.shape[-1], r))
    x = c.transpose(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return c.reshape(x, c.out.shape)


def _channel_shuffle(c: Context, a: Args) -> Value:
    x, g = a.self, a.groups
    b, ch, *rest = x.type.shape
    want(isinstance(ch, int), "a dynamic number of channels")
    x = c.reshape(x, (b, g, int(ch) // g, *rest))
    return c.reshape(c.swap(x, 1, 2), c.out.shape)


def _dropout(c: Context, a: Args) -> Any:
    x, p, train, *_ = a.given.values()
    want(not train or p == 0.0, "dropout in training mode is random")
    return x if len(c.outs) == 1 else (x, None)


def _native_dropout(c: Context, a: Args) -> Any:
    want(not a.train and not c.used(1), "dropout in training mode is random")
    return a.input, None


def _view_dtype(c: Context, a: Args) -> Value:
    want(c.dtype is a.self.type.dtype, "reading the bytes as another dtype has no kind")
    return a.self


def _real(c: Context, a: Args) -> Value:
    want(c.dtype not in (DType.C64, DType.C128), "complex numbers have no kind")
    return a.self


_SAME = (
    "contiguous", "detach", "detach_", "clone", "alias", "lift", "lift_fresh", "lift_fresh_copy",
    "requires_grad_", "positive", "resolve_conj", "resolve_neg", "conj", "_conj",
    "conj_physical", "alias_copy", "detach_copy",
)  # fmt: skip
_CASTS = (
    "to.dtype", "to.device", "to.dtype_layout", "to.other", "to.prim_dtype", "to.prim_Device",
    "_to_copy.default", "type_as.default",
)  # fmt: skip
_RESHAPES = (
    "view.default", "reshape.default", "_unsafe_view.default", "view_as.default",
    "reshape_as.default", "flatten.using_ints", "unflatten.int", "unsqueeze.default",
    "ravel.default", "_reshape_alias.default", "view_copy.default", "unsqueeze_copy.default",
    "_reshape_copy.default",
)  # fmt: skip
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")

IMPORTERS: Mapping[str, Importer] = {
    **{f"aten.{name}.default": first for name in _SAME},
    **named(_cast, *_CASTS),
    **named(_reshape, *_RESHAPES),
    **named(_squeeze, "squeeze.default", "squeeze.dim", "squeeze.dims", "squeeze_copy.dims"),
    **named(_at_least, "atleast_1d.default", "atleast_2d.default", "atleast_3d.default"),
    **named(_expand, "expand.default", "expand_as.default", "broadcast_to.default"),
    **named(_expand, "expand_copy.default"),
    **named(_permute, "permute.default", "permute_copy.default"),
    **named(_transpose, "transpose.int", "swapaxes.default", "swapdims.default"),
    **named(_transpose, "transpose_copy.int"),
    **named(_matrix_transpose, "t.default", "mT.default", "mH.default", "adjoint.default"),
    **named(_matrix_transpose, "t_copy.default"),
    **named(_reverse_axes, "numpy_T.default", "matrix_H.default"),
    **named(_movedim, "movedim.int", "movedim.intlist", "moveaxis.int", "moveaxis.intlist"),
    **named(_repeat, "repeat.default", "tile.default"),
    **named(_repeat_interleave, "repeat_interleave.self_int"),
    **named(_broadcast_tensors, "broadcast_tensors.default"),
    **named(_meshgrid, "meshgrid.default", "meshgrid.indexing"),
    **named(_pixel_shuffle, "pixel_shuffle.default"),
    **named(_pixel_unshuffle, "pixel_unshuffle.default"),
    **named(_channel_shuffle, "channel_shuffle.default", "native_channel_shuffle.default"),
    **{f"aten.{name}.default": _dropout for name in _DROPOUTS},
    **named(_native_dropout, "native_dropout.default"),
    **named(_view_dtype, "view.dtype"),
    **named(_real, "real.default"),
}
