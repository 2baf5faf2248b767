"""numba_cpu > kernels > int8_winograd_tile: the three parts of Winograd on codes, as LLVM IR.

``transform_codes`` makes int16 of codes, ``run_word_tile`` multiplies and sums pairs of them in
int32, ``run_code_end`` transforms the sums of a tile back and ends its four pixels as ``int8_tile``
ends a row: the same roundings in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.int8_dot import add_words
from leptonc.backends.numba_cpu.kernels.int8_tile import PARAMS, ByteTile, Tile
from leptonc.backends.numba_cpu.kernels.int8_winograd_plan import PLANES, SIDE
from leptonc.backends.numba_cpu.kernels.tile_writer import (
    PANEL,
    TileForm,
    TileWriter,
    emit_choice,
    emit_rows,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    I8,
    I16,
    I32,
    I64,
    LANES,
    VI,
    call,
    i64,
    iconst,
    pointer,
    shared_function,
    splat,
)

_WIDE = 2 * LANES  # int16 of a register
_CODES, _WORDS = ir.VectorType(I8, _WIDE), ir.VectorType(I16, _WIDE)

# ----- codes to int16 -----------------------------------------------------------------------------


def _across(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``BT d`` of four values."""
    return [b.sub(d[0], d[2]), b.add(d[1], d[2]), b.sub(d[2], d[1]), b.sub(d[1], d[3])]


def _transform(b: ir.IRBuilder, load: Callable[[int], ir.Value], dst, plane) -> None:
    """Store ``BT d B`` of a vector of channels; ``load(k)``: pixel ``k`` of the tile."""
    columns = [
        _across(b, [b.zext(load(SIDE * i + j), _WORDS) for i in range(SIDE)]) for j in range(SIDE)
    ]
    for i in range(SIDE):
        for j, value in enumerate(_across(b, [column[i] for column in columns])):
            to = b.add(dst, b.mul(plane, i64(SIDE * i + j)))
            b.store(value, pointer(b, to), align=4)


def _emit_codes(b: ir.IRBuilder, pixels, channels, dst, plane) -> None:
    rows = [b.load(pointer(b, pixels, i64(k), 8), align=8, typ=I64) for k in range(PLANES)]
    whole, left = b.udiv(channels, i64(_WIDE)), b.urem(channels, i64(_WIDE))
    entry = b.block
    loop, rest, part, end = (b.append_basic_block(n) for n in ("loop", "rest", "part", "end"))
    b.cbranch(b.icmp_signed(">", whole, i64(0)), loop, rest)
    b.position_at_end(loop)
    v = b.phi(I64)

    def plain(k: int) -> ir.Value:
        return b.load(pointer(b, rows[k], b.mul(v, i64(_WIDE)), 1), align=1, typ=_CODES)

    _transform(b, plain, b.add(dst, b.mul(v, i64(2 * _WIDE))), plane)
    following = b.add(v, i64(1))
    v.add_incoming(i64(0), entry)
    v.add_incoming(following, loop)
    b.cbranch(b.icmp_signed("<", following, whole), loop, rest)
    b.position_at_end(rest)
    b.cbranch(b.icmp_signed(">", left, i64(0)), part, end)
    b.position_at_end(part)
    lane = ir.Constant(_WORDS, list(range(_WIDE)))
    mask = b.icmp_signed("<", lane, splat(b, b.trunc(left, I16), _WORDS))
    done = b.mul(whole, i64(_WIDE))

    def masked(k: int) -> ir.Value:
        at = [pointer(b, rows[k], done, 1), ir.Constant(I32, 1), mask, ir.Constant(_CODES, None)]
        return call(b, f"llvm.masked.load.v{_WIDE}i8.p0", _CODES, at)

    _transform(b, masked, b.add(dst, b.mul(done, i64(2))), plane)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def transform_codes(typingctx, pixels, channels, dst, plane):
    """Write ``BT d B`` of one tile as int16, zeros behind the channels up to whole vectors.

    ``pixels``: address of the addresses of its 16 pixels, line by line. ``dst``: where plane 0
    goes; ``plane``: bytes from plane to plane.
    """

    def build(context, builder, sig, args):
        fn = shared_function(
            builder.module, "lep_wino_codes", ir.VoidType(), [I64] * 4, _emit_codes
        )
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4), build


# ----- sums of products of int16 ------------------------------------------------------------------


@dataclass(frozen=True)
class _Words:
    """The arguments of a tile of int16; see :func:`run_word_tile`."""

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


class _WordTile(TileWriter):
    """A tile of int32 sums of products of int16, two to a step of depth."""

    zero = iconst(0)

    def broadcast(self, at: ir.Value) -> ir.Value:
        """Return two int16 of A in all lanes."""
        return splat(self.b, self.b.load(at, align=4, typ=I32), VI)

    def column(self, at: ir.Value) -> ir.Value:
        """Return the vector of B at a pointer."""
        return self.b.load(at, align=4, typ=VI)

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return ``z`` plus the products of pairs."""
        return add_words(self.b, z, x, y)

    def plus(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return the sum of two cells."""
        return self.b.add(x, y)

    def start(self) -> list[ir.Value]:
        """Return zeros."""
        return [self.zero] * len(self.cells)

    def finish(self, acc: list[ir.Value]) -> None:
        """Store whole vectors."""
        starts = [self.row(self.t.out_rows, i) for i in range(self.mr)]
        for (i, j), value in zip(self.cells, acc, strict=True):
            to = self.b.add(starts[i], self.t.column)
            self.b.store(value, pointer(self.b, to, i64(j * LANES)), align=4)


_WORD_PARAMS = [I64] * 11
_WORD_FORM = TileForm("lep_word_tile", _WordTile, _Words, _WORD_PARAMS)


@intrinsic
def run_word_tile(
    typingctx, count, rows, tap_step, taps, depth, offset, panel, out_rows, column, width, ahead,
    advance,
):  # fmt: skip
    """Compute a tile of up to ROWS x PANEL sums; arguments as of ``run_tile``.

    ``depth`` counts pairs of int16; B is ``i16[taps][depth][PANEL][2]``. Sums are stored in whole
    vectors: one where ``width`` is at most LANES, else two.
    """

    def build(context, builder, sig, args):
        body = functools.partial(emit_choice, _WORD_FORM)
        params = [I64, *_WORD_PARAMS]
        fn = shared_function(builder.module, "lep_run_word_tile", ir.VoidType(), params, body)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 12), build


# ----- sums to pixels -----------------------------------------------------------------------------


def _back(b: ir.IRBuilder, m: list[ir.Value]) -> list[ir.Value]:
    """Return ``AT m`` of four values."""
    return [b.add(b.add(m[0], m[1]), m[2]), b.sub(b.sub(m[1], m[2]), m[3])]


class _EndTile(ByteTile):
    """The four pixels of a tile, its ``panel`` the 16 planes of sums ``i32[16][PANEL]``."""

    def start(self) -> list[ir.Value]:
        """Return the corrections."""
        return self.corrections()

    def accumulate(self, init: list[ir.Value]) -> list[ir.Value]:
        """Return a quarter of ``AT m A``, plus the initial cells.

        That is exact: what is divided is four times a sum of whole numbers (see ``G``), and all
        steps before keep it in the ring of int32, which holds it.
        """
        made: dict[tuple[int, int], ir.Value] = {}
        b = self.b
        for j in range(self.nv):
            lines = [
                _back(b, [self.plane(SIDE * i + k, j) for i in range(SIDE)]) for k in range(SIDE)
            ]
            for i in range(2):
                for k, value in enumerate(_back(b, [line[i] for line in lines])):
                    made[2 * i + k, j] = b.ashr(value, iconst(2))
        return [b.add(made[cell], x) for cell, x in zip(self.cells, init, strict=True)]

    def plane(self, k: int, j: int) -> ir.Value:
        """Return vector ``j`` of plane ``k``."""
        at = pointer(self.b, self.t.panel, i64(k * PANEL + j * LANES))
        return self.b.load(at, align=4, typ=VI)


_END_FORM = TileForm("lep_wino_end", _EndTile, Tile, PARAMS)


@intrinsic
def run_code_end(
    typingctx, panel, out_rows, column, width, sums, scale, bias, res_rows, res_kind, res_zero,
    out_kind, zero, res_scale, low, high, inverse, code_low, code_high,
):  # fmt: skip
    """End the four pixels of a tile; ``panel``: address of its sums. The rest: ``run_byte_tile``.

    ``out_rows`` and ``res_rows`` hold four addresses each, line by line.
    """

    def build(context, builder, sig, args):
        body = functools.partial(emit_rows, _END_FORM, 4, 1)
        fn = shared_function(builder.module, "lep_run_wino_end", ir.VoidType(), PARAMS, body)
        panel, out_rows, column, width, *rest = args
        none = i64(0)
        whole, reals = rest[:8], rest[8:]
        builder.call(
            fn,
            [none] * 5 + [panel, out_rows, column, width, none, none] + whole + [none] + reals,
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 12, *(types.float32,) * 6), build
