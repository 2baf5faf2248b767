"""Importers of ops that make tensors: fills, ranges, triangles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, want
from leptonc.ir.core import Value
from leptonc.ir.kinds.data import Iota, Triangle


def _fill(value: Any) -> Importer:
    """Return the importer of an op that fills its result with ``value``."""
    return lambda c, a: c.full(value, c.dtype, c.out.shape)


def _full(c: Context, a: Args) -> Value:
    value = a.get("fill_value", a.get("s"))
    if isinstance(value, Value):
        return c.expand(c.cast(value, c.dtype), c.out.shape)
    return c.full(value, c.dtype, c.out.shape)


def _number(x: Any, whole: bool) -> Any:
    if isinstance(x, sympy.Expr):
        return x
    return int(x) if whole and int(x) == x else float(x)


def _arange(c: Context, a: Args) -> Value:
    start, step = a.get("start", 0), a.get("step", 1)
    whole = c.dtype.is_int
    if whole:
        fits = all(isinstance(v, (int, sympy.Expr)) for v in (start, step))
        want(fits, "an integer range with a fractional start or step")
    kind = Iota(c.out.shape[0], _number(start, whole), _number(step, whole), c.dtype)
    return c(kind)


def _triangle(lower: bool) -> Importer:
    def build(c: Context, a: Args) -> Value:
        want(isinstance(a.diagonal, int), "a dynamic diagonal")
        return c(Triangle(lower, a.diagonal), a.self)

    return build


IMPORTERS: Mapping[str, Importer] = {
    **named(_fill(0), "zeros.default", "zeros_like.default", "new_zeros.default"),
    **named(_fill(1), "ones.default", "ones_like.default", "new_ones.default"),
    **named(_fill(0), "empty.memory_format", "empty_like.default", "new_empty.default"),
    **named(_fill(0), "empty_permuted.default", "empty_strided.default"),
    **named(_fill(0), "new_empty_strided.default"),
    **named(_full, "full.default", "full_like.default", "new_full.default"),
    **named(_full, "scalar_tensor.default"),
    **named(_arange, "arange.default", "arange.start", "arange.start_step"),
    **named(_triangle(True), "tril.default"),
    **named(_triangle(False), "triu.default"),
}
