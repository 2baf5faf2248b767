"""numba_cpu > kernels > banded: a depthwise convolution with its neighbours, band by band.

A step of up to three kernels, ``[expand ->] depthwise [-> project]``, of which the outer two are
``igemm`` records of 1x1 convolutions; ``expand`` may have taps, as the first convolution of a
network does. It runs them for a few lines of the image after another, on
records of its own; what lies between them stays in a buffer in the thread's cache. The lines that
the window of the next band needs again are kept. Every output is computed by the same kernel from
the same numbers as without bands: the bits are the same for any band and any number of threads.
"""

from __future__ import annotations

from dataclasses import fields

from leptonc.backends.numba_cpu.atomics import invoke
from leptonc.backends.numba_cpu.kernels import depthwise as dw
from leptonc.backends.numba_cpu.kernels import igemm_record as ig
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import arg, ldi64, sti64, vload, vstore
from leptonc.backends.numba_cpu.kernels.vectype import LANES

NAMES = (
    "expand", "depthwise", "project", "band", "inner_line", "outer_line", "scratch",
    "scratch_bytes", "work",
)  # fmt: skip
"""Slots of the head of the record; the records of expand (if any), depthwise and project (if any)
follow. ``expand``, ``depthwise``, ``project``: kernel addresses or 0. ``band``: lines of the
depthwise result. ``inner_line``, ``outer_line``: floats of a line that the depthwise convolution
reads and writes, multiples of LANES. ``work``: the thread's scratch from there on holds
:func:`work_bytes`."""

(
    EXPAND, DEPTHWISE, PROJECT, BAND, INNER_LINE, OUTER_LINE, SCRATCH, SCRATCH_BYTES, WORK,
) = range(len(NAMES))  # fmt: skip
HEAD = len(NAMES)
_IGEMM, _DEPTHWISE = len(fields(ig.IGemm)), len(dw.NAMES)  # words of the records
_RECORDS = -(-8 * (2 * _IGEMM + _DEPTHWISE) // 64) * 64


def inner_lines(band: int, kernel_y: int, stride_y: int) -> int:
    """Return the lines that ``band`` lines of a depthwise result read."""
    return (band - 1) * stride_y + kernel_y


def work_bytes(inner: int, outer: int, taps: int) -> int:
    """Return the bytes of a thread's records, taps of expand and buffers of so many floats."""
    return _RECORDS + -(-24 * taps // 64) * 64 + 4 * (inner + outer) + 4 * LANES


@inline_njit
def _copy(source, words, record, scratch, base):
    """Copy a record; ``scratch``: its slot for scratch, which becomes ``base``."""
    for i in range(words):
        sti64(record, i, arg(source, i))
    sti64(record, scratch, base)


@inline_njit
def _moved(record, slot, floats):
    """Move an address of a record on by ``floats``, unless it is 0."""
    if arg(record, slot) != 0:
        sti64(record, slot, arg(record, slot) + 4 * floats)


@inline_njit
def _lower_taps(record, source, y, table):
    """Let ``record`` begin at output line ``y`` of ``source``: its taps move down."""
    taps, down = arg(source, ig.TAP_TABLE), y * arg(source, ig.STEP_Y)
    for i in range(0, 3 * arg(source, ig.TAPS), 3):
        sti64(table, i, ldi64(taps, i))
        sti64(table, i + 1, ldi64(taps, i + 1) + down)
        sti64(table, i + 2, ldi64(taps, i + 2))
    sti64(record, ig.TAP_TABLE, table)


@inline_njit
def _product(record, source, z, y, lines, table):
    """Make ``record`` the lines ``y .. y + lines`` of image ``z`` of the product ``source``.

    ``table``: room for its taps.
    """
    sti64(record, ig.ROWS_Z, 1)
    sti64(record, ig.IN_D, 1)
    sti64(record, ig.ROWS_Y, lines)
    for slot in (ig.A, ig.OUT, ig.RES):
        sti64(record, slot, arg(source, slot))
    _moved(record, ig.A, z * arg(source, ig.A_Z))
    if arg(source, ig.TAP_TABLE) != 0:
        _lower_taps(record, source, y, table)
    else:
        sti64(record, ig.IN_H, lines)
        _moved(record, ig.A, y * arg(source, ig.A_Y))
    _moved(record, ig.OUT, z * arg(source, ig.OUT_Z) + y * arg(source, ig.OUT_Y))
    _moved(record, ig.RES, z * arg(source, ig.RES_Z) + y * arg(source, ig.RES_Y))


@inline_njit
def _window(record, source, image, first, y, lines):
    """Make ``record`` the lines ``y .. y + lines`` of the depthwise conv ``source``.

    Its input starts at line ``first``. Addresses are those of the image and these lines.
    """
    pad = arg(source, dw.PAD_Y) - y * arg(source, dw.STRIDE_Y) + first
    sti64(record, dw.BATCH, 1)
    sti64(record, dw.PAD_Y, pad)
    sti64(record, dw.OUT_H, lines)
    for slot in (dw.X, dw.OUT, dw.RES):
        sti64(record, slot, arg(source, slot))
    _moved(record, dw.X, image * arg(source, dw.X_B) + first * arg(source, dw.X_Y))
    _moved(record, dw.OUT, image * arg(source, dw.OUT_B) + y * arg(source, dw.OUT_Y))
    _moved(record, dw.RES, image * arg(source, dw.RES_B) + y * arg(source, dw.RES_Y))


@inline_njit
def _keep(buffer, start, count):
    """Move ``count`` floats from ``start`` to the front of ``buffer``."""
    for i in range(0, count, LANES):
        vstore(buffer, i, vload(buffer, start + i))


@inline_njit
def _band(args, records, image, y, lines, held):
    """Compute some lines of one image; return the input lines that the buffer then holds.

    ``records``: addresses of source and copy of the three records, of the taps and the two buffers.
    ``held``: the lines that the buffer holds before.
    """
    expand, expand_copy, window, window_copy, project, project_copy, taps, inner, outer = records
    stride, pad = arg(window, dw.STRIDE_Y), arg(window, dw.PAD_Y)
    first = max(0, y * stride - pad)
    last = min(arg(window, dw.IN_H), (y + lines - 1) * stride - pad + arg(window, dw.KERNEL_Y))
    last = max(first, last)
    _window(window_copy, window, image, first, y, lines)
    sti64(window_copy, dw.IN_H, last - first)
    if arg(args, EXPAND) != 0:
        step, start = arg(args, INNER_LINE), first
        if held[0] <= first < held[1]:
            start = min(held[1], last)
            if first > held[0]:
                _keep(inner, (first - held[0]) * step, (start - first) * step)
        if last > start:
            _product(expand_copy, expand, image, start, last - start, taps)
            sti64(expand_copy, ig.OUT, inner + 4 * (start - first) * step)
            sti64(expand_copy, ig.OUT_Y, step)
            invoke(arg(args, EXPAND), expand_copy, 0, 1, 0)
        sti64(window_copy, dw.X, inner)
        sti64(window_copy, dw.X_Y, step)
    if arg(args, PROJECT) != 0:
        sti64(window_copy, dw.OUT, outer)
        sti64(window_copy, dw.OUT_Y, arg(args, OUTER_LINE))
    invoke(arg(args, DEPTHWISE), window_copy, 0, 1, 0)
    if arg(args, PROJECT) != 0:
        _product(project_copy, project, image, y, lines, taps)
        sti64(project_copy, ig.A, outer)
        sti64(project_copy, ig.A_Y, arg(args, OUTER_LINE))
        invoke(arg(args, PROJECT), project_copy, 0, 1, 0)
    return first, last


@kernel(vectors=True)
def banded(args, tid, nt, cuts):
    """Compute this thread's lines of the step that the record describes."""
    base = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    work = base + arg(args, WORK)
    expand, expand_copy = args + 8 * HEAD, work
    window, window_copy, tap_words = expand, work + 8 * _IGEMM, 0
    if arg(args, EXPAND) != 0:
        window, tap_words = expand + 8 * _IGEMM, 3 * arg(expand, ig.TAPS)
        _copy(expand, _IGEMM, expand_copy, ig.SCRATCH, base)
    _copy(window, _DEPTHWISE, window_copy, dw.SCRATCH, base)
    project, project_copy = window + 8 * _DEPTHWISE, window_copy + 8 * _DEPTHWISE
    if arg(args, PROJECT) != 0:
        _copy(project, _IGEMM, project_copy, ig.SCRATCH, base)
    band, height = arg(args, BAND), arg(window, dw.OUT_H)
    most = (band - 1) * arg(window, dw.STRIDE_Y) + arg(window, dw.KERNEL_Y)
    taps = work + _RECORDS
    inner = taps + (8 * tap_words + 63) // 64 * 64
    outer = inner + 4 * most * arg(args, INNER_LINE)
    records = (
        expand, expand_copy, window, window_copy, project, project_copy, taps, inner, outer,
    )  # fmt: skip
    total = arg(window, dw.BATCH) * height
    line, end = share(total, tid, nt, cuts)
    held, before = (0, 0), -1
    while line < end:
        image, y = line // height, line % height
        if image != before:
            held, before = (0, 0), image
        lines = min(band, height - y, end - line)
        held = _band(args, records, image, y, lines, held)
        line += lines
