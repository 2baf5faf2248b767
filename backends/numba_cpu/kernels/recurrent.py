"""numba_cpu > kernels > recurrent: the time loop of LSTM, GRU and plain RNN layers.

The input's share of the gates (``x W_ih^T + b_ih`` for all steps) is one matrix product made
before; this kernel adds ``h W_hh^T + b_hh`` step by step and applies the cell. Threads split the
batch: each walks its own sequences through all steps, so there is nothing to wait for. Gate order
is torch's: LSTM ``i, f, g, o``; GRU ``r, z, n``. Formulas: torch.nn.LSTM, torch.nn.GRU,
torch.nn.RNN.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.microkernel import (
    PANEL,
    PREFETCH,
    ROW,
    ROWS,
    TILES,
    run_row,
    run_tiles,
)
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    sti64,
    vadd,
    vatleast,
    vfma,
    vload_n,
    vmul,
    vsigmoid,
    vsplat,
    vstore_n,
    vsub,
    vtanh,
    vzero,
)

(
    CELL, STEPS, BATCH, HIDDEN, REVERSE, GATES, G_T, G_B, W, BIAS,
    H0, H0_B, C0, C0_B, OUT, OUT_T, OUT_B, HN, HN_B, CN, CN_B, SCRATCH, SCRATCH_BYTES,
) = range(23)  # fmt: skip
"""Record: sizes, ``GATES``: f32[t,b,gates*h] with strides (t, b); ``W``: packed W_hh panels;
``BIAS``: b_hh or 0; initial and final states and the output with their strides."""

LSTM, GRU, TANH, RELU = 0, 1, 2, 3
GATE_COUNT = {LSTM: 4, GRU: 3, TANH: 1, RELU: 1}
_INF = float("inf")


def scratch_bytes(cell: int, hidden: int) -> int:
    """Return the bytes one thread needs: row tables, gate sums, the states of ROWS sequences."""
    gates = GATE_COUNT[cell] * hidden
    return 8 * 4 * ROWS + 4 * ROWS * (gates + 2 * hidden) + 4 * PANEL


@inline_njit
def _rows(table, count, start, stride):
    for i in range(ROWS):
        sti64(table, i, start + 4 * min(i, count - 1) * stride)


@inline_njit
def _copy(to, start, n):
    for j in range(0, n, LANES):
        vstore_n(to, j, vload_n(start, j, n - j), n - j)


@inline_njit
def _lstm(x, g, h, c, n):
    """``c = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``."""
    for j in range(0, n, LANES):
        left = n - j
        i = vsigmoid(vadd(vload_n(x, j, left), vload_n(g, j, left)))
        f = vsigmoid(vadd(vload_n(x, n + j, left), vload_n(g, n + j, left)))
        u = vtanh(vadd(vload_n(x, 2 * n + j, left), vload_n(g, 2 * n + j, left)))
        o = vsigmoid(vadd(vload_n(x, 3 * n + j, left), vload_n(g, 3 * n + j, left)))
        new = vfma(f, vload_n(c, j, left), vmul(i, u))
        vstore_n(c, j, new, left)
        vstore_n(h, j, vmul(o, vtanh(new)), left)


@inline_njit
def _gru(x, g, h, n):
    """``n = tanh(x_n + r h_n)``, ``h = (1 - z) n + z h``."""
    for j in range(0, n, LANES):
        left = n - j
        r = vsigmoid(vadd(vload_n(x, j, left), vload_n(g, j, left)))
        z = vsigmoid(vadd(vload_n(x, n + j, left), vload_n(g, n + j, left)))
        u = vtanh(vfma(r, vload_n(g, 2 * n + j, left), vload_n(x, 2 * n + j, left)))
        old = vload_n(h, j, left)
        vstore_n(h, j, vadd(vmul(vsub(vsplat(1.0), z), u), vmul(z, old)), left)


@inline_njit
def _plain(x, g, h, n, relu):
    """``h = act(x + g)``."""
    for j in range(0, n, LANES):
        left = n - j
        v = vadd(vload_n(x, j, left), vload_n(g, j, left))
        v = vatleast(v, vzero()) if relu else vtanh(v)
        vstore_n(h, j, v, left)


@inline_njit
def _cell(cell, x, g, h, c, n):
    if cell == LSTM:
        _lstm(x, g, h, c, n)
    elif cell == GRU:
        _gru(x, g, h, n)
    else:
        _plain(x, g, h, n, cell == RELU)


@kernel(parts=(TILES, ROW))
def recurrence(args, tid, nt, cuts):
    """Walk this thread's sequences through all steps."""
    cell, steps, n = arg(args, CELL), arg(args, STEPS), arg(args, HIDDEN)
    count_gates = 4 if cell == LSTM else (3 if cell == GRU else 1)
    wide, batch = count_gates * n, arg(args, BATCH)
    blocks = (batch + ROWS - 1) // ROWS
    tables = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    h_rows, g_rows = tables, tables + 16 * ROWS
    g = tables + 32 * ROWS
    h, c = g + 4 * ROWS * wide, g + 4 * ROWS * (wide + n)
    for block in range(*share(blocks, tid, nt, cuts)):
        b0 = block * ROWS
        count = min(ROWS, batch - b0)
        _rows(h_rows, count, h, n)
        _rows(g_rows, count, g, wide)
        for i in range(count):
            _copy(h + 4 * i * n, arg(args, H0) + 4 * (b0 + i) * arg(args, H0_B), n)
            if cell == LSTM:
                _copy(c + 4 * i * n, arg(args, C0) + 4 * (b0 + i) * arg(args, C0_B), n)
        for step in range(steps):
            t = steps - 1 - step if arg(args, REVERSE) != 0 else step
            for p in range(0, wide, PANEL):
                panel = arg(args, W) + 4 * p * n
                if batch == 1:
                    run_row(h_rows, 0, 1, n, 0, panel, g_rows, 4 * p, wide - p,
                            arg(args, BIAS), 0, 0, panel + PREFETCH, 4 * PANEL, -_INF,
                            _INF)  # fmt: skip
                else:
                    run_tiles(count, 1, h_rows, 0, 1, n, 0, panel, 0, g_rows, 4 * p, wide - p,
                              arg(args, BIAS), 0, 0, panel + PREFETCH, 4 * PANEL, -_INF,
                              _INF)  # fmt: skip
            for i in range(count):
                x = arg(args, GATES) + 4 * (t * arg(args, G_T) + (b0 + i) * arg(args, G_B))
                hi = h + 4 * i * n
                _cell(cell, x, g + 4 * i * wide, hi, c + 4 * i * n, n)
                out = arg(args, OUT) + 4 * (t * arg(args, OUT_T) + (b0 + i) * arg(args, OUT_B))
                _copy(out, hi, n)
        for i in range(count):
            _copy(arg(args, HN) + 4 * (b0 + i) * arg(args, HN_B), h + 4 * i * n, n)
            if cell == LSTM:
                _copy(arg(args, CN) + 4 * (b0 + i) * arg(args, CN_B), c + 4 * i * n, n)
