"""compress > quantize > weights: scales and codes of constant weights, packing of 4 bits.

A weight is taken as a matrix ``f32[n,k]``: an output channel a row. Codes are symmetric, -127 to
127 or -8 to 7. Scales are ``f32[n,g]``, ``g`` groups of ``k / g`` columns; 1 for a whole channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leptonc.compress.quantize.small_sums import Sums, rounded_in_sums

RANGES = {8: (-127, 127), 4: (-8, 7)}
# The square root of the least normal f32: products of two such scales are normal, and so are their
# inverses.
LEAST_SCALE = float(torch.finfo(torch.float32).tiny ** 0.5)
# Shares of the largest magnitude that clipping tries: 4 bits gain from cutting off more.
_CLIPS = {8: torch.linspace(0.8, 1.0, 21), 4: torch.linspace(0.4, 1.0, 61)}


def largest_scale(blocks: Tensor, bits: int) -> Tensor:
    """Return the scale of each row of ``f32[...,k]`` that clips nothing: ``f32[...]``."""
    most = blocks.abs().amax(-1)
    scale = (most / RANGES[bits][1]).clamp_min(LEAST_SCALE)
    return torch.where(most > 0, scale, torch.ones_like(scale))


def clipped_scale(blocks: Tensor, bits: int) -> Tensor:
    """Return the scale of each row that has the least squared error among shares of the largest."""
    most = largest_scale(blocks, bits)
    best, least = most, torch.full_like(most, float("inf"))
    for share in _CLIPS[bits].tolist():
        scale = (most * share).clamp_min(LEAST_SCALE)
        error = (rounded(blocks, scale, bits) * scale[..., None] - blocks).square().sum(-1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def rounded(blocks: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return the codes of ``f32[...,k]`` with scales ``f32[...]``, as floats."""
    low, high = RANGES[bits]
    return torch.round(blocks * (1.0 / scale)[..., None]).clamp(low, high)


def round_to_nearest(
    matrix: Tensor, bits: int, groups: int, clip: bool, sums: Sums | None = None
) -> tuple[Tensor, Tensor]:
    """Return codes ``i8[n,k]`` and scales ``f32[n,g]``; ``clip`` minimizes the squared error.

    ``sums``: those that int16 shall hold, of one group of 8 bits.
    """
    blocks = matrix.reshape(len(matrix), groups, -1)
    if sums is not None:
        codes, scale = rounded_in_sums(matrix, largest_scale(matrix, bits), sums, clip)
        return codes, scale.clamp_min(LEAST_SCALE)[:, None]
    scale = (clipped_scale if clip else largest_scale)(blocks, bits)
    return rounded(blocks, scale, bits).reshape(matrix.shape).to(torch.int8), scale


def packed(codes: Tensor) -> Tensor:
    """Return codes of 4 bits, ``i8[n,k]``, as ``u8[n,ceil(k/2)]``, the first in the low nibble."""
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    wide = (codes.to(torch.int16) + 8).to(torch.uint8)
    return wide[:, ::2] | (wide[:, 1::2] << 4)
