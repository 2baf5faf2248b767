"""numba_cpu > kernels > bf16x3_tile: float32 in three bfloat16 parts, and products of such, as IR.

``x = h + m + l``: ``h`` is ``x`` cut off to its leading 8 bits, ``m`` the same of what is left, and
the rest has 8 bits at most. Parts lie as :mod:`amx` wants them, a *step* of depth after the other::

    [step][part][tile of 16 rows of A, or of 16 columns of B][16][16][2]

Neighbours in the last axis are the numbers ``k`` and ``k + 16`` of a step: of A and B alike, so
that two vectors make a vector of each part without a shuffle.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import amx
from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop, counted, when
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I64,
    LANES,
    PTR,
    VF,
    VI,
    VM,
    first_lanes,
    i64,
    iconst,
    load_vec,
    masked_load,
    masked_store,
    pointer,
    prefetch,
    splat,
)

PARTS = 3
SIDE = 2  # tiles of a block: of rows, and of columns
BLOCK_ROWS = SIDE * amx.ROWS
PART_BYTES = SIDE * amx.TILE_BYTES
STEP, STEP_BYTES = amx.DEPTH, PARTS * PART_BYTES
CELLS_BYTES = SIDE * SIDE * amx.TILE_BYTES  # of a block's sums: tiles of rows by those of columns
#: Products of parts of A and B that count: the others are below 2**-21 of the product, together.
#: From one to the next the tiles of one side stay in their registers.
PRODUCTS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2))
_ROWS_AT, _COLUMNS_AT = 4, 6  # registers of tiles of A and B; those before are sums
_HIGH = -(1 << 16)
_AHEAD = STEP * PANEL  # floats from a row of B to what is asked for meanwhile
SLOTS = len(PRODUCTS)  # of a step


def _on(b: ir.IRBuilder, ptr: ir.Value, nbytes: int | ir.Value) -> ir.Value:
    """Return the pointer so many bytes further."""
    return b.gep(ptr, [i64(nbytes) if isinstance(nbytes, int) else nbytes], source_etype=I8)


def _split(b: ir.IRBuilder, values: Sequence[ir.Value], ptr: ir.Value) -> None:
    """Store the parts of two vectors, ``PART_BYTES`` apart."""
    for i in range(PARTS):
        bits = [b.bitcast(v, VI) for v in values]
        cut = [b.and_(v, iconst(_HIGH)) for v in bits]
        words = b.or_(b.lshr(bits[0], iconst(16)), cut[1])
        b.store(words, _on(b, ptr, i * PART_BYTES), align=amx.ROW_BYTES)
        values = [b.fsub(v, b.bitcast(c, VF)) for v, c in zip(values, cut, strict=True)]


#: What a thread writes down for later. What is left to split of panels of B: address of the next
#: row and its place in a step, where parts go and where that ends, rows left of this tap, of each.
PANEL_NOTES = ("source", "row", "target", "end", "left", "depth")
#: What is left to split of a block of rows of A: the next row, bytes to its next step, where its
#: parts go and where that ends, floats left; the table of addresses and its rows.
ROW_NOTES = ("row", "offset", "target", "end", "left", "table", "rows")
ROW_NOTES_AT = 8 * len(PANEL_NOTES)
STORE_NOTES_AT = ROW_NOTES_AT + 8 * len(ROW_NOTES)  # which block is stored next, see :mod:`bf16x3`
NOTES_BYTES = 192


class _Job(abc.ABC):
    """Writes work that goes on between products: what is left of it stands in a thread's notes.

    ``state``: what changes; its third value is compared with where it ends.
    """

    NAMES: tuple[str, ...]
    CHANGES: tuple[str, ...]

    def __init__(self, b: ir.IRBuilder, notes: ir.Value) -> None:
        self.b, self.notes = b, notes
        self.had = {name: b.load(self._slot(name), align=8, typ=I64) for name in self.NAMES}
        self.state = [self.had[name] for name in self.CHANGES]

    def _slot(self, name: str) -> ir.Value:
        return pointer(self.b, self.notes, i64(self.NAMES.index(name)), 8)

    def save(self, state: list[ir.Value]) -> None:
        """Store what is left."""
        for name, value in zip(self.CHANGES, state, strict=True):
            self.b.store(value, self._slot(name), align=8)

    def more(self, state: list[ir.Value]) -> ir.Value:
        """Return whether something is left."""
        return self.b.icmp_signed("<", state[2], self.had["end"])

    @abc.abstractmethod
    def some(self, state: list[ir.Value]) -> list[ir.Value]:
        """Do a little; return what is left then."""

    def at_once(self) -> None:
        """Do all that is left."""
        with self.b.if_then(self.more(self.state)):
            loop = Loop(self.b, "some", self.state)
            state = self.some(loop.values)
            loop.close(self.more(state), state)
            self.save(state)

    def while_multiplying(self, state: list[ir.Value], turns: ir.Value) -> list[ir.Value]:
        """Do a little, ``turns`` times."""
        return counted(self.b, turns, state, lambda _, s: when(self.b, self.more(s), s, self.some))


class _Panels(_Job):
    """Splits panels, a row and the one 16 further at a time."""

    NAMES, CHANGES = PANEL_NOTES, ("source", "row", "target", "left")

    def some(self, state: list[ir.Value]) -> list[ir.Value]:
        """Split the next two rows."""
        b, (source, row, target, left) = self.b, state
        here = [splat(b, b.icmp_signed("<", b.add(row, i64(n)), left), VM) for n in (0, amx.PAIRS)]
        for j in range(SIDE):
            places = [PANEL * amx.PAIRS * n + LANES * j for n in range(2)]
            for at in places:
                prefetch(b, pointer(b, source, i64(at + _AHEAD)))
            vectors = [
                masked_load(b, pointer(b, source, i64(at)), mask)
                for at, mask in zip(places, here, strict=True)
            ]
            _split(b, vectors, pointer(b, target, i64(j * amx.TILE_BYTES), 1))
        after = b.add(row, i64(1))
        turn = b.icmp_signed("==", after, i64(amx.PAIRS))
        rest = b.select(turn, b.sub(left, i64(STEP)), left)
        tap = b.icmp_signed("<=", rest, i64(0))  # the next tap begins behind the last row
        down = b.select(turn, i64(1 + amx.PAIRS), i64(1))
        down = b.select(tap, b.add(down, rest), down)
        row_bytes = i64(amx.ROW_BYTES)
        further = b.select(turn, b.add(row_bytes, i64(STEP_BYTES - amx.TILE_BYTES)), row_bytes)
        return [
            b.add(source, b.mul(down, i64(4 * PANEL))),
            b.select(turn, i64(0), after),
            b.add(target, further),
            b.select(tap, self.had["depth"], rest),
        ]


class _Rows(_Job):
    """Splits a block of rows, a step of each after the other."""

    NAMES, CHANGES = ROW_NOTES, ("row", "offset", "target", "left")

    def some(self, state: list[ir.Value]) -> list[ir.Value]:
        """Split a step of the next row; numbers beyond the depth are zeros."""
        b, (row, offset, target, left) = self.b, state
        source = b.load(pointer(b, self.had["table"], row, 8), align=8, typ=PTR)
        source = _on(b, source, offset)
        vectors = [
            masked_load(b, _on(b, source, 4 * n), first_lanes(b, b.sub(left, i64(n))))
            for n in (0, LANES)
        ]
        place = b.add(target, b.mul(row, i64(amx.ROW_BYTES)))  # rows of both tiles, side by side
        _split(b, vectors, pointer(b, place))
        after = b.add(row, i64(1))
        turn = b.icmp_signed("==", after, self.had["rows"])
        return [
            b.select(turn, i64(0), after),
            b.select(turn, b.add(offset, i64(4 * STEP)), offset),
            b.select(turn, b.add(target, i64(STEP_BYTES)), target),
            b.select(turn, b.sub(left, i64(STEP)), left),
        ]


@part("split_panel", [I64])
def SPLIT_PANEL(b: ir.IRBuilder, notes) -> None:
    """Split what is left of panels."""
    _Panels(b, notes).at_once()


@part("split_rows", [I64])
def SPLIT_ROWS(b: ir.IRBuilder, notes) -> None:
    """Split what is left of rows."""
    _Rows(b, b.add(notes, i64(ROW_NOTES_AT))).at_once()


class _Storer:
    """Writes the end of a block, row by row; see :func:`store_cells` for the arguments."""

    def __init__(
        self, b: ir.IRBuilder, cells, out_rows, plus_rows, count, column, width, bias, low, high
    ) -> None:
        self.b, self.cells, self.out_rows, self.count, self.column = (
            b, cells, out_rows, count, column
        )  # fmt: skip
        self.masks = [first_lanes(b, b.sub(width, i64(LANES * j))) for j in range(SIDE)]
        has_bias, has_plus = (b.icmp_signed("!=", v, i64(0)) for v in (bias, plus_rows))
        # Where there is none nothing is loaded, but the address must be one that can be read.
        base = pointer(b, b.select(has_bias, b.add(bias, column), cells))
        wanted = [b.and_(mask, splat(b, has_bias, VM)) for mask in self.masks]
        self.bias = [masked_load(b, _on(b, base, 4 * LANES * j), m) for j, m in enumerate(wanted)]
        self.added = [b.and_(mask, splat(b, has_plus, VM)) for mask in self.masks]
        self.plus_rows = b.select(has_plus, plus_rows, out_rows)
        self.low, self.high = splat(b, low), splat(b, high)

    def more(self, i: ir.Value) -> ir.Value:
        """Return whether row ``i`` is one."""
        return self.b.icmp_signed("<", i, self.count)

    def row(self, i: ir.Value) -> ir.Value:
        """Store row ``i``; return the number of the next."""
        b = self.b
        tile = b.mul(b.udiv(i, i64(amx.ROWS)), i64((SIDE - 1) * amx.TILE_BYTES))
        here = b.add(b.add(self.cells, tile), b.mul(i, i64(amx.ROW_BYTES)))
        out, res = (self._place(table, i) for table in (self.out_rows, self.plus_rows))
        for j, mask in enumerate(self.masks):
            v = load_vec(b, pointer(b, here, i64(j * amx.TILE_BYTES), 1))
            v = b.fadd(v, self.bias[j])
            v = b.fadd(v, masked_load(b, _on(b, res, 4 * LANES * j), self.added[j]))
            v = vm.clamp_high(b, vm.clamp_low(b, v, self.low), self.high)
            masked_store(b, v, _on(b, out, 4 * LANES * j), mask)
        return b.add(i, i64(1))

    def _place(self, table: ir.Value, i: ir.Value) -> ir.Value:
        row = self.b.load(pointer(self.b, table, i, 8), align=8, typ=PTR)
        return _on(self.b, row, self.column)


_STORED = [*[I64] * 7, F32, F32]


@part("store_cells", _STORED)
def STORE_CELLS(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Store the rows of a block."""
    storer = _Storer(b, *args)
    counted(b, storer.count, [], lambda i, _: [storer.row(i)][:0])


def _start(b: ir.IRBuilder, places: list[ir.Value], onto: ir.Value) -> None:
    """Load sums from their cells, or write zeros; those without a place are zero."""
    for i in range(len(places), SIDE * SIDE):
        amx.zero(b, i)
    with b.if_else(b.icmp_signed("!=", onto, i64(0))) as (more, none):
        with more:
            for i, place in enumerate(places):
                amx.load(b, i, place)
        with none:
            for i in range(len(places)):
                amx.zero(b, i)


def _products(b: ir.IRBuilder, parts: list[ir.Value], tiles: int) -> Iterator[int]:
    """Write the products of a step, given pointers to the parts of A and B; yield after some.

    One tile of rows has two sums of each tile of columns, which take turns: a product waits for the
    one before that goes to the same sum.
    """
    held = [-1, -1]
    for slot, wanted in enumerate(PRODUCTS):
        for side, first in enumerate((_ROWS_AT, _COLUMNS_AT)):
            if held[side] != wanted[side]:
                held[side] = wanted[side]
                for t in range((tiles, SIDE)[side]):
                    place = wanted[side] * PART_BYTES + t * amx.TILE_BYTES
                    amx.load(b, first + t, _on(b, parts[side], place))
        for i in range(tiles):
            row = i if tiles == SIDE else slot % SIDE
            for j in range(SIDE):
                amx.multiply(b, SIDE * row + j, _ROWS_AT + i, _COLUMNS_AT + j)
        yield slot


def _add_up(b: ir.IRBuilder, cells: ir.Value) -> None:
    """Add both sums of a block that has one tile of rows."""

    def row(_, values: list[ir.Value]) -> list[ir.Value]:
        for j in range(SIDE):
            place, other = (_on(b, values[0], n * amx.TILE_BYTES) for n in (j, SIDE + j))
            b.store(b.fadd(load_vec(b, place), load_vec(b, other)), place, align=amx.ROW_BYTES)
        return [_on(b, values[0], amx.ROW_BYTES)]

    counted(b, i64(amx.ROWS), [pointer(b, cells)], row)


@part("multiply_parts", [*[I64] * 12, *_STORED])
def MULTIPLY_PARTS(
    b: ir.IRBuilder, tiles, rows, columns, cells, steps, onto, notes, slots, turns, row_slots,
    row_turns, stores, *stored,
) -> None:  # fmt: skip
    """Write the products of a block of A and B into its cells, or add them ``onto`` these.

    Products wait for each other in tile registers. Between them what the notes say is split, panels
    in so many ``slots`` of a step ``turns`` times, rows likewise, and another block is ``stored``.
    """
    jobs = (_Panels(b, notes), _Rows(b, b.add(notes, i64(ROW_NOTES_AT))))
    when_and_how_often = ((slots, turns), (row_slots, row_turns))
    storer, changes = _Storer(b, *stored), len(jobs[0].state)
    places = [_on(b, pointer(b, cells), i * amx.TILE_BYTES) for i in range(SIDE * SIDE)]

    def store(i: list[ir.Value]) -> list[ir.Value]:
        return when(b, storer.more(i[0]), i, lambda i: [storer.row(i[0])])

    def some_of(j: int, slot: int, state: list[ir.Value]) -> list[ir.Value]:
        wanted, often = when_and_how_often[j]
        here = b.icmp_signed("<", i64(slot), wanted)
        return when(b, here, state, lambda s: jobs[j].while_multiplying(s, often))

    def step(some: int, values: list[ir.Value]) -> list[ir.Value]:
        parts, done, states = values[:2], values[2:3], [values[3:][:changes], values[3:][changes:]]
        for slot in _products(b, parts, some):
            states = [some_of(j, slot, state) for j, state in enumerate(states)]
            done = counted(b, stores, done, lambda _, i: store(i))
        return [*(_on(b, v, STEP_BYTES) for v in parts), *done, *states[0], *states[1]]

    def block(some: int) -> None:
        _start(b, places[: SIDE * some], onto)
        starts = [pointer(b, rows), pointer(b, columns), i64(0), *jobs[0].state, *jobs[1].state]
        ends = counted(b, steps, starts, lambda _, values: step(some, values))[3:]
        for job, state in zip(jobs, (ends[:changes], ends[changes:]), strict=True):
            job.save(state)
        for i, place in enumerate(places):
            amx.store(b, i, place)

    with b.if_else(b.icmp_signed("==", tiles, i64(1))) as (one, all_of_them):
        with one:
            block(1)
            _add_up(b, cells)
        with all_of_them:
            block(SIDE)


@intrinsic
def split_rows(typingctx, notes):
    """Split what notes, an address of numbers as ROW_NOTES names them at ROW_NOTES_AT, say."""
    return types.void(types.int64), SPLIT_ROWS.code


@intrinsic
def split_panel(typingctx, notes):
    """Split what notes, an address of numbers as PANEL_NOTES names them, say is left of panels."""
    return types.void(types.int64), SPLIT_PANEL.code


@intrinsic
def multiply_parts(
    typingctx, tiles, rows, columns, cells, steps, onto, notes, slots, turns, row_slots, row_turns,
    stores, stored_cells, out_rows, plus_rows, count, column, width, bias, low, high,
):  # fmt: skip
    """Multiply a block: addresses of the parts of BLOCK_ROWS rows and PANEL columns, of its cells.

    ``tiles``: of rows; with 1 only the first 16 rows are multiplied. ``steps``: at least one.
    ``onto``: whether sums go on with what the cells hold. ``notes``: what to split meanwhile;
    panels in so many ``slots`` of a step (at most SLOTS), ``turns`` times two rows, a block of rows
    in ``row_slots``, ``row_turns`` times one. ``stores``: rows of another block to store in each
    slot, SLOTS a step; the rest: arguments of :func:`store_cells` for that, whose ``count`` may be
    0.
    """
    return types.void(*(types.int64,) * 19, *(types.float32,) * 2), MULTIPLY_PARTS.code


@intrinsic
def store_cells(typingctx, cells, out_rows, plus_rows, count, column, width, bias, low, high):
    """Store rows of a block: ``clamp(cells + bias + plus)``.

    ``out_rows``, ``plus_rows``: addresses of the row addresses of the result, of what is added or
    0. ``count``: rows, 1 to BLOCK_ROWS. ``column``: bytes added to each row and to ``bias``, an
    address or 0. ``width``: columns that exist from there. ``low``, ``high``: float32.
    """
    return types.void(*(types.int64,) * 7, *(types.float32,) * 2), STORE_CELLS.code
