"""numba_cpu > kernels > igemm: the indirect matrix product that serves linear, conv and matmul.

For every outer index ``(o0, o1)``, output row ``m = (z, y, x)`` and column ``n``::

    out[m, n] = act(sum over t < taps, k < depth of A[m, t][k] * B[t, k, n] + bias[n] + res[m, n])

Row ``A[m, t]`` starts at input position ``(z * step_z + dz, y * step_y + dy, x * step_x + dx)``,
where ``(dz, dy, dx)`` is row ``t`` of the tap table; a position outside ``in_d x in_h x in_w``
reads ``zero_row``. With one tap and ``z = y = 1`` this is a plain product; :mod:`igemm_plan` makes
the records of linear, matmul, conv and transposed conv. B is packed: ``[ceil(N /
PANEL)][taps][depth][PANEL]`` per outer index, zero beyond N (see :mod:`pack`).

Sums run over k in ascending order within each tap, for every tile height and thread count: results
are bitwise equal for any ``nt``. A product of one row adds up partial sums instead. All addresses
are bytes, all strides elements (float32), 0 = absent where it says "or 0".
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.activation import clamp_of
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm_record import (
    A_O0,
    A_O1,
    A_X,
    A_Y,
    A_Z,
    ACT,
    ACT_P0,
    ACT_P1,
    B_O0,
    B_O1,
    BIAS,
    BIAS_O1,
    COLUMNS,
    DEPTH,
    DEPTH_BLOCK,
    IN_D,
    IN_H,
    IN_W,
    LINE,
    OUT,
    OUT_O0,
    OUT_O1,
    OUT_X,
    OUT_Y,
    OUT_Z,
    OUTER0,
    OUTER1,
    PITCH,
    RES,
    RES_MODE,
    RES_O0,
    RES_O1,
    RES_X,
    RES_Y,
    RES_Z,
    ROW_BLOCK,
    ROWS_X,
    ROWS_Y,
    ROWS_Z,
    SCRATCH,
    SCRATCH_BYTES,
    STEP_X,
    STEP_Y,
    STEP_Z,
    TAP_BLOCK,
    TAP_TABLE,
    TAPS,
    ZERO_ROW,
    A,
    B,
    Res,
)
from leptonc.backends.numba_cpu.kernels.microkernel import (
    PAIR_HEIGHTS,
    PAIR_TOP,
    PANEL,
    PREFETCH,
    ROW,
    ROWS,
    TILES,
    equal_pairs,
    equal_tiles,
    pair_rows,
    run_row,
    run_tiles,
    tile_rows,
)
from leptonc.backends.numba_cpu.kernels.row_panels import ROW_PANELS, row_product
from leptonc.backends.numba_cpu.kernels.row_tables import affine_rows, ask_rows, copy_rows, fill
from leptonc.backends.numba_cpu.kernels.shares import part
from leptonc.backends.numba_cpu.kernels.tile_finish import (
    ADD_RES,
    FINISH_ROWS,
    FINISH_TILE,
    MULTIPLY_RES,
    NO_RES,
    finish_tile,
)
from leptonc.backends.numba_cpu.kernels.vec import arg, argf, ldi64

COPY_PANELS = 3  # a block of A that serves fewer panels is not worth a copy
ROW_WORTH = 4  # columns of B that take as long to read as a row of A; MobileNetV2 gains 1 to 4 %
#: Columns of B that take as long to read as a row takes to be multiplied with a panel.
ROW_WORK = 10
# Rows from which on two panels are multiplied at a time; of fewer, all are one tile.
PAIR_ROWS = PAIR_TOP + 1 if PAIR_HEIGHTS else 2**62


_INF = float("inf")
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)


@inline_njit
def grid(nt, outer, m, panels):
    """Return how many parts to make of outer index, rows and columns: at most ``nt`` together.

    The largest share counts by its products, and by what it reads of A and B, of which A may lie
    in the caches of the core that wrote it: 1225 rows of two panels are better shared by rows,
    though not quite evenly.
    """
    row_tiles = -(-m // ROWS)
    best, parts = -1, (1, 1, 1)
    for by_outer in range(min(nt, outer), 0, -1):
        for by_rows in range(min(nt // by_outer, row_tiles), 0, -1):
            by_columns = min(nt // (by_outer * by_rows), panels)
            rows, columns = -(-m // by_rows), -(-panels // by_columns)
            reads = ROW_WORTH * rows + columns * PANEL
            cost = -(-outer // by_outer) * (ROW_WORK * rows * columns + reads)
            if best < 0 or cost < best:
                best, parts = cost, (by_outer, by_rows, by_columns)
    return parts


@inline_njit
def operands(args, o):
    """Return the addresses of A, B, bias, result and residual for an outer index; 0: absent."""
    o0, o1 = o // arg(args, OUTER1), o % arg(args, OUTER1)
    a = arg(args, A) + 4 * (o0 * arg(args, A_O0) + o1 * arg(args, A_O1))
    b = arg(args, B) + 4 * (o0 * arg(args, B_O0) + o1 * arg(args, B_O1))
    out = arg(args, OUT) + 4 * (o0 * arg(args, OUT_O0) + o1 * arg(args, OUT_O1))
    bias, res = arg(args, BIAS), arg(args, RES)
    bias += 4 * o1 * arg(args, BIAS_O1) if bias != 0 else 0
    res += 4 * (o0 * arg(args, RES_O0) + o1 * arg(args, RES_O1)) if res != 0 else 0
    return a, b, bias, out, res


@inline_njit
def input_rows(args, table, m0, count, base, tap, size):
    """Write the addresses of the input rows of one tap; positions outside read the zero row.

    The strides of the record count elements of ``size`` bytes.
    """
    taps, rows_y, rows_x = arg(args, TAP_TABLE), arg(args, ROWS_Y), arg(args, ROWS_X)
    dz, dy, dx = 0, 0, 0
    if taps != 0:
        dz, dy, dx = ldi64(taps, 3 * tap), ldi64(taps, 3 * tap + 1), ldi64(taps, 3 * tap + 2)
    step_x, stride_x, zero = arg(args, STEP_X), arg(args, A_X), arg(args, ZERO_ROW)
    # Output columns whose input column exists: ceil and floor division by the step.
    low = max(0, -(dx // step_x))
    high = (arg(args, IN_W) - 1 - dx) // step_x + 1
    m = m0
    while m < m0 + count:
        line, x = m // rows_x, m % rows_x
        run = min(rows_x - x, m0 + count - m)
        z = (line // rows_y) * arg(args, STEP_Z) + dz
        y = (line % rows_y) * arg(args, STEP_Y) + dy
        inside = 0 <= z < arg(args, IN_D) and 0 <= y < arg(args, IN_H)
        begin = min(max(low, x), x + run) if inside else x + run
        end = max(min(high, x + run), begin)
        start = base + size * (
            z * arg(args, A_Z) + y * arg(args, A_Y) + (begin * step_x + dx) * stride_x
        )
        fill(table, m - m0, begin - x, zero, 0)
        fill(table, m - m0 + begin - x, end - begin, start, size * step_x * stride_x)
        fill(table, m - m0 + end - x, x + run - end, zero, 0)
        m += run
    fill(table, count, ROWS, ldi64(table, count - 1), 0)


@inline_njit
def bounds(args, last):
    """Return the clamp that the tile applies itself, and whether ``finish_tile`` has work left."""
    if last and late_residual(args) == NO_RES:
        low, high, whole = clamp_of(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1))
        return low, high, not whole
    return -_INF, _INF, last


@inline_njit
def late_residual(args):
    """Return what ``finish_tile`` has to do with the residual."""
    mode = arg(args, RES_MODE)
    if arg(args, RES) == 0 or mode == _BEFORE:
        return NO_RES
    return MULTIPLY_RES if mode == _TIMES else ADD_RES


@inline_njit
def _next_tiles(left, width, apart, most):
    """Return the rows of the next tile of ``left``, and how many such follow, in ``most`` rows."""
    if apart == 0:
        some = tile_rows(left, width)
        return some, min(equal_tiles(left, some, width), most // some) if most > some else 1
    some = pair_rows(left)
    return some, min(equal_pairs(left, some), most // some) if most > some else 1


@inline_njit
def _ask(table, count, column, apart):
    """Ask for the parts of rows that a tile reads."""
    ask_rows(table, count, 4 * column)
    if apart != 0:
        ask_rows(table, count, 4 * (column + PANEL))


@inline_njit
def _finish(args, late, rows, step, count, column, apart):
    """Finish some rows of a panel, of two if they lie ``apart``."""
    for at in range(column, column + (PANEL if apart == 0 else 2 * PANEL), PANEL):
        finish_tile(
            arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), late, rows, rows + step, count,
            4 * at, arg(args, COLUMNS) - at,
        )  # fmt: skip


@inline_njit
def _panel(args, tables, step, count, taps, depth, offset, b, apart, column, bias, first, last,
           following):  # fmt: skip
    """Compute a panel of columns for a block of rows, or two that lie ``apart``.

    ``tables``: output, residual, A rows. Only its first tile waits for the panel. So that memory is
    busy for the others, too, every tile asks for its part of the panel that is ``following``.
    """
    width, late = arg(args, COLUMNS) - column, late_residual(args)
    low, high, unfinished = bounds(args, last)
    alone = arg(args, ROWS_Z) * arg(args, ROWS_Y) * arg(args, ROWS_X) == 1
    height = ROWS if apart == 0 else PAIR_TOP
    tiles, size = (count + height - 1) // height, 4 * PANEL * taps * depth
    ahead, advance = following, 4 * PANEL // tiles
    if tiles == 1:
        ahead = b + PREFETCH
    i, finished = 0, 0
    while i < count:
        out_rows = tables + 8 * i
        init = 0 if first else out_rows
        plus = out_rows + step if last and late == NO_RES and arg(args, RES) != 0 else 0
        read = out_rows + step if last and arg(args, RES) != 0 else init
        most = FINISH_ROWS - (i - finished) if unfinished else count
        some, many = _next_tiles(count - i, width, apart, most if read == 0 else 1)
        if read != 0:  # the rows that the next tile will read
            if i + some < count:
                _ask(read + 8 * some, min(some, count - i - some), column, apart)
            else:
                _ask(read - 8 * i, some, column + (PANEL if apart == 0 else 2 * PANEL), apart)
        if alone:
            run_row(
                out_rows + 2 * step, step, taps, depth, 4 * offset, b, out_rows, 4 * column,
                width, bias if first else 0, init, plus, ahead, advance, low, high,
            )  # fmt: skip
        else:
            run_tiles(
                some, many, out_rows + 2 * step, step, taps, depth, 4 * offset, b, apart, out_rows,
                4 * column, width, bias if first else 0, init, plus, ahead, advance, low, high,
            )  # fmt: skip
        i += some * many
        ahead += size // tiles * many
        if unfinished and (i >= count or i - finished > FINISH_ROWS - ROWS):
            _finish(args, late, tables + 8 * finished, step, i - finished, column, apart)
            finished = i


@inline_njit
def _block(args, tables, m0, count, panel0, panel1, a, b, bias, out, res):
    """Compute the rows ``m0 .. m0 + count`` of panels ``panel0 .. panel1`` of one outer index."""
    taps, depth, step = arg(args, TAPS), arg(args, DEPTH), 8 * (arg(args, ROW_BLOCK) + ROWS)
    rows_y, rows_x = arg(args, ROWS_Y), arg(args, ROWS_X)
    affine_rows(tables, m0, count, rows_y, rows_x, out,
                arg(args, OUT_Z), arg(args, OUT_Y), arg(args, OUT_X), 4)  # fmt: skip
    if res != 0:
        affine_rows(tables + step, m0, count, rows_y, rows_x, res,
                    arg(args, RES_Z), arg(args, RES_Y), arg(args, RES_X), 4)  # fmt: skip
    tap_block, depth_block = arg(args, TAP_BLOCK), arg(args, DEPTH_BLOCK)
    pitch = arg(args, PITCH) if panel1 - panel0 >= COPY_PANELS else 0
    copies = tables + ((step * (arg(args, TAP_BLOCK) + 2) + LINE - 1) // LINE) * LINE
    for tap0 in range(0, taps, tap_block):
        some_taps = min(tap_block, taps - tap0)
        k0 = 0
        while True:
            some_depth = min(depth_block, depth - k0)
            if k0 == 0 or pitch != 0:
                for t in range(some_taps):
                    table = tables + (2 + t) * step
                    input_rows(args, table, m0, count, a, tap0 + t, 4)
                    if pitch != 0:
                        to = copies + 4 * t * arg(args, ROW_BLOCK) * pitch
                        copy_rows(table, count, some_depth, 4 * k0, to, pitch)
            first = tap0 == 0 and k0 == 0
            last = tap0 + some_taps >= taps and k0 + some_depth >= depth
            part = b + 4 * PANEL * (tap0 * depth + k0)
            size = 4 * PANEL * taps * depth  # bytes from panel to panel
            p = panel0
            while p < panel1:
                some = 2 if count >= PAIR_ROWS and p + 1 < panel1 and size > 0 else 1
                panel = part + p * size
                following = panel + some * size
                if p + some == panel1:  # the first panel of the next part of the sum
                    following = part + panel0 * size + 4 * PANEL * some_taps * some_depth
                _panel(args, tables, step, count, some_taps, some_depth, 0 if pitch != 0 else k0,
                       panel, size if some == 2 else 0, p * PANEL, bias, first, last,
                       following)  # fmt: skip
                p += some
            k0 += some_depth
            if k0 >= depth:
                break


@inline_njit
def _is_plain_row(args):
    """Return whether a product of one row is one sum that its tile finishes."""
    one_sum = arg(args, TAPS) == 1 and arg(args, DEPTH_BLOCK) >= arg(args, DEPTH)
    return one_sum and arg(args, TAP_TABLE) == 0 and not bounds(args, True)[2]


@kernel(parts=(FINISH_TILE, TILES, ROW, ROW_PANELS))
def igemm(args, tid, nt, cuts):
    """Compute this thread's share of the product that an :class:`IGemm` record describes."""
    outer = arg(args, OUTER0) * arg(args, OUTER1)
    m = arg(args, ROWS_Z) * arg(args, ROWS_Y) * arg(args, ROWS_X)
    n = arg(args, COLUMNS)
    if outer <= 0 or m <= 0 or n <= 0:
        return
    if outer * m == 1 and _is_plain_row(args):
        low, high, _ = bounds(args, True)
        tables = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
        row_product(n, arg(args, DEPTH), arg(args, A), arg(args, B), arg(args, BIAS),
                    arg(args, RES), arg(args, OUT), tables, low, high, tid, nt, cuts)  # fmt: skip
        return
    panels = -(-n // PANEL)
    by_outer, by_rows, by_columns = grid(nt, outer, m, panels)
    used = by_outer * by_rows * by_columns
    if tid >= used:
        return
    cuts = cuts if used == nt else 0
    i_column, rest = tid % by_columns, tid // by_columns
    i_row, i_outer = rest % by_rows, rest // by_rows
    panel0, panel1 = part(panels, i_column, by_columns, tid - i_column, 1, cuts)
    begin, end = part(m, i_row, by_rows, i_outer * by_rows * by_columns, by_columns, cuts)
    row_block = arg(args, ROW_BLOCK)
    tables = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    for o in range(*part(outer, i_outer, by_outer, 0, by_rows * by_columns, cuts)):
        a, b, bias, out, res = operands(args, o)
        for m0 in range(begin, end, row_block):
            _block(args, tables, m0, min(row_block, end - m0), panel0, panel1, a, b, bias, out,
                   res)  # fmt: skip
