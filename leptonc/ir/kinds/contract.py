"""Kinds that multiply and sum: linear, matmul, convolution, attention."""

from __future__ import annotations

from typing import ClassVar

from leptonc.ir.core import Kind, Types, kind
from leptonc.ir.dims import as_dim, divides, same_dim
from leptonc.ir.kinds.base import (
    FLOATS,
    NUMBERS,
    accept,
    arity,
    broadcast,
    need,
    same_dtype,
    window,
)
from leptonc.ir.types import DType, TensorType


@kind
class Linear(Kind):
    """``x @ w.T + b``. ``x: T[...,k], w: T[n,k], b: T[n]`` (optional) -> ``T[...,n]``."""

    NAME: ClassVar[str] = "linear"

    def infer(self, args: Types) -> Types:
        """Return ``T[...,n]``. Raises InferError."""
        x, w, *b = arity(self, args, 2, 3)
        dtype = accept(self, x, NUMBERS).dtype
        same_dtype(self, args)
        need(x.rank >= 1 and w.rank == 2, self, f"ranks of {x} and {w}")
        need(same_dim(x.shape[-1], w.shape[1]), self, f"{x} does not fit weight {w}")
        need(not b or b[0].shape == (w.shape[0],), self, "bias does not fit the weight")
        return (TensorType(dtype, (*x.shape[:-1], w.shape[0])),)


@kind
class Matmul(Kind):
    """Matrix product. ``x: T[...,m,k], y: T[...,k,n]`` -> ``T[...,m,n]``, batch broadcast."""

    NAME: ClassVar[str] = "matmul"

    def infer(self, args: Types) -> Types:
        """Return ``T[...,m,n]``. Raises InferError."""
        x, y = arity(self, args, 2)
        accept(self, x, NUMBERS)
        dtype = same_dtype(self, args)
        need(x.rank >= 2 and y.rank >= 2, self, f"needs matrices, got {x} and {y}")
        need(same_dim(x.shape[-1], y.shape[-2]), self, f"{x} does not fit {y}")
        batch = broadcast(self, x.shape[:-2], y.shape[:-2])
        return (TensorType(dtype, (*batch, x.shape[-2], y.shape[-1])),)


@kind
class Conv(Kind):
    """Convolution over 1 to 3 spatial axes, with zeros around.

    ``x: T[b,c,*in], w: T[n,c/groups,*kernel], bias: T[n]`` (optional) -> ``T[b,n,*out]``.
    ``padding`` counts the zeros before each axis, and those behind it unless ``padding_after``
    does. In the program of all ranks ``groups`` may be a symbol, whose value a rank knows.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    padding_after: tuple[int, ...] = ()
    NAME: ClassVar[str] = "conv"

    @property
    def after(self) -> tuple[int, ...]:
        """Zeros behind each spatial axis."""
        return self.padding_after or self.padding

    @property
    def padded(self) -> bool:
        """Whether there are any zeros around."""
        return any((*self.padding, *self.after))

    def infer(self, args: Types) -> Types:
        """Return ``T[b,n,*out]``. Raises InferError."""
        x, w, *b = arity(self, args, 2, 3)
        accept(self, x, NUMBERS)
        dtype, rank = same_dtype(self, args), x.rank - 2
        need(1 <= rank <= 3 and w.rank == x.rank, self, f"ranks of {x} and {w}")
        sizes = {len(self.stride), len(self.padding), len(self.dilation), len(self.after)}
        need(sizes == {rank}, self, f"stride, padding, dilation need {rank} entries each")
        fits = same_dim(x.shape[1], as_dim(w.shape[1] * self.groups))
        need(fits, self, f"{x} does not fit weight {w} in {self.groups} groups")
        need(not b or b[0].shape == (w.shape[0],), self, "bias does not fit the weight")
        out = tuple(
            window(as_dim(n + p + q), int(k), s, 0, d, ceil=False)
            for n, k, s, p, q, d in zip(
                x.shape[2:], w.shape[2:], self.stride, self.padding, self.after, self.dilation,
                strict=True,
            )
        )  # fmt: skip
        need(all(not isinstance(d, int) or d >= 1 for d in out), self, f"kernel exceeds {x}")
        n = w.shape[0]
        need(divides(self.groups, n), self, f"{self.groups} groups do not divide {w}")
        return (TensorType(dtype, (x.shape[0], n, *out)),)


@kind
class ConvTranspose(Kind):
    """Transposed convolution: ``x: T[b,c,*in], w: T[c,n/groups,*kernel], bias: T[n]`` (optional).

    ``out = (in - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1``.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    NAME: ClassVar[str] = "conv_transpose"

    def infer(self, args: Types) -> Types:
        """Return ``T[b,n,*out]``. Raises InferError."""
        x, w, *b = arity(self, args, 2, 3)
        accept(self, x, FLOATS)
        dtype = same_dtype(self, args)
        need(5 >= x.rank == w.rank >= 3, self, f"ranks of {x} and {w}")
        need(same_dim(x.shape[1], w.shape[0]), self, f"{x} does not fit weight {w}")
        n = as_dim(w.shape[1] * self.groups)
        need(not b or same_dim(b[0].shape[0], n), self, "bias does not fit the weight")
        out = tuple(
            (i - 1) * s - 2 * p + d * (k - 1) + o + 1
            for i, k, s, p, o, d in zip(
                x.shape[2:], w.shape[2:], self.stride, self.padding, self.output_padding,
                self.dilation, strict=True,
            )
        )  # fmt: skip
        return (TensorType(dtype, (x.shape[0], n, *out)),)


@kind
class Attention(Kind):
    """``softmax(scale * q k^T + mask) v`` over the last two axes.

    ``q: T[...,h,s,d], k: T[...,g,t,d], v: T[...,g,t,e], mask`` (optional, bool keeps where true, or
    T added; broadcast to ``[...,h,s,t]``) -> ``T[...,h,s,e]``. ``causal`` keeps ``j <= i`` (torch's
    top-left alignment); ``gqa`` lets ``g`` divide ``h``. A row that a mask takes out wholly gives
    zeros, as torch's kernel does, or NaN with ``nan_rows``, as the formula written out does.
    """

    scale: float
    causal: bool = False
    gqa: bool = False
    nan_rows: bool = False
    NAME: ClassVar[str] = "attention"

    def infer(self, args: Types) -> Types:
        """Return ``T[...,h,s,e]``. Raises InferError."""
        q, k, v, *mask = arity(self, args, 3, 4)
        dtype = accept(self, q, FLOATS).dtype
        same_dtype(self, (q, k, v))
        need(min(q.rank, k.rank, v.rank) >= 2, self, "needs matrices")
        need(same_dim(q.shape[-1], k.shape[-1]), self, f"{q} does not fit keys {k}")
        need(same_dim(k.shape[-2], v.shape[-2]), self, f"keys {k} do not fit values {v}")
        need(not mask or mask[0].dtype in (DType.BOOL, dtype), self, "mask must be bool or float")
        q_batch, k_batch, v_batch = q.shape[:-2], k.shape[:-2], v.shape[:-2]
        batch = q_batch if self.gqa else broadcast(self, q_batch, k_batch, v_batch)
        return (TensorType(dtype, (*batch, q.shape[-2], v.shape[-1])),)


KINDS: tuple[type[Kind], ...] = (Linear, Matmul, Conv, ConvTranspose, Attention)
