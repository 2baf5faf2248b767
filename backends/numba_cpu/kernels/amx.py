"""numba_cpu > kernels > amx: instructions on Intel's tile registers, as LLVM IR.

Eight registers of 16 rows of 64 bytes. A product ``c += a @ b`` takes ``a: bf16[16, 32]`` and
``b: bf16[32, 16]``, in memory ``[16][16][2]``, pairs of the depth side by side; ``c: f32[16, 16]``.
It multiplies exactly and adds up in float32, takes and gives zero for denormal numbers, and takes
16 cycles, whatever the number of rows: 16 times what multiply-adds of 16 lanes do. (Intel 64 and
IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS.)
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.machine_code import host_features
from leptonc.backends.numba_cpu.kernels.vectype import I8, I64, LANES, call, i64, pointer

ROWS, ROW_BYTES = 16, 64  # of a tile
TILE_BYTES = ROWS * ROW_BYTES
PAIRS = ROW_BYTES // 4  # of the depth in a row of A, rows of B
DEPTH = 2 * PAIRS
#: Whether kernels may use them.
AMX = LANES == 16 and {"+amx-tile", "+amx-bf16"} <= host_features()

#: What configures all registers to full size: the palette, bytes in a row (16 bits each) from byte
#: 16 on, rows (8 bits each) from byte 48 on; as 64-bit numbers.
_CONFIG = (1, 0, *[ROW_BYTES * 0x0001000100010001] * 2, 0, 0, ROWS * 0x0101010101010101, 0)
_VOID = ir.VoidType()


def _tile(number: int) -> ir.Constant:
    return ir.Constant(I8, number)


def zero(b: ir.IRBuilder, tile: int) -> None:
    """Write zeros into a register."""
    call(b, "llvm.x86.tilezero", _VOID, [_tile(tile)])


def load(b: ir.IRBuilder, tile: int, ptr: ir.Value) -> None:
    """Load a register from rows that lie side by side."""
    call(b, "llvm.x86.tileloadd64", _VOID, [_tile(tile), ptr, i64(ROW_BYTES)])


def store(b: ir.IRBuilder, tile: int, ptr: ir.Value) -> None:
    """Store a register as rows that lie side by side."""
    call(b, "llvm.x86.tilestored64", _VOID, [_tile(tile), ptr, i64(ROW_BYTES)])


def multiply(b: ir.IRBuilder, c: int, x: int, y: int) -> None:
    """Write ``c += x @ y``."""
    call(b, "llvm.x86.tdpbf16ps", _VOID, [_tile(n) for n in (c, x, y)])


def _without_arguments(write: Callable[[ir.IRBuilder], None]):
    def code(context, builder, sig, args):
        write(builder)
        return context.get_dummy_value()

    return types.void(), code


def _configure(b: ir.IRBuilder) -> None:
    with b.goto_entry_block():
        config = b.ptrtoint(b.alloca(I64, len(_CONFIG)), I64)
    for i, word in enumerate(_CONFIG):
        b.store(i64(word), pointer(b, config, i64(i), 8), align=8)
    call(b, "llvm.x86.ldtilecfg", _VOID, [pointer(b, config)])


@intrinsic
def configure_tiles(typingctx):
    """Make all tile registers of this thread full size: 85 ns with :func:`release_tiles`."""
    return _without_arguments(_configure)


@intrinsic
def release_tiles(typingctx):
    """Give them back: what switches threads need not save them any more."""
    return _without_arguments(lambda b: call(b, "llvm.x86.tilerelease", _VOID, []))
