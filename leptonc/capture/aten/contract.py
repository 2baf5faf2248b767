"""Importers of products: linear, matrix products, convolutions, attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.aten.einsum import einsum, tensordot
from leptonc.capture.context import Args, Context, want
from leptonc.ir.core import Value
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds import binary
from leptonc.ir.kinds.contract import Attention, Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.shape import Pad


def present(*values: Any) -> tuple[Value, ...]:
    """Return the operands that are given."""
    return tuple(v for v in values if v is not None)


def _linear(c: Context, a: Args) -> Value:
    x, w, bias = a.input, a.weight, a.get("bias")
    if w.type.rank == 1:  # torch takes a vector as a matrix of one row
        out = c(Linear(), x, c.reshape(w, (1, w.type.shape[0])))
        out = c.reshape(out, c.out.shape)
        return out if bias is None else c(binary.Add(), out, bias)
    if bias is not None and bias.type.shape != (w.type.shape[0],):
        return c(binary.Add(), c(Linear(), x, w), bias)
    return c(Linear(), *present(x, w, bias))


def matmul(c: Context, x: Value, y: Value) -> Value:
    """Return torch's ``matmul``, vectors taken as a row (left) or a column (right)."""
    if x.type.rank == 1:
        x = c.reshape(x, (1, *x.type.shape))
    if y.type.rank == 1:
        y = c.reshape(y, (*y.type.shape, 1))
    return c.reshape(c(Matmul(), x, y), c.out.shape)


def _matmul(c: Context, a: Args) -> Value:
    x, y, *_ = a.given.values()
    want(x.type.rank > 0 and y.type.rank > 0, "it needs vectors or matrices")
    return matmul(c, x, y)


def _weighted(c: Context, product: Value, a: Args) -> Value:
    """Return ``beta * self + alpha * product``."""
    scaled = product if a.alpha == 1 else c(binary.Mul(), product, c.full(a.alpha, c.dtype))
    if a.beta == 0:
        return scaled  # torch does not read self then, NaN or not
    bias = a.self if a.beta == 1 else c(binary.Mul(), a.self, c.full(a.beta, c.dtype))
    return c.expand(c(binary.Add(), bias, scaled), c.out.shape)


def _addmm(c: Context, a: Args) -> Value:
    """Import as a linear layer where the second matrix is a constant and ``self`` its bias."""
    n = a.mat2.type.shape[1]
    plain = a.alpha == 1 and a.beta == 1 and a.self.type.shape == (n,)
    if plain and c.is_const(a.mat2):
        return c(Linear(), a.mat1, c.swap(a.mat2, 0, 1), a.self)
    return _weighted(c, c(Matmul(), a.mat1, a.mat2), a)


def _baddbmm(c: Context, a: Args) -> Value:
    return _weighted(c, c(Matmul(), a.batch1, a.batch2), a)


def _addmv(c: Context, a: Args) -> Value:
    product = c(Matmul(), a.mat, c.reshape(a.vec, (a.vec.type.shape[0], 1)))
    return _weighted(c, c.reshape(product, (a.mat.type.shape[0],)), a)


def _outer(c: Context, a: Args) -> Value:
    x, y, *_ = (c.cast(v, c.dtype) for v in a.given.values())
    return c(binary.Mul(), c.reshape(x, (x.type.shape[0], 1)), y)


def many(value: Any, n: int) -> tuple[int, ...]:
    """Return one int for each of ``n`` spatial axes from what torch accepts for them."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    want(all(isinstance(v, int) for v in values), "a dynamic stride, padding or dilation")
    return values * n if len(values) == 1 else values


def _spatial(c: Context, x: Value, w: Value) -> tuple[Value, int]:
    """Return ``x`` with a batch axis, and the number of spatial axes."""
    n = w.type.rank - 2
    if x.type.rank == n + 1:
        x = c.reshape(x, (1, *x.type.shape))
    return x, n


def _conv(c: Context, a: Args) -> Value:
    x, n = _spatial(c, a.input, a.weight)
    want(1 <= n <= 3, f"a convolution over {n} axes")
    stride, dilation = many(a.stride, n), many(a.dilation, n)
    if isinstance(a.padding, str):
        padding, x = _named_padding(c, a, x, dilation, n)
    else:
        padding = many(a.padding, n)
    if a.get("transposed"):
        return _transposed(c, a, x, (stride, padding, dilation, many(a.output_padding, n)))
    out = c(Conv(stride, padding, dilation, a.groups), *present(x, a.weight, a.bias))
    return c.reshape(out, c.out.shape)


def _named_padding(
    c: Context, a: Args, x: Value, dilation: tuple[int, ...], n: int
) -> tuple[tuple[int, ...], Value]:
    """Return torch's ``"same"`` or ``"valid"`` padding; an uneven one is added to ``x``."""
    if a.padding == "valid":
        return (0,) * n, x
    total = [d * (int(k) - 1) for d, k in zip(dilation, a.weight.type.shape[2:], strict=True)]
    extra = [t % 2 for t in total]
    if any(extra):
        x = c(_pad_high(x, extra), x)
    return tuple(t // 2 for t in total), x


def _pad_high(x: Value, extra: list[int]) -> Pad:
    zeros = (0,) * (x.type.rank - len(extra))
    return Pad((0,) * x.type.rank, (*zeros, *extra), "constant", 0.0)


def _transposed(c: Context, a: Args, x: Value, window: tuple[tuple[int, ...], ...]) -> Value:
    stride, padding, dilation, output_padding = window
    kind = ConvTranspose(stride, padding, output_padding, dilation, a.groups)
    return c.reshape(c(kind, *present(x, a.weight, a.bias)), c.out.shape)


def _conv_transpose(c: Context, a: Args) -> Value:
    x, n = _spatial(c, a.input, a.weight)
    window = (many(v, n) for v in (a.stride, a.padding, a.dilation, a.output_padding))
    return _transposed(c, a, x, tuple(window))


def _attention(c: Context, a: Args) -> Value:
    want(a.dropout_p == 0.0, "attention with dropout is random")
    q, mask, scale = a.query, a.attn_mask, a.scale
    if scale is None:
        want(isinstance(q.type.shape[-1], int), "a dynamic head size")
        scale = 1.0 / math.sqrt(q.type.shape[-1]) if q.type.shape[-1] else 1.0
    gqa = bool(a.enable_gqa) and not same_dim(q.type.shape[-3], a.key.type.shape[-3])
    kind = Attention(float(scale), bool(a.is_causal), gqa)
    return c(kind, *present(q, a.key, a.value, mask))


_CONVS = ("conv1d", "conv2d", "conv3d")

IMPORTERS: Mapping[str, Importer] = {
    **named(_linear, "linear.default"),
    **named(
        _matmul, "matmul.default", "mm.default", "bmm.default", "mv.default", "dot.default",
        "linalg_matmul.default",
    ),
    **named(_addmm, "addmm.default"),
    **named(_baddbmm, "baddbmm.default"),
    **named(_addmv, "addmv.default"),
    **named(_outer, "outer.default", "ger.default"),
    **named(einsum, "einsum.default"),
    **named(tensordot, "tensordot.default"),
    **named(_conv, *(f"{n}.{form}" for n in _CONVS for form in ("default", "padding"))),
    **named(_conv, "convolution.default", "_convolution.default"),
    **named(_conv_transpose, "conv_transpose1d.default", "conv_transpose2d.input"),
    **named(_conv_transpose, "conv_transpose3d.input"),
    **named(_attention, "scaled_dot_product_attention.default"),
}  # fmt: skip
