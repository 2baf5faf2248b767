"""Amounts as people read them: bytes, operations, seconds, shares."""

from __future__ import annotations

from collections.abc import Sequence

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP")


def nbytes(value: float) -> str:
    """Return bytes with a binary unit: ``1536`` is ``1.5 KiB``."""
    return _scaled(value, 1024.0, _BYTES)


def flops(value: float) -> str:
    """Return floating-point operations with a decimal unit: ``2e9`` is ``2.0 GFLOP``."""
    return _scaled(value, 1000.0, _FLOPS)


def seconds(value: float) -> str:
    """Return a time as seconds or milliseconds."""
    return f"{value:.2f} s" if value >= 1.0 else f"{value * 1e3:.1f} ms"


def share(value: float) -> str:
    """Return a share as per cent; 100 % only where nothing is missing, 0 % only for nothing."""
    shown = f"{value * 100:.1f}"
    if shown == "100.0" and value < 1.0:
        return "99.9 %"
    if shown == "0.0" and value > 0.0:
        return "0.1 %"
    return f"{shown} %"


def _scaled(value: float, base: float, names: Sequence[str]) -> str:
    for name in names[:-1]:
        if abs(value) < base:
            return f"{value:.0f} {name}" if name == names[0] else f"{value:.1f} {name}"
        value /= base
    return f"{value:.1f} {names[-1]}"
