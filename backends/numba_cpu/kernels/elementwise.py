"""numba_cpu > kernels > elementwise: the machine that runs a chain of elementwise operations.

The iteration space ``[outer..., rows, cols]`` is cut into blocks of ``block_rows x block_cols``
elements
that fit the first-level cache; for each block a small program of native operations
(:mod:`ew_loop`) runs
over contiguous registers: an operand or result itself where a block of it is contiguous, else
scratch
memory that load and store instructions fill and empty. Nothing is compiled for a network.

Record, 64-bit words::

    0 n_outer   1 rows  2 cols  3 block_rows  4 block_cols  5 row_blocks  6 col_blocks  7 n_blocks
    8 n_memory  9 n_registers  10 n_hoisted  11 n_instructions  12 scratch address
    13 scratch stride
    14 bytes of a scratch register
    15.. outer sizes [n_outer]
    then for each memory operand: address, outer strides [n_outer], row stride, column stride
    (bytes)
    then instructions, WORDS each: function, kind, dst, a, b, c, p0, p1, p2, p3, bytes between the
    rows of dst, a, b, c

Registers below ``n_memory`` are memory operands, the others scratch. Hoisted instructions run
once a thread. Kinds: OPERATE takes blocks without gaps at once, ROWS takes rows that lie apart one
by one, MOVE copies between a block without gaps and strided memory.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import KERNELS, Kernel, inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.ew_loop import OP_SIGNATURE, call_op, copy_bytes
from leptonc.backends.numba_cpu.kernels.prefetch import ask_soon
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    arg,
    ldi8,
    ldi16,
    ldi32,
    ldi64,
    sti8,
    sti16,
    sti32,
    sti64,
)

HEAD, WORDS = 15, 14
OPERATE, MOVE, ROWS = 0, 1, 2
AHEAD = 3  # rows that lie apart: the processor does not guess where the next one starts
LINE = 64


@inline_njit
def _run(program, count, registers, rows, cols):
    """Run ``count`` instructions over a block."""
    for k in range(count):
        at, fn = program + 8 * WORDS * k, arg(program + 8 * WORDS * k, 0)
        dst, a = ldi64(registers, arg(at, 2)), ldi64(registers, arg(at, 3))
        if arg(at, 1) == MOVE:
            call_op(fn, dst, a, rows, cols, arg(at, 6), arg(at, 7))
            continue
        b, c = ldi64(registers, arg(at, 4)), ldi64(registers, arg(at, 5))
        if arg(at, 1) == OPERATE:
            call_op(fn, dst, a, b, c, rows * cols, at + 48)
            continue
        step = arg(at, 11)
        for r in range(rows):
            for i in range(0, cols * 4, LINE):
                ask_soon(a + (r + AHEAD) * step + i)
            step_dst, step_a, step_b, step_c = arg(at, 10), arg(at, 11), arg(at, 12), arg(at, 13)
            call_op(fn, dst + r * step_dst, a + r * step_a, b + r * step_b, c + r * step_c, cols,
                    at + 48)  # fmt: skip


@inline_njit
def _locate(args, outer_index, row, col, registers):
    """Set the registers of memory operands to the addresses of a block."""
    n_outer, n_memory = arg(args, 0), arg(args, 8)
    sizes, entry = args + 8 * HEAD, args + 8 * (HEAD + n_outer)
    for m in range(n_memory):
        address, left = arg(entry, 0), outer_index
        for d in range(n_outer - 1, -1, -1):
            n = arg(sizes, d)
            address += (left % n) * arg(entry, 1 + d)
            left //= n
        address += row * arg(entry, 1 + n_outer) + col * arg(entry, 2 + n_outer)
        sti64(registers, m, address)
        entry += 8 * (3 + n_outer)


@kernel(vectors=True)
def elementwise(args, tid, nt, cuts):
    """Run the program over this thread's blocks."""
    n_outer, n_memory, n_registers = arg(args, 0), arg(args, 8), arg(args, 9)
    rows, cols, block_rows, block_cols = arg(args, 1), arg(args, 2), arg(args, 3), arg(args, 4)
    row_blocks, col_blocks, blocks = arg(args, 5), arg(args, 6), arg(args, 7)
    registers = arg(args, 12) + tid * arg(args, 13)
    area = registers + (8 * n_registers + LINE - 1) // LINE * LINE
    for k in range(n_memory, n_registers):
        sti64(registers, k, area + (k - n_memory) * arg(args, 14))
    hoisted = args + 8 * (HEAD + n_outer + n_memory * (3 + n_outer))
    program = hoisted + 8 * WORDS * arg(args, 10)
    first, last = share(blocks, tid, nt, cuts)
    for block in range(first, last):
        col = block % col_blocks * block_cols
        rest = block // col_blocks
        row = rest % row_blocks * block_rows
        _locate(args, rest // row_blocks, row, col, registers)
        if block == first:
            _run(hoisted, arg(args, 10), registers, min(block_rows, rows), min(block_cols, cols))
        here = min(block_rows, rows - row)
        _run(program, arg(args, 11), registers, here, min(block_cols, cols - col))


_LOAD = {1: ldi8, 2: ldi16, 4: ldi32, 8: ldi64}
_STORE = {1: sti8, 2: sti16, 4: sti32, 8: sti64}


def _make_load(size: int) -> Kernel:
    """Return ``(dst, src, rows, cols, row stride, col stride)``: strided memory to contiguous."""
    load, store = _LOAD[size], _STORE[size]

    def fn(dst, src, rows, cols, row_stride, col_stride):
        for r in range(rows):
            to, source = dst + r * cols * size, src + r * row_stride
            if col_stride == size:
                copy_bytes(to, source, cols * size)
            elif col_stride == 0:
                x = load(source, 0)
                for i in range(cols):
                    store(to, i, x)
            else:
                for i in range(cols):
                    store(to, i, load(source + i * col_stride, 0))

    return KERNELS.add(Kernel(fn, "ew_load", (size,), signature=OP_SIGNATURE))


def _make_store(size: int) -> Kernel:
    """Return ``(dst, src, rows, cols, row stride, col stride)``: contiguous to strided memory."""
    load, store = _LOAD[size], _STORE[size]

    def fn(dst, src, rows, cols, row_stride, col_stride):
        for r in range(rows):
            to, source = dst + r * row_stride, src + r * cols * size
            if col_stride == size:
                copy_bytes(to, source, cols * size)
            else:
                for i in range(cols):
                    store(to + i * col_stride, 0, load(source, i))

    return KERNELS.add(Kernel(fn, "ew_store", (size,), signature=OP_SIGNATURE))


LOADS = {size: _make_load(size) for size in _LOAD}
STORES = {size: _make_store(size) for size in _STORE}
