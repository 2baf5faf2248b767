"""numba_cpu > kernels > int8_winograd_tile: the three parts of Winograd on codes, as LLVM IR.

``transform_codes`` makes int16 of codes, ``run_word_tile`` multiplies and sums pairs of them in
int32, ``run_code_end`` transforms the sums of a tile back and ends its pixels as ``int8_tile``
ends a row: the same roundings in the same order. The matrices: :mod:`int8_winograd_forms`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.int8_dot import add_words
from leptonc.backends.numba_cpu.kernels.int8_tile import PARAMS, ByteTile, Tile
from leptonc.backends.numba_cpu.kernels.int8_winograd_forms import Form, Pass, call_by_form
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


def _transform(
    form: Form, b: ir.IRBuilder, load: Callable[[int], ir.Value], dst, plane
) -> None:  # fmt: skip
    """Store ``BT d B`` of a vector of channels; ``load(k)``: pixel ``k`` of the tile."""
    side = range(form.side)
    columns = [form.forth(b, [b.zext(load(form.side * i + j), _WORDS) for i in side]) for j in side]
    for i in side:
        for j, value in enumerate(form.forth(b, [column[i] for column in columns])):
            to = b.add(dst, b.mul(plane, i64(form.side * i + j)))
            b.store(value, pointer(b, to), align=4)


def _emit_codes(form: Form, b: ir.IRBuilder, pixels, channels, dst, plane) -> None:
    rows = [b.load(pointer(b, pixels, i64(k), 8), align=8, typ=I64) for k in range(form.planes)]
    whole, left = b.udiv(channels, i64(_WIDE)), b.urem(channels, i64(_WIDE))
    entry = b.block
    loop, rest, part, end = (b.append_basic_block(n) for n in ("loop", "rest", "part", "end"))
    b.cbranch(b.icmp_signed(">", whole, i64(0)), loop, rest)
    b.position_at_end(loop)
    v = b.phi(I64)

    def plain(k: int) -> ir.Value:
        return b.load(pointer(b, rows[k], b.mul(v, i64(_WIDE)), 1), align=1, typ=_CODES)

    _transform(form, b, plain, b.add(dst, b.mul(v, i64(2 * _WIDE))), plane)
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

    _transform(form, b, masked, b.add(dst, b.mul(done, i64(2))), plane)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def transform_codes(typingctx, m, pixels, channels, dst, plane):
    """Write ``BT d B`` of one tile as int16, zeros behind the channels up to whole vectors.

    ``m``: the form. ``pixels``: address of the addresses of its pixels, line by line. ``dst``:
    where plane 0 goes; ``plane``: bytes from plane to plane.
    """

    def build(context, builder, sig, args):
        call_by_form(builder, "lep_wino_codes", [I64] * 4, _emit_codes, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), build


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
    """Compute a tile of up to ROWS x PANEL sums; arguments as of ``run_tiles``.

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


class _EndTile(ByteTile):
    """Lines of pixels of a tile, its ``panel`` the planes of sums ``i32[planes][PANEL]``."""

    form: Form
    back: Pass  # makes the lines

    def start(self) -> list[ir.Value]:
        """Return the corrections."""
        return self.corrections()

    def accumulate(self, init: list[ir.Value]) -> list[ir.Value]:
        """Return the sums, of which ``AT m A`` is ``root**2`` times, plus the initial cells."""
        made: dict[tuple[int, int], ir.Value] = {}
        b, form = self.b, self.form
        back, side = type(self).back, range(form.side)
        for j in range(self.nv):
            columns = [back(b, [self.plane(form.side * i + k, j) for i in side]) for k in side]
            for line in range(self.mr // form.m):
                values = [column[line] for column in columns]
                for lines, make in form.back:
                    for x, value in zip(lines, make(b, values), strict=True):
                        made[form.m * line + x, j] = self.divided(value)
        return [b.add(made[cell], x) for cell, x in zip(self.cells, init, strict=True)]

    def divided(self, x: ir.Value) -> ir.Value:
        """Return ``x / root**2``, exact: see :mod:`int8_winograd_forms`."""
        if self.form.inverse != 1:
            x = self.b.mul(x, iconst(self.form.inverse))
        return self.b.ashr(x, iconst(self.form.shift))

    def plane(self, k: int, j: int) -> ir.Value:
        """Return vector ``j`` of plane ``k``."""
        at = pointer(self.b, self.t.panel, i64(k * PANEL + j * LANES))
        return self.b.load(at, align=4, typ=VI)


def _end_form(form: Form, part: int) -> TileForm:
    """Return the tile that makes the lines ``form.back[part]``."""
    name = f"end_lines_{form.m}_{part}"
    writer = type(name, (_EndTile,), {"form": form, "back": staticmethod(form.back[part][1])})
    return TileForm(f"lep_wino_{name}", writer, Tile, PARAMS)


def _emit_end(form: Form, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Call the tiles of all parts; each goes on in the tables of rows where the last has ended."""
    tile, done = Tile(*args), 0
    for part, (lines, _) in enumerate(form.back):
        moved = {k: b.add(getattr(tile, k), i64(8 * done)) for k in ("out_rows", "res_rows")}
        here = vars(replace(tile, **moved)).values()
        emit_rows(_end_form(form, part), form.m * len(lines), 1, b, *here)
        done += form.m * len(lines)


@intrinsic
def run_code_end(
    typingctx, m, panel, out_rows, column, width, sums, scale, bias, res_rows, res_kind, res_zero,
    out_kind, zero, res_scale, low, high, inverse, code_low, code_high,
):  # fmt: skip
    """End the pixels of a tile of form ``m``; ``panel``: address of its sums.

    ``out_rows`` and ``res_rows`` hold an address each, line by line in the order of the form's
    ``lines``. The rest: ``run_byte_tile``.
    """

    def build(context, builder, sig, args):
        m, panel, out_rows, column, width, *rest = args
        none = i64(0)
        whole, reals = rest[:8], rest[8:]
        args = [m, *[none] * 5, panel, out_rows, column, width, none, none, *whole, none, *reals]
        call_by_form(builder, "lep_wino_end", PARAMS, _emit_end, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 13, *(types.float32,) * 6), build
