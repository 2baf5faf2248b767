"""Importers of quantized programs: leptonc's own operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leptonc.capture.aten.base import Importer
from leptonc.capture.aten.contract import present
from leptonc.capture.context import Args, Context
from leptonc.ir.core import Value
from leptonc.ir.kinds import quantize as q


def _quantize(c: Context, a: Args) -> Value:
    kind = q.Quantize(a.low, a.high, c.dtype, a.axis)
    return c(kind, *present(a.x, a.scale, a.get("zero")))


def _dequantize(c: Context, a: Args) -> Value:
    return c(q.Dequantize(a.axis), *present(a.codes, a.scale, a.get("zero")))


def _fake_quantize(c: Context, a: Args) -> Value:
    kind = q.FakeQuantize(a.low, a.high, a.axis)
    return c(kind, *present(a.x, a.scale, a.get("zero")))


def _int_linear(c: Context, a: Args) -> Value:
    return c(q.IntLinear(a.x_zero), *present(a.x, a.w, a.scale, a.get("bias")))


def _int_conv(c: Context, a: Args) -> Value:
    padding, after = tuple(a.padding), tuple(a.after)
    kind = q.IntConv(
        tuple(a.stride), padding, tuple(a.dilation), a.groups,
        () if after == padding else after, a.x_zero,
    )  # fmt: skip
    return c(kind, *present(a.x, a.w, a.scale, a.get("bias")))


def _quantize_rows(c: Context, a: Args) -> Any:
    return c.emit(q.QuantizeRows(), a.x)


IMPORTERS: Mapping[str, Importer] = {
    "leptonc.quantize.default": _quantize,
    "leptonc.dequantize.default": _dequantize,
    "leptonc.fake_quantize.default": _fake_quantize,
    "leptonc.quantize_rows.default": _quantize_rows,
    "leptonc.unpack_int4.default": lambda c, a: c(q.UnpackInt4(), a.x),
    "leptonc.int_linear.default": _int_linear,
    "leptonc.int_conv.default": _int_conv,
}
