"""numba_cpu > kernels > vec: vector intrinsics for kernels: loads, stores, arithmetic, functions.

Kernels hold registers of ``LANES`` float32 in plain Python variables::

    acc = vzero()
    for i in range(0, n - n % LANES, LANES):
        acc = vfma(vload(x, i), vload(y, i), acc)      # also: a + b, a - b, a * b, a / b, -a
    tail = n % LANES
    acc = vfma(vload_n(x, n - tail, tail), vload_n(y, n - tail, tail), acc)

Addresses are int64 byte addresses, indices count elements of the accessed type; nothing needs more
alignment than one element. ``*_n`` forms touch only the first ``n`` lanes of memory (``n`` may be
anything: it is clamped to 0..LANES) and load 0 into the others. Comparisons give a mask for
``vselect``. Functions follow IEEE/torch for NaN, inf and -0.0; see :mod:`vecmath` for their
accuracy.

Scalars: ``arg(args, i)`` and ``argf(args, i)`` read a record; ``ldf stf ldd std ldi64 sti64 ldi32
sti32 ldi8 sti8 ldu8 stu8`` read and write one element. Other types: ``vload_bf16(_n)``,
``vload_f16(_n)`` and the stores, which round to nearest even.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.language import OPERATORS
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    F64,
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
    first_lanes,
    fma,
    iconst,
    load_vec,
    masked_load,
    masked_store,
    pointer,
    splat,
    vf32,
    vi32,
    vmask,
)

_i64, _f32, _f64, _void = types.int64, types.float32, types.float64, types.void
_bool, _i32, _i8, _u8 = types.boolean, types.int32, types.int8, types.uint8
_i16 = types.int16


def _op(result: types.Type, params: tuple[types.Type, ...], build: Callable, doc: str):
    """Return an intrinsic ``params -> result`` whose code is ``build(builder, *values)``."""

    def code(context, builder, sig, args):
        value = build(builder, *args)
        return context.get_dummy_value() if value is None else value

    shapes = {
        0: lambda ctx: (result(), code),
        1: lambda ctx, a: (result(*params), code),
        2: lambda ctx, a, b: (result(*params), code),
        3: lambda ctx, a, b, c: (result(*params), code),
        4: lambda ctx, a, b, c, d: (result(*params), code),
    }
    made = intrinsic(shapes[len(params)])
    made.__doc__ = doc
    return made


def _vv(build: Callable, arity: int, doc: str):
    """Return an intrinsic from ``arity`` float vectors to one."""
    return _op(vf32, (vf32,) * arity, build, doc)


# --- scalars in memory ----------------------------------------------------------------------------
def _scalar_load(numba_type: types.Type, llvm_type: ir.Type, size: int):
    return _op(
        numba_type,
        (_i64, _i64),
        lambda b, a, i: b.load(pointer(b, a, i, size), align=size, typ=llvm_type),
        f"Return element ``i`` ({numba_type}) at byte address ``a``.",
    )


def _scalar_store(numba_type: types.Type, size: int):
    def build(b, a, i, x):
        b.store(x, pointer(b, a, i, size), align=size)

    return _op(
        _void, (_i64, _i64, numba_type), build, f"Store ``x`` ({numba_type}) as element ``i``."
    )


ldf, stf = _scalar_load(_f32, F32, 4), _scalar_store(_f32, 4)
ldd, std = _scalar_load(_f64, F64, 8), _scalar_store(_f64, 8)
ldi64, sti64 = _scalar_load(_i64, I64, 8), _scalar_store(_i64, 8)
ldi32, sti32 = _scalar_load(_i32, I32, 4), _scalar_store(_i32, 4)
ldi16, sti16 = _scalar_load(_i16, I16, 2), _scalar_store(_i16, 2)
ldi8, sti8 = _scalar_load(_i8, I8, 1), _scalar_store(_i8, 1)
ldu8, stu8 = _scalar_load(_u8, I8, 1), _scalar_store(_u8, 1)
arg, argf = ldi64, ldd

# --- vectors in memory ----------------------------------------------------------------------------
vload = _op(
    vf32, (_i64, _i64), lambda b, a, i: load_vec(b, pointer(b, a, i)), "Load floats ``i..``."
)
vload_n = _op(
    vf32,
    (_i64, _i64, _i64),
    lambda b, a, i, n: masked_load(b, pointer(b, a, i), first_lanes(b, n)),
    "Load the first ``n`` lanes from element ``i``, 0 in the others.",
)


def _store(b, a, i, v):
    b.store(v, pointer(b, a, i), align=4)


def _store_n(b, a, i, v, n):
    masked_store(b, v, pointer(b, a, i), first_lanes(b, n))


def _gather(b, a, i, step):
    """Load one lane each: hardware gathers are no faster for a constant step."""
    v, ptr = ir.Constant(VF, ir.Undefined), pointer(b, a, i)
    for lane in range(LANES):
        one = b.load(ptr, align=4, typ=F32)
        v = b.insert_element(v, one, ir.Constant(I32, lane))
        ptr = b.gep(ptr, [step], source_etype=F32)
    return v


vstore = _op(_void, (_i64, _i64, vf32), _store, "Store floats ``i..``.")
vstore_n = _op(_void, (_i64, _i64, vf32, _i64), _store_n, "Store the first ``n`` lanes.")
vload_step = _op(
    vf32, (_i64, _i64, _i64), _gather, "Load floats ``i, i + step, i + 2 * step, ...``."
)

_VH = ir.VectorType(I16, LANES)
_HALF = ir.VectorType(ir.HalfType(), LANES)


def _widen_bf16(b, half):
    return b.bitcast(b.shl(b.zext(half, VI), iconst(16)), VF)


def _narrow_bf16(b, v):
    bits = b.bitcast(v, VI)
    odd = b.and_(b.lshr(bits, iconst(16)), iconst(1))
    rounded = b.lshr(b.add(bits, b.add(odd, iconst(0x7FFF))), iconst(16))
    quiet = b.or_(b.lshr(bits, iconst(16)), iconst(0x40))
    return b.trunc(b.select(b.fcmp_unordered("uno", v, v), quiet, rounded), _VH)


def _widen_f16(b, half):
    return b.fpext(b.bitcast(half, _HALF), VF)


def _narrow_f16(b, v):
    return b.bitcast(b.fptrunc(v, _HALF), _VH)


def _half_access(widen: Callable, narrow: Callable, name: str):
    """Return load, load_n, store, store_n for a 16-bit float format."""
    suffix = f"v{LANES}i16.p0"
    align = ir.Constant(I32, 2)

    def load(b, a, i):
        return widen(b, b.load(pointer(b, a, i, 2), align=2, typ=_VH))

    def load_n(b, a, i, n):
        args = [pointer(b, a, i, 2), align, first_lanes(b, n), ir.Constant(_VH, [0] * LANES)]
        return widen(b, call(b, f"llvm.masked.load.{suffix}", _VH, args))

    def store(b, a, i, v):
        b.store(narrow(b, v), pointer(b, a, i, 2), align=2)

    def store_n(b, a, i, v, n):
        args = [narrow(b, v), pointer(b, a, i, 2), align, first_lanes(b, n)]
        call(b, f"llvm.masked.store.{suffix}", ir.VoidType(), args)

    return (
        _op(vf32, (_i64, _i64), load, f"Load {name} from element ``i`` as float32."),
        _op(
            vf32, (_i64, _i64, _i64), load_n, f"Load ``n`` {name} as float32, 0 in the other lanes."
        ),
        _op(_void, (_i64, _i64, vf32), store, f"Store as {name}, rounded to nearest even."),
        _op(_void, (_i64, _i64, vf32, _i64), store_n, f"Store the first ``n`` lanes as {name}."),
    )


vload_bf16, vload_bf16_n, vstore_bf16, vstore_bf16_n = _half_access(
    _widen_bf16, _narrow_bf16, "bfloat16"
)
vload_f16, vload_f16_n, vstore_f16, vstore_f16_n = _half_access(_widen_f16, _narrow_f16, "float16")

# --- making and taking apart ----------------------------------------------------------------------
vsplat = _op(vf32, (_f32,), splat, "Return ``x`` in every lane.")
vzero = _op(vf32, (), lambda b: fconst(0.0), "Return 0.0 in every lane.")
viota = _op(vi32, (), lambda b: ir.Constant(VI, list(range(LANES))), "Return 0, 1, 2, ...")
vextract = _op(
    _f32, (vf32, _i64), lambda b, v, i: b.extract_element(v, b.trunc(i, I32)), "Return lane ``i``."
)
vfirst = _op(vmask, (_i64,), first_lanes, "Return the mask of the first ``n`` lanes.")


def _fold(b, v, combine):
    """Combine all lanes pairwise; the order does not depend on anything but LANES."""
    width = LANES
    while width > 1:
        width //= 2
        undef = ir.Constant(v.type, ir.Undefined)
        low, high = (
            b.shuffle_vector(
                v, undef, ir.Constant(ir.VectorType(I32, width), list(range(s, s + width)))
            )
            for s in (0, width)
        )
        v = combine(b, low, high)
    return b.extract_element(v, ir.Constant(I32, 0))


def _fold_order(b, x, y, sign):
    picked = b.select(b.fcmp_ordered(sign, y, x), y, x)
    return b.select(b.fcmp_unordered("uno", y, y), y, picked)


vsum = _op(
    _f32,
    (vf32,),
    lambda b, v: _fold(b, v, lambda b, x, y: b.fadd(x, y)),
    "Return the sum of the lanes.",
)
vhmax = _op(
    _f32,
    (vf32,),
    lambda b, v: _fold(b, v, lambda b, x, y: _fold_order(b, x, y, ">")),
    "Return the largest lane, NaN if there is one.",
)
vhmin = _op(
    _f32,
    (vf32,),
    lambda b, v: _fold(b, v, lambda b, x, y: _fold_order(b, x, y, "<")),
    "Return the smallest lane, NaN if there is one.",
)

# --- arithmetic -----------------------------------------------------------------------------------
vadd = _vv(lambda b, x, y: b.fadd(x, y), 2, "Return ``x + y``.")
vsub = _vv(lambda b, x, y: b.fsub(x, y), 2, "Return ``x - y``.")
vmul = _vv(lambda b, x, y: b.fmul(x, y), 2, "Return ``x * y``.")
vdiv = _vv(lambda b, x, y: b.fdiv(x, y), 2, "Return ``x / y``.")
vfma = _vv(fma, 3, "Return ``x * y + z``, fused where the machine can.")
vmax = _vv(vm.maximum, 2, "Return the larger, NaN if either is (torch.maximum).")
vmin = _vv(vm.minimum, 2, "Return the smaller, NaN if either is (torch.minimum).")
vclamp = _vv(
    lambda b, x, lo, hi: vm.clamp_high(b, vm.clamp_low(b, x, lo), hi),
    3,
    "Return ``min(max(x, lo), hi)``; NaN stays.",
)
vatleast = _vv(
    vm.clamp_low, 2, "Return ``max(x, lo)``: one instruction; NaN of ``x`` stays (relu: lo = 0)."
)
vatmost = _vv(vm.clamp_high, 2, "Return ``min(x, hi)``: one instruction; NaN of ``x`` stays.")
vneg = _vv(lambda b, x: b.fneg(x), 1, "Return ``-x``.")
vabs = _vv(vm.absolute, 1, "Return ``|x|``.")
vcopysign = _vv(
    lambda b, x, s: call_float(b, "copysign", x, s), 2, "Return ``|x|`` with the sign of ``s``."
)
vsqrt = _vv(lambda b, x: call_float(b, "sqrt", x), 1, "Return the square root, correctly rounded.")
vfloor = _vv(lambda b, x: call_float(b, "floor", x), 1, "Round down.")
vceil = _vv(lambda b, x: call_float(b, "ceil", x), 1, "Round up.")
vtrunc = _vv(lambda b, x: call_float(b, "trunc", x), 1, "Round towards 0.")
vround = _vv(
    lambda b, x: call_float(b, "nearbyint", x), 1, "Round to nearest, ties to even (torch.round)."
)

# --- functions ------------------------------------------------------------------------------------
vexp = _vv(vm.exp, 1, "Return ``exp(x)``.")
vexp_down = _vv(vm.exp_down, 1, "Return ``exp(x)`` for ``x <= 0`` (0 from -110 or earlier).")
vexp2_down = _vv(vm.exp2_down, 1, "Return ``2 ** x`` for ``x <= 0`` (0 from -152 or earlier).")
vexpm1 = _vv(vm.expm1, 1, "Return ``exp(x) - 1``, accurate near 0.")
vlog = _vv(vm.log, 1, "Return the natural logarithm.")
vlog1p = _vv(vm.log1p, 1, "Return ``log(1 + x)``, accurate near 0.")
vtanh = _vv(vm.tanh, 1, "Return ``tanh(x)``.")
verf = _vv(vm.erf, 1, "Return the error function.")
vsigmoid = _vv(vm.sigmoid, 1, "Return ``1 / (1 + exp(-x))``.")


# --- masks ----------------------------------------------------------------------------------------
def _compare(sign: str, unordered: bool = False):
    def build(b, x, y):
        return (b.fcmp_unordered if unordered else b.fcmp_ordered)(sign, x, y)

    return _op(vmask, (vf32, vf32), build, f"Return the mask of lanes with ``x {sign} y``.")


vlt, vle, vgt, vge, veq = (_compare(s) for s in ("<", "<=", ">", ">=", "=="))
vne = _compare("!=", unordered=True)
visnan = _op(
    vmask, (vf32,), lambda b, x: b.fcmp_unordered("uno", x, x), "Return the mask of NaN lanes."
)
vunordered = _op(
    vmask,
    (vf32, vf32),
    lambda b, x, y: b.fcmp_unordered("uno", x, y),
    "Return the mask of lanes where ``x`` or ``y`` is NaN.",
)
vselect = _op(
    vf32,
    (vmask, vf32, vf32),
    lambda b, m, x, y: b.select(m, x, y),
    "Return ``x`` where ``m``, else ``y``.",
)
vselect_i = _op(
    vi32, (vmask, vi32, vi32), lambda b, m, x, y: b.select(m, x, y), "Like vselect, for int32."
)
vand = _op(vmask, (vmask, vmask), lambda b, x, y: b.and_(x, y), "Return ``x & y``.")
vor = _op(vmask, (vmask, vmask), lambda b, x, y: b.or_(x, y), "Return ``x | y``.")
vnot = _op(vmask, (vmask,), lambda b, x: b.not_(x), "Return ``~x``.")


def _any(b, m):
    return b.icmp_unsigned("!=", b.bitcast(m, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0))


vany = _op(_bool, (vmask,), _any, "Return whether any lane is set.")

# --- int32 vectors --------------------------------------------------------------------------------
vi_load = _op(
    vi32,
    (_i64, _i64),
    lambda b, a, i: b.load(pointer(b, a, i), align=4, typ=VI),
    "Load int32 ``i..``.",
)
vi_store = _op(
    _void,
    (_i64, _i64, vi32),
    lambda b, a, i, v: b.store(v, pointer(b, a, i), align=4) and None,
    "Store int32 ``i..``.",
)
vi_splat = _op(vi32, (_i32,), lambda b, x: splat(b, x, VI), "Return ``x`` in every lane.")
vi_add = _op(vi32, (vi32, vi32), lambda b, x, y: b.add(x, y), "Return ``x + y``.")
vi_sub = _op(vi32, (vi32, vi32), lambda b, x, y: b.sub(x, y), "Return ``x - y``.")
vi_mul = _op(vi32, (vi32, vi32), lambda b, x, y: b.mul(x, y), "Return ``x * y``.")
vi_shl = _op(vi32, (vi32, vi32), lambda b, x, y: b.shl(x, y), "Return ``x << y``.")
vi_sar = _op(vi32, (vi32, vi32), lambda b, x, y: b.ashr(x, y), "Return ``x >> y``, sign kept.")
vi_and = _op(vi32, (vi32, vi32), lambda b, x, y: b.and_(x, y), "Return ``x & y``.")
vi_lt = _op(
    vmask, (vi32, vi32), lambda b, x, y: b.icmp_signed("<", x, y), "Return the mask of ``x < y``."
)
vi_eq = _op(
    vmask, (vi32, vi32), lambda b, x, y: b.icmp_signed("==", x, y), "Return the mask of ``x == y``."
)
vtofloat = _op(vf32, (vi32,), lambda b, x: b.sitofp(x, VF), "Convert int32 to float32.")
vtoint = _op(
    vi32, (vf32,), lambda b, x: call(b, f"llvm.fptosi.sat.v{LANES}i32.v{LANES}f32", VI, [x]),
    "Convert to int32 towards 0; saturates, NaN gives 0.",
)  # fmt: skip
vbits = _op(vi32, (vf32,), lambda b, x: b.bitcast(x, VI), "Return the bits as int32.")
vfrombits = _op(vf32, (vi32,), lambda b, x: b.bitcast(x, VF), "Return the float with these bits.")


# --- Python operators on float vectors ------------------------------------------------------------
def _operator(symbol: Callable, arity: int, build: Callable) -> tuple[str, Callable]:
    """Let kernels write ``symbol`` between vectors; return its name and what writes its code."""
    OPERATORS.define(symbol, (vf32,) * arity, vf32, build)
    return symbol.__name__, build


_BINARY = {
    operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv",
}  # fmt: skip
REGISTERED = (
    *(_operator(s, 2, lambda b, x, y, n=n: getattr(b, n)(x, y)) for s, n in _BINARY.items()),
    _operator(operator.neg, 1, lambda b, x: b.fneg(x)),
)
