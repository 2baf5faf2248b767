"""numba_cpu > kernels > lines: convolution of few channels on padded lines, with its pool.

The image is copied to lines with zero columns first (:func:`pack.pad_image`): what a pixel reads of
a line is one run of floats then, and neighbouring pixels read runs a fixed step apart. Lines above
and below the image are one line of zeros. With ``pool`` the largest of each two by two outputs is
taken in registers, so that the large image before the pool is never written.

Sums start with the bias and run over lines, then along each, as in :mod:`igemm`: the same bits, for
every number of threads. Its rows lie anywhere and it has the residuals and the other activations;
this kernel has neither, and a product of few terms takes two thirds of the time.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.lines_tile import PIXELS, POOLED_PIXELS, line_tile
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.prefetch import ask_to_write
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import arg, argf, sti64

NAMES = (
    "x", "line", "step", "batch", "in_h", "zeros", "taps", "depth", "step_y", "pad_y", "dilation_y",
    "out_h", "out_w", "columns", "out", "out_b", "out_y", "out_x", "weights", "bias",
    "low", "high", "pool", "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order. ``x``: lines of ``line`` floats, ``in_h`` an image; ``step``:
floats from what a pixel reads to what the next one does; ``zeros``: a line of them. ``taps`` lines
``dilation_y`` apart and ``depth`` floats of each are read. ``out_h``, ``out_w``: outputs before the
pool, multiples of ``pool``, which is 1 or 2; strides in elements. ``bias``: address, not 0.
``low``, ``high``: bounds of the result. ``weights``: as B of :mod:`igemm`."""

(
    X, LINE, STEP, BATCH, IN_H, ZEROS, TAPS, DEPTH, STEP_Y, PAD_Y, DILATION_Y,
    OUT_H, OUT_W, COLUMNS, OUT, OUT_B, OUT_Y, OUT_X, WEIGHTS, BIAS,
    LOW, HIGH, POOL, SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip

FAR = 1 << 22  # bytes of a result whose lines come from memory before they can be written


def scratch_bytes(taps: int) -> int:
    """Return the bytes of a thread's table of line addresses."""
    return -(-8 * 2 * taps // 64) * 64


@inline_njit
def pixels_of(left, wide, sizes):
    """Return how many pixels the tile takes that begins where ``left`` of ``wide`` are left.

    Tiles are about even. The last may be larger than what is left: it then begins earlier.
    """
    tiles = (left + sizes[0] - 1) // sizes[0]
    want, best = (left + tiles - 1) // tiles, sizes[0]
    for size in sizes:
        if size >= want:
            best = size
    if best > wide:
        for size in sizes[::-1]:
            if size <= left:
                best = size
    return best


@inline_njit
def _addresses(args, table, image, y):
    """Write the addresses of the lines that output lines ``y .. y + pool`` read, tap by tap."""
    pool, line = arg(args, POOL), 4 * arg(args, LINE)
    for tap in range(arg(args, TAPS)):
        for below in range(pool):
            at = (y + below) * arg(args, STEP_Y) - arg(args, PAD_Y) + tap * arg(args, DILATION_Y)
            place = arg(args, ZEROS)
            if 0 <= at < arg(args, IN_H):
                place = arg(args, X) + (image * arg(args, IN_H) + at) * line
            sti64(table, tap * pool + below, place)


@inline_njit
def _ask_next(place, pixels, step):
    """Ask for where as many pixels of a panel go, ``step`` bytes apart; any address is allowed."""
    for j in range(pixels):
        for line in range(0, 4 * PANEL, 64):
            ask_to_write(place + j * step + line)


@inline_njit
def _line(args, table, out, far):
    """Compute one written line of all columns at ``out``, asking ahead for it if it is ``far``."""
    pool, wide, columns = arg(args, POOL), arg(args, OUT_W), arg(args, COLUMNS)
    taps, depth = arg(args, TAPS), arg(args, DEPTH)
    step, out_step = 4 * arg(args, STEP), 4 * arg(args, OUT_X)
    low, high = argf(args, LOW), argf(args, HIGH)
    for n in range(0, columns, PANEL):
        panel, bias = arg(args, WEIGHTS) + 4 * n * taps * depth, arg(args, BIAS) + 4 * n
        x = 0
        while x < wide:
            if pool == 1:
                count = pixels_of(wide - x, wide, PIXELS)
            else:
                count = pixels_of(wide - x, wide, POOLED_PIXELS)
            x = min(x, wide - count)
            to = out + x // pool * out_step + 4 * n
            if far:  # while this tile is summed: its stores would wait for the lines otherwise
                _ask_next(to + count // pool * out_step, count // pool, out_step)
            line_tile(pool, count, table, x * step, step, taps, depth, panel, to, out_step,
                      columns - n, bias, low, high)  # fmt: skip
            x += count


@kernel(vectors=True)
def lines(args, tid, nt, cuts):
    """Compute this thread's lines of the convolution that the record describes."""
    pool = arg(args, POOL)
    height = arg(args, OUT_H) // pool
    count = arg(args, BATCH) * height
    table = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    far = 4 * count * arg(args, OUT_Y) > FAR
    for line in range(*share(count, tid, nt, cuts)):
        image, y = line // height, line % height
        _addresses(args, table, image, y * pool)
        at = image * arg(args, OUT_B) + y * arg(args, OUT_Y)
        _line(args, table, arg(args, OUT) + 4 * at, far)
