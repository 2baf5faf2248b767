"""numba_cpu > kernels > int8_depthwise_plan: how a depthwise convolution of codes is cut.

Pure Python, no addresses. Channels go in blocks of 16, 32 or 64: what a register holds as bytes, or
less. Of a column of the image, the lines that some lines of outputs read are laid side by side in
groups of ``DEEP``, one group to each lane of 32 bits, so that one instruction multiplies and sums a
group. A register of groups holds ``VECTOR / block`` columns: lane ``p`` of its part ``q`` (of four)
belongs to channel ``16 * (p / 4 % (block / 16)) + 4 * q + p % 4``. That is the order which the
instructions that interleave bytes make, and which those that pack them to bytes undo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from leptonc.backends.numba_cpu.kernels.int8_dot import DOT
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty
from leptonc.backends.numba_cpu.kernels.vectype import LANES

PARTS, PIECE = 4, 16  # registers of groups that a register of bytes makes; bytes it interleaves in
VECTOR = 4 * LANES  # bytes of a register
# Where four products of bytes are no single instruction, two of int16 are: exact for any codes.
DEEP = 4 if DOT == "vnni" else 2
BLOCKS = tuple(PIECE << i for i in range(3) if PIECE << i <= VECTOR)[::-1]
TILE = 7 if LANES == 16 else 4  # registers of outputs of a tile: widths of 224 / 2**k divide into 7
L1_BYTES = 24 * 1024  # what the groups of a strip may take of the first-level cache
ENDS = 3  # values of a channel beside its weights: correction, scale, bias
NOWHERE = -(1 << 40)  # the place of a line that no output reads
_MOST_OUTPUTS = 4
_TO_GROUP = 3.5 if DEEP == 4 else 3.0  # instructions a register of groups, its load and store too
_TO_MULTIPLY = 1.0 if DOT == "vnni" else 2.0


@dataclass(frozen=True)
class Window:
    """Lines of outputs that are computed together.

    Attributes:
        outputs: how many. lines: what they read, from the first line of the first window; groups of
            DEEP, the last filled up with NOWHERE.
    """

    outputs: int
    lines: tuple[int, ...]

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.lines) // DEEP


def window(outputs: int, taps: int, stride: int, dilation: int) -> Window:
    """Return the window of ``outputs`` lines; the rest describes the kernel along y."""
    read = {i * stride + j * dilation for i in range(outputs) for j in range(taps)}
    return Window(outputs, (*sorted(read), *[NOWHERE] * (-len(read) % DEEP)))


def cheapest(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: int, height: int
) -> Window:
    """Return the window that takes the fewest instructions an output."""

    def cost(w: Window) -> float:
        grouped = _TO_GROUP * w.groups * stride[1] / w.outputs
        return _TO_MULTIPLY * w.groups * kernel[1] + grouped

    most = max(1, min(_MOST_OUTPUTS, height))
    made = [window(n, kernel[0], stride[0], dilation) for n in range(1, most + 1)]
    return min(made, key=cost)


def blocks_of(channels: int) -> Iterator[tuple[int, int]]:
    """Yield the first channel and the size of each block; the last may reach beyond the end."""
    at = 0
    while at < channels:
        size = next((b for b in BLOCKS if b <= channels - at), BLOCKS[-1])
        yield at, size
        at += size


def block_table(channels: int) -> np.ndarray:
    """Return ``i64[blocks, 2]``: first channel and size of each block."""
    return np.array([*blocks_of(channels)], np.int64).reshape(-1, 2)


def _per_lane(values: np.ndarray) -> np.ndarray:
    """Return ``values: [..., channels]`` as ``[blocks, ..., PARTS, LANES]``, zeros behind them."""
    channels = values.shape[-1]
    wide = np.zeros((*values.shape[:-1], channels + BLOCKS[0]), values.dtype)
    wide[..., :channels] = values
    lane, part = np.arange(LANES), np.arange(PARTS)[:, None]
    made = []
    for first, size in blocks_of(channels):
        at = PIECE * (lane // 4 % (size // PIECE)) + 4 * part + lane % 4
        made.append(wide[..., first + at])
    return np.stack(made)


def pack_weights(weight: np.ndarray, w: Window, stride: int, dilation: int) -> np.ndarray:
    """Return ``weight: i8[c, 1, y, x]`` as ``[blocks, outputs, groups, x, PARTS, LANES, DEEP]``.

    The elements are int8, or int16 where two of them make a lane; zeros where a line of outputs
    does not read a line. ``stride`` and ``dilation`` are those along y.
    """
    channels, _, height, width = weight.shape
    taps = np.zeros((w.outputs, len(w.lines), width, channels), np.int8)
    for i in range(w.outputs):
        for j in range(height):
            line = w.lines.index(i * stride + j * dilation)
            taps[i, line] = weight[:, 0, j].T
    lanes = _per_lane(taps)  # blocks, outputs, lines, x, PARTS, LANES
    grouped = lanes.reshape(*lanes.shape[:2], w.groups, DEEP, *lanes.shape[3:])
    moved = np.moveaxis(grouped, 3, -1)
    made = aligned_empty(moved.shape, np.int8 if DEEP == 4 else np.int16)
    made[...] = moved
    return made


def pack_ends(corrections: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return ``i32[blocks, PARTS, ENDS, LANES]``: corrections, the bits of scales and of biases."""
    values = np.stack([corrections, scale.view(np.int32), bias.view(np.int32)])
    made = aligned_empty((len(block_table(len(scale))), PARTS, ENDS, LANES), np.int32)
    made[...] = _per_lane(values).transpose(0, 2, 1, 3)
    return made


def outside(zero: int) -> np.ndarray:
    """Return a register of codes as they are beside the image."""
    return np.full(VECTOR, zero, np.uint8)


# ----- memory of a thread -------------------------------------------------------------------------


def plane_bytes(block, outputs, span, stride):
    """Return the bytes of one part of a group: columns of one remainder by the stride.

    ``outputs``: of a strip; ``span``: columns that an output reaches. Planes are an odd number of
    cache lines, lest they share cache sets.
    """
    size = (outputs + (span - 1) // stride) * block + VECTOR
    return (size + 63) // 64 * 64 | 64


def strip_outputs(block, width, span, stride, groups):
    """Return the outputs of a strip: equal shares of a line whose groups stay in the L1 cache."""
    tile = TILE * VECTOR // block
    most = L1_BYTES // (PARTS * groups * stride * block) - span // stride
    strips = (width + max(most, tile) - 1) // max(most, tile)
    share = (width + strips - 1) // strips
    return min(width, (share + tile - 1) // tile * tile)


def table_bytes(steps):
    """Return the bytes of a thread's tables: lines of a group, and the places of the steps."""
    return (16 * DEEP + 8 * steps + 63) // 64 * 64


def scratch_bytes(w: Window, width: int, kernel_x: int, dilation_x: int, stride_x: int) -> int:
    """Return the bytes of scratch one thread needs for lines of ``width`` outputs."""
    span = (kernel_x - 1) * dilation_x + 1
    most = 0
    for block in BLOCKS:
        outputs = strip_outputs(block, width, span, stride_x, w.groups)
        planes = PARTS * w.groups * stride_x * plane_bytes(block, outputs, span, stride_x)
        most = max(most, planes + 4 * outputs * block)  # those of a strip staged as floats
    return table_bytes(w.groups * kernel_x) + most
