"""Importers of reductions, arg-reductions, norms and scans."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, axes_of, axis_of, want
from leptonc.ir.core import Kind, Value
from leptonc.ir.dims import Dim
from leptonc.ir.kinds import binary, reduce, unary
from leptonc.ir.kinds.pointwise import Where
from leptonc.ir.types import DType


def _axes(a: Args, rank: int) -> tuple[int, ...]:
    return axes_of(a.get("dim"), rank)


def _keep(a: Args) -> bool:
    return bool(a.get("keepdim", False))


def _reduced(kind: Callable[..., Kind], x: Value, a: Args, c: Context) -> Value:
    """Return ``kind`` over the axes the call names; ``x`` itself if it has none."""
    axes = _axes(a, x.type.rank)
    return c(kind(axes, _keep(a)), x) if axes else x


def _plain(kind: Callable[..., Kind]) -> Importer:
    """Return the importer of a reduction that computes in its result's dtype."""
    return lambda c, a: _reduced(kind, c.cast(a.self, c.dtype), a, c)


def _truth(kind: Callable[..., Kind]) -> Importer:
    def build(c: Context, a: Args) -> Value:
        empty = isinstance(a.get("dim"), (list, tuple)) and not a.dim
        axes = () if empty else _axes(a, a.self.type.rank)
        want(c.dtype is DType.BOOL, "of uint8 it gives uint8")
        return c(kind(axes, _keep(a)), a.self)

    return build


def _var(c: Context, a: Args, x: Value) -> Value:
    correction = a.get("correction", 1.0 if a.get("unbiased", True) else 0.0)
    axes = _axes(a, x.type.rank)
    want(bool(axes), "the variance of a 0-d tensor")
    return c(reduce.Var(axes, _keep(a), 1.0 if correction is None else float(correction)), x)


def _variance(root: bool, mean: bool = False) -> Importer:
    def build(c: Context, a: Args) -> Any:
        made = _var(c, a, a.self)
        made = c(unary.Sqrt(), made) if root else made
        return (made, _reduced(reduce.Mean, a.self, a, c)) if mean else made

    return build


def _extreme_and_index(values: Callable[..., Kind], index: Callable[..., Kind]) -> Importer:
    """Return the importer of ``max.dim``: values, and indices only where they are read."""

    def build(c: Context, a: Args) -> Any:
        x = a.self
        want(x.type.rank > 0, "the extreme of a 0-d tensor")
        axis = axis_of(a.dim, x.type.rank)
        where = c(index(axis, _keep(a)), x) if c.used(1) else None
        return c(values((axis,), _keep(a)), x), where

    return build


def _aminmax(c: Context, a: Args) -> Any:
    return tuple(_reduced(kind, a.self, a, c) for kind in (reduce.Amin, reduce.Amax))


def _arg(kind: Callable[..., Kind]) -> Importer:
    def build(c: Context, a: Args) -> Value:
        x = a.self
        if a.dim is None or x.type.rank == 0:
            flat = c(kind(0, False), c.reshape(x, (x.type.numel,)))
            return c.reshape(flat, c.out.shape)
        return c(kind(axis_of(a.dim, x.type.rank), _keep(a)), x)

    return build


def _logsumexp(c: Context, a: Args) -> Value:
    """Import ``log(sum(e**(x - m))) + m`` with ``m = max``, 0 where that is infinite."""
    x = c.cast(a.self, c.dtype)
    axes = _axes(a, x.type.rank)
    want(bool(axes), "of a 0-d tensor")
    top = c(reduce.Amax(axes, True), x)
    infinite = c(unary.IsInf(), top)
    top = c(Where(), infinite, c.full(0, c.dtype), top)
    total = c(reduce.Sum(axes, True), c(unary.Exp(), c(binary.Sub(), x, top)))
    out = c(binary.Add(), c(unary.Log(), total), top)
    return out if _keep(a) else c.reshape(out, c.out.shape)


def _vector_norm(c: Context, x: Value, order: Any, axes: tuple[int, ...], keep: bool) -> Value:
    """Return the vector norm of order 1, 2 or +-inf."""
    want(bool(axes) and isinstance(order, (int, float)), "of a 0-d tensor")
    if order == 2:
        return c(unary.Sqrt(), c(reduce.Sum(axes, keep), c(binary.Mul(), x, x)))
    kind = {1: reduce.Sum, math.inf: reduce.Amax, -math.inf: reduce.Amin}.get(order)
    want(kind is not None, f"a norm of order {order} has no kind")
    return c(kind(axes, keep), c(unary.Abs(), x))  # type: ignore[misc]


def _linalg_vector_norm(c: Context, a: Args) -> Value:
    x = c.cast(a.self, c.dtype)
    return _vector_norm(c, x, a.ord, _axes(a, x.type.rank), _keep(a))


def _norm(c: Context, a: Args) -> Value:
    x = c.cast(a.self, c.dtype)
    order = 2 if a.get("p") is None else a.p
    return _vector_norm(c, x, order, _axes(a, x.type.rank), _keep(a))


def _cumsum(c: Context, a: Args) -> Value:
    x = c.cast(a.self, c.dtype)
    return x if x.type.rank == 0 else c(reduce.CumSum(axis_of(a.dim, x.type.rank)), x)


def _count_nonzero(c: Context, a: Args) -> Value:
    hit = c(binary.Ne(), a.self, c.full(0, a.self.type.dtype))
    return _reduced(reduce.Sum, c.cast(hit, DType.I64), a, c)


def _mean_over(c: Context, a: Args) -> Value:
    sizes: tuple[Dim, ...] = a.self.type.shape
    want(0 not in sizes, "the mean of no elements")
    return _reduced(reduce.Mean, c.cast(a.self, c.dtype), a, c)


IMPORTERS: Mapping[str, Importer] = {
    **named(_plain(reduce.Sum), "sum.default", "sum.dim_IntList"),
    **named(_mean_over, "mean.default", "mean.dim"),
    **named(_plain(reduce.Prod), "prod.default", "prod.dim_int"),
    **named(_plain(reduce.Amax), "amax.default", "max.default"),
    **named(_plain(reduce.Amin), "amin.default", "min.default"),
    **named(_truth(reduce.All), "all.default", "all.dim", "all.dims"),
    **named(_truth(reduce.Any), "any.default", "any.dim", "any.dims"),
    **named(_variance(root=False), "var.default", "var.dim", "var.correction"),
    **named(_variance(root=True), "std.default", "std.dim", "std.correction"),
    **named(
        _variance(root=False, mean=True), "var_mean.default", "var_mean.dim", "var_mean.correction"
    ),
    **named(
        _variance(root=True, mean=True), "std_mean.default", "std_mean.dim", "std_mean.correction"
    ),
    **named(_extreme_and_index(reduce.Amax, reduce.ArgMax), "max.dim"),
    **named(_extreme_and_index(reduce.Amin, reduce.ArgMin), "min.dim"),
    **named(_aminmax, "aminmax.default"),
    **named(_arg(reduce.ArgMax), "argmax.default"),
    **named(_arg(reduce.ArgMin), "argmin.default"),
    **named(_logsumexp, "logsumexp.default", "special_logsumexp.default"),
    **named(_linalg_vector_norm, "linalg_vector_norm.default"),
    **named(_norm, "norm.Scalar", "norm.ScalarOpt_dim", "norm.ScalarOpt_dim_dtype"),
    **named(_cumsum, "cumsum.default"),
    **named(_count_nonzero, "count_nonzero.default", "count_nonzero.dim_IntList"),
}
