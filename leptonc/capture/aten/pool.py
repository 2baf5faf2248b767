"""Importers of pools and resampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.aten.contract import many
from leptonc.capture.context import Args, Context, want
from leptonc.ir.core import Kind, Value
from leptonc.ir.kinds.data import Interpolate
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool


def _window(a: Args, n: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    kernel = many(a.kernel_size, n)
    return kernel, many(a.stride, n) if a.stride else kernel, many(a.padding, n)


def _max_pool(n: int, indices: bool = False) -> Importer:
    def build(c: Context, a: Args) -> Any:
        kernel, stride, padding = _window(a, n)
        dilation = many(a.dilation, n)
        made = c(MaxPool(kernel, stride, padding, bool(a.ceil_mode), dilation), a.self)
        if not indices:
            return made
        want(not c.used(1), "the indices of a pool have no kind")
        return made, None

    return build


def _avg_pool(n: int) -> Importer:
    def build(c: Context, a: Args) -> Value:
        pads = bool(a.count_include_pad)
        kind = AvgPool(*_window(a, n), bool(a.ceil_mode), pads, a.get("divisor_override"))
        return c(kind, a.self)

    return build


def _adaptive(n: int, kind: Callable[..., Kind], indices: bool = False) -> Importer:
    def build(c: Context, a: Args) -> Any:
        made = c(kind(c.out.shape[-n:]), a.self)
        want(not (indices and c.used(1)), "the indices of a pool have no kind")
        return (made, None) if indices else made

    return build


def _interpolate(mode: str, n: int) -> Importer:
    """Return the importer of one ``upsample`` op, with sizes or with scale factors."""

    def build(c: Context, a: Args) -> Value:
        x = next(iter(a.given.values()))
        factors = a.get("scale_factors")
        if factors is None:
            names = ("scales_d", "scales_h", "scales_w")[-n:] if n > 1 else ("scales",)
            factors = [a.get(name) for name in names]
        scales = tuple(None if f is None else float(f) for f in factors)
        scales = scales if any(s is not None for s in scales) else ()
        corners = bool(a.get("align_corners", False))
        return c(Interpolate(c.out.shape[2:], mode, corners, scales), x)

    return build


_UPSAMPLES: Mapping[str, tuple[str, int]] = {
    **{f"upsample_nearest{n}d": ("nearest", n) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": ("nearest-exact", n) for n in (1, 2, 3)},
    "upsample_linear1d": ("linear", 1),
    "upsample_bilinear2d": ("linear", 2),
    "upsample_trilinear3d": ("linear", 3),
    "upsample_bicubic2d": ("bicubic", 2),
}

IMPORTERS: Mapping[str, Importer] = {
    **{f"aten.max_pool{n}d.default": _max_pool(n) for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d_with_indices.default": _max_pool(n, True) for n in (1, 2, 3)},
    **{f"aten.avg_pool{n}d.default": _avg_pool(n) for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d.default": _adaptive(n, AdaptiveAvgPool) for n in (1, 2, 3)},
    **{
        f"aten.adaptive_max_pool{n}d.default": _adaptive(n, AdaptiveMaxPool, True)
        for n in (1, 2, 3)
    },
    **named(_adaptive(2, AdaptiveAvgPool), "_adaptive_avg_pool2d.default"),
    **named(_adaptive(3, AdaptiveAvgPool), "_adaptive_avg_pool3d.default"),
    **{
        f"aten.{name}.{form}": _interpolate(*what)
        for name, what in _UPSAMPLES.items()
        for form in ("default", "vec")
    },
}
