"""compress > quantize > ranges: what activations reach on calibration data, and their scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leptonc.compress.quantize.weights import LEAST_SCALE
from leptonc.ir.types import DType

SAMPLES = 1 << 13  # elements a batch that quantiles and squared errors are taken from
OUTSIDE = 1e-4  # share of elements that a percentile leaves outside, at either end
_CLIPS = torch.linspace(0.4, 1.0, 31).tolist()


@dataclass(frozen=True)
class Codes:
    """Type and range of the codes of an activation; without ``affine`` the zero point is 0."""

    low: int
    high: int
    dtype: DType
    affine: bool

    def scale(self, low: float, high: float) -> tuple[float, int]:
        """Return scale and zero point that hold ``low`` to ``high``, and 0 exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        if not self.affine:
            return _usable(max(-low, high) / self.high), 0
        scale = _usable((high - low) / (self.high - self.low))
        return scale, min(max(round(self.low - low / scale), self.low), self.high)


CODES: Mapping[tuple[int, bool], Codes] = {
    (8, True): Codes(-127, 127, DType.I8, False),
    (8, False): Codes(0, 255, DType.U8, True),
    (16, True): Codes(-(1 << 15) + 1, (1 << 15) - 1, DType.I16, False),
    (16, False): Codes(-(1 << 15), (1 << 15) - 1, DType.I16, True),
}
"""Codes by bits and whether they are symmetric around 0."""


def _usable(scale: float) -> float:
    """Return a scale as f32 has it; that of nothing but zeros is 1."""
    return float(torch.tensor(max(scale, LEAST_SCALE))) if scale > 0 else 1.0


@dataclass
class Seen:
    """What one value was on the batches so far: its extremes, and a sample of its elements."""

    seed: int
    low: float = float("inf")
    high: float = float("-inf")
    samples: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, t: Tensor) -> bool:
        """Take one batch in; False if it holds NaN or infinities."""
        low, high = (float(v) for v in torch.aminmax(t))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        g = torch.Generator().manual_seed(self.seed + len(self.samples))
        flat = t.reshape(-1)
        if flat.numel() > SAMPLES:
            flat = flat[torch.randint(flat.numel(), (SAMPLES,), generator=g)]
        self.samples.append(flat.clone())
        return True


def minmax(seen: Seen, codes: Codes) -> tuple[float, int]:
    """Return scale and zero point that clip nothing that was seen."""
    return codes.scale(seen.low, seen.high)


def percentile(seen: Seen, codes: Codes) -> tuple[float, int]:
    """Return scale and zero point that leave ``OUTSIDE`` of the elements outside at either end."""
    ordered = torch.cat(seen.samples).sort().values
    at = int(OUTSIDE * (len(ordered) - 1))
    return codes.scale(float(ordered[at]), float(ordered[len(ordered) - 1 - at]))


def mse(seen: Seen, codes: Codes) -> tuple[float, int]:
    """Return scale and zero point of the least squared error: clipped at the top, or at both ends.

    The sample is completed by the extremes, which it may miss.
    """
    x = torch.cat([*seen.samples, torch.tensor([seen.low, seen.high])])
    best, least = codes.scale(seen.low, seen.high), float("inf")
    for share in _CLIPS:
        for low in {seen.low, seen.low * share}:
            scale, zero = codes.scale(low, seen.high * share)
            q = (torch.round(x * (1.0 / scale)) + zero).clamp(codes.low, codes.high)
            error = float(((q - zero) * scale - x).square().sum())
            if error < least:
                best, least = (scale, zero), error
    return best


METHODS: Mapping[str, Callable[[Seen, Codes], tuple[float, int]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "gptq": minmax,  # GPTQ rounds weights
}
