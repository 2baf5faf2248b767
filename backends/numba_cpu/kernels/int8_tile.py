"""numba_cpu > kernels > int8_tile: the register tile of products of bytes, sums in int32.

Cells begin with a correction of int32 (``-zero point * sum of weights``) and end as float32:
``f32(sum) * scale + bias``, then the residual, a clamp, and on request codes of 8 bits. Each
rounding is one that the meaning of ``int_conv``, ``dequantize``, ``add`` and ``quantize`` has, in
that order: results are theirs bit for bit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.int8_dot import DOT, FORMS, PROVEN, target_triple
from leptonc.backends.numba_cpu.kernels.int8_pair_steps import BYTE_HEIGHTS, PairSteps
from leptonc.backends.numba_cpu.kernels.tile_writer import (
    TileForm,
    emit_choice,
    emit_row,
)
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
    call_float,
    fconst,
    i64,
    iconst,
    masked_load,
    masked_store,
    pointer,
    shared_function,
    shuffle,
    splat,
)

V8 = ir.VectorType(I8, LANES)
NO_RES, FLOAT_RES, U8_RES, I8_RES = 0, 1, 2, 3
FLOATS, CODES, PACKED = 0, 1, 2  # what is stored; PACKED: u8 of the whole range
# Of int32 to int16 and to bytes, both saturating, where a register holds whole quarters to mix.
_PACKS = {} if DOT == "plain" else {
    16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
    8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
}  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """The arguments of a tile; see :func:`run_byte_tile`."""

    rows: ir.Value
    tap_step: ir.Value
    taps: ir.Value
    depth: ir.Value
    offset: ir.Value
    panel: ir.Value
    out_rows: ir.Value
    column: ir.Value
    width: ir.Value
    ahead: ir.Value
    advance: ir.Value
    sums: ir.Value
    scale: ir.Value
    bias: ir.Value
    res_rows: ir.Value
    res_kind: ir.Value
    res_zero: ir.Value
    out_kind: ir.Value
    zero: ir.Value
    extra: ir.Value
    res_scale: ir.Value
    low: ir.Value
    high: ir.Value
    inverse: ir.Value
    code_low: ir.Value
    code_high: ir.Value


PARAMS = [I64] * 20 + [F32] * 6


class ByteTile(PairSteps):
    """A tile of int32 sums of products of bytes."""

    zero = iconst(0)

    def place(self, base: ir.Value, j: int, size: int) -> ir.Value:
        """Return the pointer of vector ``j`` of this tile's columns, ``size`` bytes each."""
        first = self.b.add(self.t.column, i64(j * LANES))
        return pointer(self.b, base, first, size)

    # ----- the sums -----

    def broadcast(self, at: ir.Value) -> ir.Value:
        """Return four bytes of A in all lanes."""
        return splat(self.b, self.b.load(at, align=1, typ=I32), VI)

    def column(self, at: ir.Value) -> ir.Value:
        """Return the vector of B at a pointer."""
        return self.b.load(at, align=4, typ=VI)

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return ``z`` plus the products of bytes."""
        return FORMS[PROVEN](self.b, z, x, y)

    def plus(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return the sum of two cells."""
        return self.b.add(x, y)

    def start(self) -> list[ir.Value]:
        """Return the initial cells."""
        cells = self.corrections()
        return self.with_extra(cells) if PROVEN == "pairs" else cells

    def corrections(self) -> list[ir.Value]:
        """Return the corrections of the columns; they are there for whole panels."""
        columns = [
            self.b.load(self.place(self.t.sums, j, 4), align=4, typ=VI) for j in range(self.nv)
        ]
        return [columns[j] for _, j in self.cells]

    # ----- what follows -----

    def finish(self, acc: list[ir.Value]) -> None:
        """Scale, add, clamp and store as floats or as codes."""
        values = self.combined(self.scaled(acc))
        b, t = self.b, self.t
        floats, codes, end = self.block("floats"), self.block("codes"), self.block("end")
        b.cbranch(b.icmp_signed("==", t.out_kind, i64(FLOATS)), floats, codes)
        b.position_at_end(floats)
        low, high = splat(b, t.low), splat(b, t.high)
        starts = [self.row(t.out_rows, i) for i in range(self.mr)]
        for (i, j), x in zip(self.cells, values, strict=True):
            x = vm.clamp_high(b, vm.clamp_low(b, x, low), high)
            masked_store(b, x, self.place(starts[i], j, 4), self.masks[j])
        b.branch(end)
        b.position_at_end(codes)
        self.store_any(self.numbers(values))
        b.branch(end)
        b.position_at_end(end)

    def store_any(self, values: list[ir.Value]) -> None:
        """Store values as codes, the short way where there is one."""
        b, t = self.b, self.t
        if LANES not in _PACKS or self.nv != 2:
            self.store_codes([self.coded(x) for x in values])
            return
        short, long, end = self.block("packed"), self.block("unpacked"), self.block("done")
        full = b.icmp_signed(">=", t.width, i64(self.nv * LANES))
        b.cbranch(b.and_(full, b.icmp_signed("==", t.out_kind, i64(PACKED))), short, long)
        b.position_at_end(short)
        self.store_packed(values)
        b.branch(end)
        b.position_at_end(long)
        self.store_codes([self.coded(x) for x in values])
        b.branch(end)
        b.position_at_end(end)

    def store_packed(self, values: list[ir.Value]) -> None:
        """Store two rows at a time; narrowing clamps to 0..255 by itself.

        Of too large a number the processor makes the smallest int32, hence one clamp.
        """
        b, t = self.b, self.t
        starts = [self.row(t.out_rows, i) for i in range(self.mr)]
        high, zero = splat(b, t.code_high), splat(b, b.trunc(t.zero, I32), VI)
        inverse = splat(b, t.inverse)
        whole = [
            b.add(nearest(b, vm.clamp_high(b, b.fmul(x, inverse), high)), zero) for x in values
        ]
        self.store_rows(starts, whole)

    def store_rows(self, starts: list[ir.Value], whole: list[ir.Value]) -> None:
        """Store vectors of int32, two a row, clamped to 0..255."""
        b = self.b
        for i in range(0, self.mr, 2):
            rows = [whole[2 * k : 2 * k + 2] for k in (i, min(i + 1, self.mr - 1))]
            first, second = packed_rows(b, rows)
            b.store(first, self.place(starts[i], 0, 1), align=1)
            if i + 1 < self.mr:
                b.store(second, self.place(starts[i + 1], 0, 1), align=1)

    def numbers(self, values: list[ir.Value]) -> list[ir.Value]:
        """Return the values with 0 for NaN, which only a residual of floats brings."""
        b, t, before = self.b, self.t, self.b.block
        clean, end = self.block("clean"), self.block("numbers")
        b.cbranch(b.icmp_signed("==", t.res_kind, i64(FLOAT_RES)), clean, end)
        b.position_at_end(clean)
        made = [number_of(b, x) for x in values]
        b.branch(end)
        b.position_at_end(end)
        phis = [b.phi(VF) for _ in values]
        for cells, block in ((values, before), (made, clean)):
            for phi, value in zip(phis, cells, strict=True):
                phi.add_incoming(value, block)
        return phis

    def scaled(self, acc: list[ir.Value]) -> list[ir.Value]:
        """Return ``f32(sum) * scale + bias``, each rounded; both vectors fill whole panels."""
        b, t = self.b, self.t
        scales = [b.load(self.place(t.scale, j, 4), align=4, typ=VF) for j in range(self.nv)]
        biases = [b.load(self.place(t.bias, j, 4), align=4, typ=VF) for j in range(self.nv)]
        return [
            b.fadd(b.fmul(b.sitofp(x, VF), scales[j]), biases[j])
            for (_, j), x in zip(self.cells, acc, strict=True)
        ]

    def combined(self, values: list[ir.Value]) -> list[ir.Value]:
        """Return the values plus the residual, if there is one."""
        b, t = self.b, self.t
        blocks = {kind: self.block(name) for kind, name in (
            (FLOAT_RES, "res_floats"), (U8_RES, "res_u8"), (I8_RES, "res_i8"),
        )}  # fmt: skip
        end, before = self.block("combined"), b.block
        switch = b.switch(t.res_kind, end)
        choices = [(values, before)]
        for kind, block in blocks.items():
            switch.add_case(i64(kind), block)
            b.position_at_end(block)
            starts = [self.row(t.res_rows, i) for i in range(self.mr)]
            sums = [
                b.fadd(x, self.residual(kind, starts[i], j))
                for (i, j), x in zip(self.cells, values, strict=True)
            ]
            choices.append((sums, b.block))
            b.branch(end)
        b.position_at_end(end)
        phis = [b.phi(VF) for _ in values]
        for cells, block in choices:
            for phi, value in zip(phis, cells, strict=True):
                phi.add_incoming(value, block)
        return phis

    def residual(self, kind: int, row: ir.Value, j: int) -> ir.Value:
        """Return a vector of the residual as floats."""
        b, t = self.b, self.t
        if kind == FLOAT_RES:
            return masked_load(b, self.place(row, j, 4), self.masks[j])
        codes = load_bytes(b, self.place(row, j, 1), self.masks[j])
        wide = b.zext(codes, VI) if kind == U8_RES else b.sext(codes, VI)
        wide = b.sub(wide, splat(b, b.trunc(t.res_zero, I32), VI))
        return b.fmul(b.sitofp(wide, VF), splat(b, t.res_scale))

    def coded(self, x: ir.Value) -> ir.Value:
        """Return the codes of a vector as int32."""
        t = self.t
        return codes_of(self.b, x, t.inverse, t.code_low, t.code_high, t.zero)

    def store_codes(self, codes: list[ir.Value]) -> None:
        """Store codes; only the last, narrow panel pays for masks where they cost."""
        b, t = self.b, self.t
        starts = [self.row(t.out_rows, i) for i in range(self.mr)]
        places = [self.place(starts[i], j, 1) for i, j in self.cells]
        whole, narrow, end = self.block("whole"), self.block("narrow"), self.block("stored")
        b.cbranch(b.icmp_signed(">=", t.width, i64(self.nv * LANES)), whole, narrow)
        b.position_at_end(whole)
        if LANES == 8 and LANES in _PACKS and self.nv == 2:  # only AVX-512 narrows at once
            self.store_rows(starts, [b.and_(code, iconst(255)) for code in codes])
        else:
            for place, code in zip(places, codes, strict=True):
                b.store(b.trunc(code, V8), place, align=1)
        b.branch(end)
        b.position_at_end(narrow)
        for (_, j), place, code in zip(self.cells, places, codes, strict=True):
            store_bytes(b, b.trunc(code, V8), place, self.masks[j])
        b.branch(end)
        b.position_at_end(end)


def number_of(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return a vector with 0 for NaN."""
    return b.select(b.fcmp_ordered("ord", x, x), x, fconst(0.0))


def codes_of(
    b: ir.IRBuilder, x: ir.Value, inverse: ir.Value, low: ir.Value, high: ir.Value, zero: ir.Value
) -> ir.Value:
    """Return ``clamp(round(x * inverse) + zero, ...)`` of a vector without NaN as int32.

    ``low``, ``high``: float32, the bounds less ``zero``. To clamp before rounding is the same where
    they are whole numbers; where they are those of an activation times ``inverse``, it is the
    activation: products are rounded, but in order.
    """
    y = b.fmul(x, splat(b, inverse))
    y = vm.clamp_high(b, vm.clamp_low(b, y, splat(b, low)), splat(b, high))
    return b.add(nearest(b, y), splat(b, b.trunc(zero, I32), VI))


def packed_rows(b: ir.IRBuilder, rows: list[list[ir.Value]]) -> tuple[ir.Value, ir.Value]:
    """Return two rows of two vectors of int32 as bytes, clamped to 0..255 (AVX-512, AVX2)."""
    words, bytes_ = ir.VectorType(I16, 2 * LANES), ir.VectorType(I8, 4 * LANES)
    narrow, narrower = _PACKS[LANES]
    pairs = [call(b, narrow, words, row) for row in rows]
    mixed = b.bitcast(call(b, narrower, bytes_, pairs), VI)
    # of each quarter of a register (of 16 bytes) the four vectors have one dword
    halves = [[4 * q + v for v in pair for q in range(LANES // 4)] for pair in ((0, 1), (2, 3))]
    both = shuffle(b, mixed, mixed, [*halves[0], *halves[1]])
    half = LANES // 2
    first, second = (shuffle(b, both, both, list(range(k, k + half))) for k in (0, half))
    return first, second


def nearest(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return the nearest int32, halves to even, of a vector within its range."""
    if "x86" not in target_triple():
        return b.fptosi(call_float(b, "roundeven", x), VI)
    if LANES == 16:
        all_ = ir.Constant(ir.IntType(16), -1)
        now = ir.Constant(I32, 4)  # the rounding in force, which is to the nearest
        args = [x, iconst(0), all_, now]
        return call(b, "llvm.x86.avx512.mask.cvtps2dq.512", VI, args)
    name = "llvm.x86.avx.cvt.ps2dq.256" if LANES == 8 else "llvm.x86.sse2.cvtps2dq"
    return call(b, name, VI, [x])


def load_bytes(b: ir.IRBuilder, ptr: ir.Value, mask: ir.Value) -> ir.Value:
    """Load a byte for each masked lane, 0 in the others."""
    args = [ptr, ir.Constant(I32, 1), mask, ir.Constant(V8, [0] * LANES)]
    return call(b, f"llvm.masked.load.v{LANES}i8.p0", V8, args)


def store_bytes(b: ir.IRBuilder, value: ir.Value, ptr: ir.Value, mask: ir.Value) -> None:
    """Store the masked lanes as bytes."""
    args = [value, ptr, ir.Constant(I32, 1), mask]
    call(b, f"llvm.masked.store.v{LANES}i8.p0", ir.VoidType(), args)


_BYTES = TileForm("lep_byte_tile", ByteTile, Tile, PARAMS, *BYTE_HEIGHTS)


@intrinsic
def run_byte_tile(
    typingctx, count, rows, tap_step, taps, depth, offset, panel, out_rows, column, width,
    ahead, advance, sums, scale, bias, res_rows, res_kind, res_zero, out_kind, zero, extra,
    res_scale, low, high, inverse, code_low, code_high,
):  # fmt: skip
    """Compute a tile of up to ROWS x PANEL outputs; ``count`` to ``panel`` as of ``run_tiles``.

    ``depth`` counts four bytes of A each; B is ``i8[taps][depth][PANEL][4]``.
    ``out_rows``, ``column``, ``width``: where results go; columns are elements here. A's bytes are
    unsigned. ``ahead``, ``advance``: as of ``run_tiles``.
    ``sums``: address of int32 that cells begin with, ``scale``, ``bias``: of float32; all three
    for whole panels. ``res_rows``: addresses of the residual's rows; ``res_kind``: NO_RES,
    FLOAT_RES, U8_RES or I8_RES, with ``res_zero`` and ``res_scale``. ``low``, ``high``: bounds of
    the result. ``out_kind``: FLOATS or CODES, with ``zero``, ``inverse`` (of the scale) and the
    bounds of codes less ``zero``, those of the result times ``inverse`` included (see
    ``codes_of``). ``extra``: address of the panel's header of :mod:`int8_pairs`, read by that form.
    """

    def build(context, builder, sig, args):
        params = [I64, *PARAMS]
        body = functools.partial(emit_choice, _BYTES)
        fn = shared_function(builder.module, "lep_run_byte_tile", ir.VoidType(), params, body)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 21, *(types.float32,) * 6), build


@intrinsic
def run_byte_row(
    typingctx, rows, tap_step, taps, depth, offset, panel, out_rows, column, width,
    ahead, advance, sums, scale, bias, res_rows, res_kind, res_zero, out_kind, zero, extra,
    res_scale, low, high, inverse, code_low, code_high,
):  # fmt: skip
    """Compute one row of up to PANEL outputs; arguments as of :func:`run_byte_tile`."""

    def build(context, builder, sig, args):
        body = functools.partial(emit_row, _BYTES)
        fn = shared_function(builder.module, "lep_run_byte_row", ir.VoidType(), PARAMS, body)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 20, *(types.float32,) * 6), build
