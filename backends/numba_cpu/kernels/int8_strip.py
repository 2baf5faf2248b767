"""numba_cpu > kernels > int8_strip: many short tiles of products of bytes, from codes to codes.

At short depth a tile does little more than turn its sums into codes, and the processor does one
after the other: it sees too few instructions ahead to begin the next products meanwhile. So both
are written side by side here: the first steps of a tile hold what is left to do for the tile before
it, whose sums stay in registers. Tiles run along the columns before they go on to the next rows:
lines of the result are written one after the other, while the weights stay in the caches.

A strip serves results that are proven to stay inside int32 (``int8_job``): then clamping takes one
instruction for a register full of codes. It needs AVX-512 with VNNI.

What ends a tile costs the products their slots: shuffles and saturating sums go, a part of them, to
the two pipes that multiply. Behind a ReLU zero points are 0, and codes have no bounds but those of
a byte: such strips, which are ``bare``, leave out what is nothing then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.int8_dot import DOT, FORMS
from leptonc.backends.numba_cpu.kernels.int8_tile import V8, load_bytes, nearest
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop, Writing, each, opaque, when
from leptonc.backends.numba_cpu.kernels.tile_writer import PANEL, VECTORS
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    VF,
    VI,
    call,
    i64,
    iconst,
    pointer,
    shared_function,
    shuffle,
    splat,
)

STRIPS = LANES == 16 and DOT == "vnni"  # whether this machine runs them
QUAD = 4  # vectors of int32 that make one register of codes
QUADS = {False: 4, True: 3}  # of a tile, without and with a residual: all that registers hold
FEWEST_STEPS = 4  # of the depth of a tap: a quad of the tile before is finished in each
WIDE, NARROW = 4, 2  # vectors of a row of a tile
NEAR_WEIGHTS = 24 * 1024  # bytes that all tiles of a row of them may read again: first-level cache
MOST_WEIGHTS = 256 * 1024  # bytes of a product: of more, tiles of more rows read less
_LEAST, _MOST, _NOWHERE, _TABLE, _LINES = range(5)  # lines of memory that a strip has
_LINE = 64
_WORDS, _BYTES = ir.VectorType(I16, 2 * LANES), ir.VectorType(I8, QUAD * LANES)


@dataclass(frozen=True)
class Strip:
    """The arguments of a strip; see :func:`run_strip`."""

    count: ir.Value
    rows: ir.Value
    tap_step: ir.Value
    taps: ir.Value
    depth: ir.Value
    panel: ir.Value
    out_rows: ir.Value
    column: ir.Value
    width: ir.Value
    sums: ir.Value
    scale: ir.Value
    bias: ir.Value
    res_rows: ir.Value
    res_zero: ir.Value
    zero: ir.Value
    res_scale: ir.Value
    inverse: ir.Value
    code_low: ir.Value
    code_high: ir.Value


PARAMS = [I64] * 15 + [F32] * 4


def tile_rows_of(vectors: int, res: bool) -> int:
    """Return the rows of a tile of so many vectors a row."""
    return QUADS[res] * QUAD // vectors


class Place(NamedTuple):
    """Where a tile's results go: tables of the rows of output and residual, and a column."""

    out_rows: ir.Value
    res_rows: ir.Value
    column: ir.Value


class StripWriter:
    """Writes the function of tiles of ``nv`` vectors a row, with a residual of u8 or without.

    ``bare``: zero points are 0, and the codes' bounds 0 and 255.
    """

    def __init__(self, nv: int, res: bool, bare: bool, b: ir.IRBuilder, *args: ir.Value) -> None:
        self.mr, self.nv, self.res, self.b, self.t = tile_rows_of(nv, res), nv, res, b, Strip(*args)
        self.bare = bare
        self.cells = [(i, j) for i in range(self.mr) for j in range(nv)]
        self.panel_step = b.mul(b.mul(self.t.taps, self.t.depth), i64(4 * PANEL))
        lane = ir.Constant(ir.VectorType(I16, nv * LANES), list(range(nv * LANES)))
        width = splat(b, b.trunc(self.t.width, I16), lane.type)
        self.mask = b.icmp_signed("<", lane, width)  # of a narrow strip, which is one tile wide

    def write(self) -> None:
        """Write the loop over tiles, each of which ends the one before it."""
        t, b = self.t, self.b
        # aligned for itself, and so that what is spilled beside it is, too
        memory = b.alloca(_BYTES, _LINES)
        memory.align = _LINE
        self.room = b.ptrtoint(memory, I64)
        nowhere = self.prepare()
        last = b.mul(b.sub(t.count, i64(self.mr)), i64(8))  # the last tile may begin earlier
        first = Place(nowhere, t.res_rows, t.column)
        zeros = [iconst(0)] * len(self.cells)
        loop = Loop(b, "tile", [i64(0), t.column, t.panel, *first, *zeros])
        at, column, panel, *before = loop.values
        old, held = Place(*before[:3]), before[3:]
        here = Place(b.add(t.out_rows, at), b.add(t.res_rows, at), column)
        cells = self.products(b.add(t.rows, at), column, panel, held, old)
        right = b.add(column, i64(self.nv * LANES))
        wraps = b.icmp_signed(">=", right, b.add(t.column, t.width))
        down = b.add(at, i64(8 * self.mr))
        down = b.select(b.icmp_signed("<", down, last), down, last)
        next_panel = b.add(panel, b.mul(self.panel_step, i64(max(1, self.nv // VECTORS))))
        following = [
            b.select(wraps, down, at), b.select(wraps, t.column, right),
            b.select(wraps, t.panel, next_panel),
        ]  # fmt: skip
        more = b.or_(b.not_(wraps), b.icmp_signed("<", at, last))
        loop.close(more, [*following, *here, *cells])
        for q in range(QUADS[self.res]):
            for _ in self.codes(q, cells, here):
                pass

    def prepare(self) -> ir.Value:
        """Fill the memory; return a table of rows that nobody reads, for the first tile's past."""
        t, b = self.t, self.b
        for line, bound in ((_LEAST, t.code_low), (_MOST, t.code_high)):
            code = b.extract_element(nearest(b, splat(b, bound)), ir.Constant(I32, 0))
            byte = b.trunc(b.add(code, b.trunc(t.zero, I32)), I8)
            b.store(splat(b, byte, _BYTES), self.line(line), align=_LINE)
        lost = b.sub(b.add(self.room, i64(_LINE * _NOWHERE)), t.column)
        table = b.add(self.room, i64(_LINE * _TABLE))
        for i in range(self.mr):
            b.store(lost, pointer(b, table, i64(i), 8), align=8)
        return table

    def line(self, number: int) -> ir.Value:
        """Return the pointer of a line of the memory."""
        return pointer(self.b, self.room, i64(number), _LINE)

    def row(self, table: ir.Value, i: int) -> ir.Value:
        """Return entry ``i`` of a table of row addresses."""
        return self.b.load(pointer(self.b, table, i64(i), 8), align=8, typ=I64)

    def of_column(self, base: ir.Value, column: ir.Value, j: int, typ: ir.Type) -> ir.Value:
        """Return vector ``j`` from a column of an array of four bytes each."""
        place = pointer(self.b, base, self.b.add(column, i64(j * LANES)))
        return self.b.load(place, align=4, typ=typ)

    # ----- the sums -----

    def products(
        self, rows: ir.Value, column: ir.Value, panel: ir.Value, held: list[ir.Value], old: Place
    ) -> list[ir.Value]:
        """Return the sums of a tile; write the codes of the ``held`` ones to ``old``."""
        t, b = self.t, self.b
        sums = [self.of_column(t.sums, column, j, VI) for j in range(self.nv)]
        cells = [sums[j] for _, j in self.cells]
        starts = [self.row(rows, i) for i in range(self.mr)]
        for q in range(FEWEST_STEPS):
            beside = self.codes(q, held, old) if q < QUADS[self.res] else None
            cells = self.step(starts, i64(q), panel, cells, beside)
            panel = b.add(panel, i64(4 * PANEL))
        more = b.icmp_signed(">", t.depth, i64(FEWEST_STEPS))
        done = i64(FEWEST_STEPS)
        panel, *cells = when(
            b, more, [panel, *cells], lambda v: self.steps(starts, done, v[0], v[1:])
        )
        more = b.icmp_signed(">", t.taps, i64(1))
        return when(b, more, [panel, *cells], lambda v: self.other_taps(rows, *v))[1:]

    def other_taps(self, rows: ir.Value, panel: ir.Value, *cells: ir.Value) -> list[ir.Value]:
        """Return the panel's end and the cells after all taps but the first."""
        t, b = self.t, self.b
        loop = Loop(b, "tap", [i64(1), b.add(rows, t.tap_step), panel, *cells])
        tap, table, panel, *inner = loop.values
        starts = [self.row(table, i) for i in range(self.mr)]
        made = self.steps(starts, i64(0), panel, inner)
        following = b.add(tap, i64(1))
        more = b.icmp_signed("<", following, t.taps)
        loop.close(more, [following, b.add(table, t.tap_step), *made])
        return made

    def steps(
        self, starts: list[ir.Value], k0: ir.Value, panel: ir.Value, cells: list[ir.Value]
    ) -> list[ir.Value]:
        """Return the panel's end and the cells after the depth of a tap from ``k0`` on."""
        b = self.b
        loop = Loop(b, "depth", [k0, panel, *cells])
        k, at, *inner = loop.values
        made = [b.add(at, i64(4 * PANEL)), *self.step(starts, k, at, inner)]
        following = opaque(b, b.add(k, i64(1)))
        loop.close(b.icmp_signed("<", following, self.t.depth), [following, *made])
        return made

    def step(
        self, starts: list[ir.Value], k: ir.Value, panel: ir.Value, cells: list[ir.Value],
        beside: Writing | None = None,
    ) -> list[ir.Value]:  # fmt: skip
        """Return the cells after a step of four bytes; ``beside``: what is written in between."""
        b, made = self.b, []
        panels = [panel, b.add(panel, self.panel_step)]
        columns = [
            b.load(pointer(b, panels[j // VECTORS], i64(j % VECTORS * LANES)), align=4, typ=VI)
            for j in range(self.nv)
        ]
        for (i, j), cell in zip(self.cells, cells, strict=True):
            four = splat(b, b.load(pointer(b, starts[i], k), align=1, typ=I32), VI)
            made.append(FORMS["vnni"](b, cell, four, columns[j]))
            for _ in range(PACE[self.res] if beside else 0):
                next(beside, None)
        for _ in beside or ():
            pass
        return made

    # ----- what follows -----

    def codes(self, q: int, cells: list[ir.Value], at: Place) -> Writing:
        """Store the codes of quad ``q`` of the cells."""
        b, t = self.b, self.t
        places = self.cells[q * QUAD : (q + 1) * QUAD]
        x = yield from each(cells[q * QUAD : (q + 1) * QUAD], lambda v: b.sitofp(v, VF))
        for base, op in ((t.scale, b.fmul), (t.bias, b.fadd)):
            x = yield from each(
                zip(x, places, strict=True),
                lambda v, base=base, op=op: op(v[0], self.of_column(base, at.column, v[1][1], VF)),
            )
        if self.res:
            r = yield from self.residual(places, at)
            x = yield from each(zip(x, r, strict=True), lambda v: b.fadd(*v))
        x = yield from each(x, lambda v: b.fmul(v, splat(b, t.inverse)))
        x = yield from each(x, lambda v: nearest(b, v))
        codes = yield from self.packed(x)
        self.store(codes, places[0][0], at)

    def residual(self, places: list[tuple[int, int]], at: Place) -> Writing:
        """Return the vectors of the residual as floats."""
        b, t = self.b, self.t
        r = yield from each(places, lambda p: b.zext(self.residual_codes(*p, at), VI))
        if not self.bare:
            zero = splat(b, b.trunc(t.res_zero, I32), VI)
            r = yield from each(r, lambda v: b.sub(v, zero))
        r = yield from each(r, lambda v: b.sitofp(v, VF))
        return (yield from each(r, lambda v: b.fmul(v, splat(b, t.res_scale))))

    def residual_codes(self, i: int, j: int, at: Place) -> ir.Value:
        """Return a vector of the residual's codes."""
        b = self.b
        place = pointer(b, b.add(self.row(at.res_rows, i), at.column), i64(j * LANES), 1)
        if self.nv == WIDE:
            return b.load(place, align=1, typ=V8)
        lanes = range(j * LANES, (j + 1) * LANES)
        return load_bytes(b, place, shuffle(b, self.mask, self.mask, lanes))

    def packed(self, whole: list[ir.Value]) -> Writing:
        """Return four vectors of int32 as codes, in their order; narrowing clamps to 0..255."""
        b, t = self.b, self.t
        name = "llvm.x86.avx512.packssdw.512"
        pairs = yield from each((whole[:2], whole[2:]), lambda v: call(b, name, _WORDS, v))
        if not self.bare:
            zero, name = splat(b, b.trunc(t.zero, I16), _WORDS), "llvm.sadd.sat.v32i16"
            pairs = yield from each(pairs, lambda v, name=name: call(b, name, _WORDS, [v, zero]))
        mixed = b.bitcast(call(b, "llvm.x86.avx512.packuswb.512", _BYTES, pairs), VI)
        yield
        # of each quarter of a register the four vectors have one dword
        order = [4 * quarter + v for v in range(QUAD) for quarter in range(4)]
        codes = b.bitcast(shuffle(b, mixed, mixed, order), _BYTES)
        bounds = (("llvm.umax.v64i8", _LEAST), ("llvm.umin.v64i8", _MOST))
        for name, line in () if self.bare else bounds:
            yield
            bound = b.load(self.line(line), align=_LINE, typ=_BYTES)
            codes = call(b, name, _BYTES, [codes, bound])
        return codes

    def store(self, codes: ir.Value, i: int, at: Place) -> None:
        """Store codes of the rows from ``i``."""
        b, size = self.b, self.nv * LANES
        for part in range(QUAD // self.nv):
            piece = shuffle(b, codes, codes, range(part * size, (part + 1) * size))
            place = pointer(b, b.add(self.row(at.out_rows, i + part), at.column))
            if self.nv == WIDE:
                b.store(piece, place, align=1)
            else:
                args = [piece, place, ir.Constant(I32, 1), self.mask]
                call(b, f"llvm.masked.store.v{size}i8.p0", ir.VoidType(), args)


PACE = {False: 2, True: 4}  # instructions of the codes beside one of the products


# Vectors of a row, whether there is a residual, whether bare; the first that fits runs.
_STRIPS = (
    (WIDE, False, True), (WIDE, True, True), (WIDE, False, False), (WIDE, True, False),
    (NARROW, False, False), (NARROW, True, False),
)  # fmt: skip


def _is_bare(b: ir.IRBuilder, t: Strip) -> ir.Value:
    """Return whether all zero points are 0, and codes have no bounds but 0 and 255."""
    no_zero = b.icmp_signed("==", b.or_(t.zero, t.res_zero), i64(0))
    low = b.fcmp_ordered("<=", t.code_low, ir.Constant(F32, 0.0))
    high = b.fcmp_ordered(">=", t.code_high, ir.Constant(F32, 255.0))
    return b.and_(no_zero, b.and_(low, high))


def _choose(b: ir.IRBuilder, vectors: ir.Value, res_kind: ir.Value, *args: ir.Value) -> None:
    end, is_bare = b.append_basic_block("done"), _is_bare(b, Strip(*args))
    for nv, res, bare in _STRIPS:
        here, other = (b.append_basic_block(n) for n in ("here", "other"))
        has = b.icmp_signed("!=" if res else "==", res_kind, i64(0))
        fits = b.and_(has, b.icmp_signed("==", vectors, i64(nv)))
        b.cbranch(b.and_(fits, is_bare) if bare else fits, here, other)
        b.position_at_end(here)

        def body(
            b: ir.IRBuilder, *args: ir.Value, nv: int = nv, res: bool = res, bare: bool = bare
        ) -> None:
            StripWriter(nv, res, bare, b, *args).write()

        name = f"lep_strip_{nv}{'_res' * res}{'_bare' * bare}"
        b.call(shared_function(b.module, name, ir.VoidType(), PARAMS, body), args)
        b.branch(end)
        b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def run_strip(
    typingctx, vectors, res_kind, count, rows, tap_step, taps, depth, panel, out_rows, column,
    width, sums, scale, bias, res_rows, res_zero, zero, res_scale, inverse, code_low,
    code_high,
):  # fmt: skip
    """Compute ``count`` rows of ``width`` columns from ``column`` on, as codes of u8.

    ``vectors``: WIDE or NARROW, those of a row of a tile. A wide strip is whole tiles wide; a
    narrow one is one tile wide, its width may be less. ``count``: at least the rows of a tile,
    ``tile_rows_of``; the last tile may compute rows of the one before it again, so that a residual
    must not lie where the output does unless ``count`` is a multiple of that. ``depth``: at least
    FEWEST_STEPS. ``res_kind``: NO_RES or U8_RES. The others are as of ``run_byte_tile``; each
    result times ``inverse`` must be known to stay inside int32.
    """

    def build(context, builder, sig, args):
        if STRIPS:  # elsewhere no record asks for them
            params = [I64, I64, *PARAMS]
            fn = shared_function(builder.module, "lep_run_strip", ir.VoidType(), params, _choose)
            builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 17, *(types.float32,) * 4), build
