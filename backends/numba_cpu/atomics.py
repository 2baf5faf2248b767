"""numba_cpu > atomics: the few machine operations that threads and programs need, for numba.

Addresses are int64 byte addresses of 64-bit words. All atomics are sequentially consistent: the
sleep protocols below them rely on one total order, and they are not where time goes.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_VOID = ir.VoidType()
_i64, _void = types.int64, types.void
_WORD = 8

# The futex system call: (number by machine), and its two operations on process-private words; in
# memory that processes share they are less by _PRIVATE.
_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAIT, _FUTEX_WAKE, _PRIVATE = 128, 129, 128
# LLVM intrinsics, not inline assembly: the assembly parser is not set up in numba's LLVM.
_PAUSE = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "AMD64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}
_COUNTS_TICKS = platform.machine() in ("x86_64", "AMD64")  # for everybody, at a steady rate
_EVERYONE = 0x7FFFFFFF
_NAP_US = 200

HAS_FUTEX = (
    sys.platform == "linux"
    and sys.byteorder == "little"
    and platform.machine() in _FUTEX_NUMBER
    and hasattr(ctypes.CDLL(None), "syscall")
)


HAS_CLOCK = hasattr(time, "CLOCK_MONOTONIC") and hasattr(ctypes.CDLL(None), "clock_gettime")
HAS_CORE_NUMBER = hasattr(ctypes.CDLL(None), "sched_getcpu")
HAS_CORE_MASK = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "sched_setaffinity")
CORE_MASK_WORDS = 16  # cores that a mask has room for, in words


def _pointer(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return b.inttoptr(address, _I64.as_pointer())


def _extern(b: ir.IRBuilder, name: str, kind: ir.FunctionType, *args: ir.Value) -> ir.Value:
    """Call a function of the C library, which every process has."""
    fn = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    return b.call(fn, args)


def _value(context, value: ir.Value | None) -> ir.Value:
    return context.get_dummy_value() if value is None else value


def _nullary(build: Callable):
    """Return an intrinsic without operands and result."""

    def code(context, builder, sig, args):
        build(builder)
        return context.get_dummy_value()

    return intrinsic(lambda ctx: (_void(), code))


def _unary(result: types.Type, build: Callable):
    """Return an intrinsic on one int64."""

    def code(context, builder, sig, args):
        return _value(context, build(builder, *args))

    return intrinsic(lambda ctx, a: (result(_i64), code))


def _binary(result: types.Type, build: Callable):
    """Return an intrinsic on two int64."""

    def code(context, builder, sig, args):
        return _value(context, build(builder, *args))

    return intrinsic(lambda ctx, a, x: (result(_i64, _i64), code))


def _ternary(result: types.Type, build: Callable):
    """Return an intrinsic on three int64."""

    def code(context, builder, sig, args):
        return _value(context, build(builder, *args))

    return intrinsic(lambda ctx, a, x, y: (result(_i64, _i64, _i64), code))


def _store(b: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    b.store_atomic(value, _pointer(b, address), "seq_cst", _WORD)


def _compare_and_swap(b: ir.IRBuilder, address: ir.Value, old: ir.Value, new: ir.Value) -> ir.Value:
    pair = b.cmpxchg(_pointer(b, address), old, new, "seq_cst", "seq_cst")
    return b.extract_value(pair, 0)


def _call(b: ir.IRBuilder, fn: ir.Value, *args: ir.Value) -> None:
    kind = ir.FunctionType(_VOID, [_I64] * len(args))
    b.call(b.inttoptr(fn, kind.as_pointer()), args)


def _call_one(b: ir.IRBuilder, fn: ir.Value, x: ir.Value) -> ir.Value:
    kind = ir.FunctionType(_I64, [_I64])
    return b.call(b.inttoptr(fn, kind.as_pointer()), [x])


def _pause(b: ir.IRBuilder) -> None:
    name, operands = _PAUSE.get(platform.machine(), ("llvm.donothing", ()))
    i32 = ir.IntType(32)
    kind = ir.FunctionType(_VOID, [i32] * len(operands))
    _extern(b, name, kind, *(ir.Constant(i32, x) for x in operands))


def _futex(
    b: ir.IRBuilder,
    address: ir.Value,
    operation: int,
    value: ir.Value,
    limit: ir.Value | None = None,
) -> None:
    """Call futex(address, operation, value, limit); only the low half of the word counts.

    ``limit``: address of seconds and nanoseconds that a wait may take; None: no limit.
    """
    kind = ir.FunctionType(_I64, [_I64], var_arg=True)
    number = ir.Constant(_I64, _FUTEX_NUMBER[platform.machine()])
    zero = ir.Constant(_I64, 0)
    op = ir.Constant(_I64, operation)
    _extern(b, "syscall", kind, number, address, op, value, limit or zero, zero, zero)


def _wait(b: ir.IRBuilder, address: ir.Value, seen: ir.Value) -> None:
    if HAS_FUTEX:
        _futex(b, address, _FUTEX_WAIT, seen)
        return
    _nap(b, ir.Constant(_I64, _NAP_US))


def _wait_shared(b: ir.IRBuilder, address: ir.Value, seen: ir.Value, limit: ir.Value) -> None:
    if HAS_FUTEX:
        _futex(b, address, _FUTEX_WAIT - _PRIVATE, seen, limit)
        return
    _nap(b, ir.Constant(_I64, _NAP_US))


def _wake_shared(b: ir.IRBuilder, address: ir.Value) -> None:
    if HAS_FUTEX:
        _futex(b, address, _FUTEX_WAKE - _PRIVATE, ir.Constant(_I64, _EVERYONE))


def _wake(b: ir.IRBuilder, address: ir.Value) -> None:
    if HAS_FUTEX:
        _futex(b, address, _FUTEX_WAKE, ir.Constant(_I64, _EVERYONE))


def _stamp(b: ir.IRBuilder, address: ir.Value) -> None:
    """Call clock_gettime(monotonic, address), which stores seconds and nanoseconds."""
    if not HAS_CLOCK:
        return
    i32 = ir.IntType(32)
    kind = ir.FunctionType(i32, [i32, _I64])
    _extern(b, "clock_gettime", kind, ir.Constant(i32, time.CLOCK_MONOTONIC), address)


def _ticks(b: ir.IRBuilder, otherwise: ir.Value) -> ir.Value:
    if _COUNTS_TICKS:
        return _extern(b, "llvm.readcyclecounter", ir.FunctionType(_I64, []))
    if not HAS_CLOCK:
        return otherwise
    with b.goto_entry_block():
        pair = b.alloca(ir.ArrayType(_I64, 2))
    _stamp(b, b.ptrtoint(pair, _I64))
    zero, one = (ir.Constant(ir.IntType(32), i) for i in (0, 1))
    seconds, nanoseconds = (b.load(b.gep(pair, [zero, i], inbounds=True)) for i in (zero, one))
    return b.add(b.mul(seconds, ir.Constant(_I64, 10**9)), nanoseconds)


def _nap(b: ir.IRBuilder, microseconds: ir.Value) -> None:
    i32 = ir.IntType(32)
    _extern(b, "usleep", ir.FunctionType(i32, [i32]), b.trunc(microseconds, i32))


def _core_number(b: ir.IRBuilder, otherwise: ir.Value) -> ir.Value:
    if not HAS_CORE_NUMBER:
        return otherwise
    kind = ir.FunctionType(ir.IntType(32), [])
    return b.sext(_extern(b, "sched_getcpu", kind), _I64)


def _core_mask(name: str) -> Callable:
    """Return what calls ``name(thread, size, mask)`` of the C library; 0 means success."""

    def build(b: ir.IRBuilder, thread: ir.Value, mask: ir.Value) -> ir.Value:
        if not HAS_CORE_MASK:
            return ir.Constant(_I64, -1)
        i32 = ir.IntType(32)
        kind = ir.FunctionType(i32, [i32, _I64, _I64])
        size = ir.Constant(_I64, _WORD * CORE_MASK_WORDS)
        return b.sext(_extern(b, name, kind, b.trunc(thread, i32), size, mask), _I64)

    return build


def _invoke():
    """Return the intrinsic that calls a kernel by address: ``(fn, args, tid, nt, cuts)``."""

    def code(context, builder, sig, args):
        _call(builder, *args)
        return context.get_dummy_value()

    return intrinsic(lambda ctx, f, a, t, n, c: (_void(*[_i64] * 5), code))


atomic_load = _unary(_i64, lambda b, a: b.load_atomic(_pointer(b, a), "seq_cst", _WORD))
atomic_store = _binary(_void, _store)
# Adds and returns the old value.
atomic_add = _binary(_i64, lambda b, a, x: b.atomic_rmw("add", _pointer(b, a), x, "seq_cst"))
# Replaces the second operand by the third if it is there; returns what was there.
atomic_cas = _ternary(_i64, _compare_and_swap)
load = _unary(_i64, lambda b, a: b.load(_pointer(b, a)))
store = _binary(_void, lambda b, a, x: b.store(x, _pointer(b, a)) and None)
invoke = _invoke()
# Calls a C function of one word by address; its result means nothing where it returns none.
call_one = _binary(_i64, _call_one)
# Returns the number of the core that runs this, or the operand where nobody can tell.
core_number = _unary(_i64, _core_number)
# Read into, or set from, the mask at the second operand on which cores the thread may run whose
# number in the system is the first; return 0 if that worked.
read_cores = _binary(_i64, _core_mask("sched_getaffinity"))
write_cores = _binary(_i64, _core_mask("sched_setaffinity"))
# Stores the monotonic clock as two words, seconds and nanoseconds (nothing where there is none).
stamp = _unary(_void, _stamp)
# Returns a count of ticks, of the processor or of the monotonic clock; the operand without either.
ticks = _unary(_i64, _ticks)
# Tells the core that this is a spin loop.
pause = _nullary(_pause)
# Sleeps until woken, unless the word has changed already; may return early, so callers loop.
wait_while = _binary(_void, _wait)
wake_all = _unary(_void, _wake)
# The same in memory that processes share; the third operand is the address of the most seconds
# and nanoseconds that the wait may take.
wait_shared = _ternary(_void, _wait_shared)
wake_shared = _unary(_void, _wake_shared)
