"""compress > quantize > small_sums: codes of weights whose products int16 can sum.

A processor without VNNI multiplies codes ``u8 x i8`` two at a time and sums them in int16, where
they saturate. Sums are exact for any codes of activations, 0 to 255, while the positive weights of
a sum make at most ``MOST = 128``, and the negative ones: ``255 * 128 < 2**15``. Others halve all
weights so that any pair fits (``reduce_range``). Most weights are far from the largest, and kernels
are fastest where even the four products of two steps fit. So the step of a channel grows only as
far as pays: with ``M`` the largest magnitude, ``P`` the largest sum of one sign among groups of
four in the order of the kernels, steps between ``M / 127`` (nothing done for sums) and ``P / 126``
(no sum of rounded weights exceeds MOST: each is rounded by half a unit at most) are tried. Of a
group that exceeds it the weights of that sign shrink alike. The least squared error wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.passes.fusing.policy import FEW_CHANNELS

MOST = (2**15 - 1) // 255
STEP, PAIR, STEPS = 4, 2, 2  # codes of a step of depth, of a pair, and the steps of a group
SIZE = PAIR * STEPS
LARGEST = 127
_TRIES = torch.linspace(0.0, 1.0, 9).tolist()  # between the two steps, by ratio
_CLIP = 0.8  # of M / 127, where large weights may be cut off
_AT_ONCE = 1 << 22  # elements that are tried together: they stay in caches


@dataclass(frozen=True)
class Sums:
    """Which columns of a weight ``f32[n,k]`` are summed in int16.

    Attributes:
        order: ``i64[groups,SIZE]``, the columns of each group; ``k`` where there are fewer.
        group: ``i64[k]``, the group of each column.
    """

    order: Tensor
    group: Tensor

    def laid(self, matrix: Tensor) -> Tensor:
        """Return a matrix as ``f32[n,groups,SIZE]``, zeros where a group has fewer columns."""
        return torch.nn.functional.pad(matrix, (0, 1))[:, self.order]

    def flat(self, blocks: Tensor) -> Tensor:
        """Return the matrix that was :meth:`laid`."""
        made = blocks.new_empty(len(blocks), len(self.group) + 1)
        made[:, self.order.reshape(-1)] = blocks.flatten(1)
        return made[:, :-1]


def sums_of(kind: Conv | Linear, shape: tuple[int, ...]) -> Sums | None:
    """Return what kernels sum in int16 of a weight of ``shape``; None where they sum otherwise.

    Depth runs over channels, tap by tap; of an image of few channels over those of a whole line of
    the kernel. A convolution of one channel a group is none of these products.
    """
    channels, kernel = shape[1], shape[2:]
    single = isinstance(kind, Conv) and kind.groups > 1 and channels == 1
    if single or not math.prod(shape[1:]):
        return None
    columns, taps = torch.arange(math.prod(shape[1:])), math.prod(kernel)
    channel, tap = columns // taps, columns % taps
    place, depth = channel, channels
    if _in_lines(kind, shape):
        place, depth = tap % kernel[-1] * channels + channel, channels * kernel[-1]
        tap = tap // kernel[-1]
    whole = -(-depth // (STEP * STEPS))
    step, pair = place // STEP, place % STEP // PAIR
    group = (tap * whole + step // STEPS) * PAIR + pair
    order = torch.full((int(group.max()) + 1, SIZE), len(columns))
    order[group, step % STEPS * PAIR + place % PAIR] = columns
    return Sums(order, group)


def _in_lines(kind: Conv | Linear, shape: tuple[int, ...]) -> bool:
    """Return whether the kernels read a convolution's image as padded lines."""
    if not isinstance(kind, Conv) or len(shape) != 4 or kind.groups != 1:
        return False
    return shape[1] <= FEW_CHANNELS and kind.dilation[-1] == 1 and shape[3] > 1


# ----- codes --------------------------------------------------------------------------------------


def rounded_in_sums(matrix: Tensor, plain: Tensor, sums: Sums, clip: bool) -> tuple[Tensor, Tensor]:
    """Return codes ``i8[n,k]`` of a matrix ``f32[n,k]`` and scales ``f32[n]``.

    Args:
        matrix: the weight.
        plain: scales that clip nothing, ``f32[n]``.
        sums: of its columns.
        clip: whether the largest weights may be cut off.
    """
    rows = max(1, _AT_ONCE // matrix.shape[1])
    relative = matrix * (1.0 / plain)[:, None]  # whose squares neither vanish nor overflow
    parts = [_best(sums.laid(w), clip) for w in relative.split(rows)]
    codes = torch.cat([sums.flat(blocks).to(torch.int8) for blocks, _ in parts])
    return codes, plain * torch.cat([scale for _, scale in parts])


def _best(blocks: Tensor, clip: bool) -> tuple[Tensor, Tensor]:
    """Return the codes ``f32[n,groups,SIZE]`` of least error and their scales ``f32[n]``.

    ``blocks`` are of LARGEST at most; scales are relative to those that keep them so.
    """
    most = torch.maximum(*(part.sum(-1).amax(1) for part in _signs(blocks)))
    wide = (most / (MOST - SIZE // 2)).clamp_min(1.0)
    best = least = torch.full_like(wide, float("inf"))
    kept = torch.zeros_like(blocks)
    for share in _TRIES:
        scale = wide**share * (_CLIP if clip else 1.0) ** (1 - share)
        codes = torch.round(blocks * (1.0 / scale)[:, None, None])
        codes = _held(codes.clamp(-LARGEST, LARGEST))
        error = (codes * scale[:, None, None] - blocks).square().sum((1, 2))
        better = error < least
        best, least = torch.where(better, scale, best), torch.minimum(error, least)
        kept = torch.where(better[:, None, None], codes, kept)
    return kept, best


def _held(codes: Tensor) -> Tensor:
    """Return codes of which no group makes more than MOST: those of a sign shrink alike."""
    up, down = (
        torch.floor(part * (MOST / part.sum(-1, keepdim=True)).clamp(max=1.0))
        for part in _signs(codes)
    )
    return up - down


def _signs(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.clamp_min(0), (-values).clamp_min(0)


class Room:
    """What the sums of each sign may still take while codes are made column by column.

    ``order``: ``i64[m,k]``, the column that comes at each place, for ``m`` sets of ``rows`` rows.
    """

    def __init__(self, sums: Sums, order: Tensor, rows: int) -> None:
        size = (len(order), rows, len(sums.order))
        self.group = sums.group[order]
        self.left = [torch.full(size, MOST, dtype=torch.float64) for _ in range(2)]

    def taken(self, codes: Tensor, place: int) -> Tensor:
        """Return ``codes: f64[m,rows]`` of the column at a place, no larger than there is room."""
        at = self.group[:, place, None, None].expand(*codes.shape, 1)
        up, down = (left.gather(2, at)[..., 0] for left in self.left)
        codes = codes.minimum(up).maximum(-down)
        for left, part in zip(self.left, _signs(codes), strict=True):
            left.scatter_add_(2, at, -part[..., None])
        return codes
