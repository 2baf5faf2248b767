"""numba_cpu > kernels > ew_functions: sine and cosine on float lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.ew_loop import Body, Lanes
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    F64,
    I32,
    I64,
    LANES,
    VF,
    call,
    fconst,
    fma,
    iconst,
)

SIN_POLY = (-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880)  # Taylor: 2e-9 off at pi / 4
COS_POLY = (-1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320)  # Taylor: 3e-8 off at pi / 4
TWO_OVER_PI = 0.6366197723675814
HALF_PI = (1.5707963267948966, 6.123233995736766e-17)  # high and low part
ROUND_MAGIC = 6755399441055744.0  # 1.5 * 2**52: rounds and leaves the integer in the low bits
LARGEST = 2.0**29  # up to here the quotient fits and the reduction is exact to single precision


def _quadrant(b: ir.IRBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return ``(q, r)`` with ``x = q * pi / 2 + r``, reduced in double precision."""
    wide = ir.VectorType(F64, LANES)

    def const(c: float) -> ir.Constant:
        return ir.Constant(wide, [c] * LANES)

    def fused(*args: ir.Value) -> ir.Value:
        return call(b, f"llvm.fma.v{LANES}f64", wide, args)

    y = b.fpext(x, wide)
    shifted = b.fadd(b.fmul(y, const(TWO_OVER_PI)), const(ROUND_MAGIC))
    n = b.fsub(shifted, const(ROUND_MAGIC))
    r = fused(n, const(-HALF_PI[1]), fused(n, const(-HALF_PI[0]), y))
    q = b.trunc(b.bitcast(shifted, ir.VectorType(I64, LANES)), ir.VectorType(I32, LANES))
    return q, b.fptrunc(r, VF)


def _wave(shift: int, name: str) -> Body:
    """Return sine (``shift`` 0) or cosine (1); huge angles go to the C library."""

    def body(lanes: Lanes, x: ir.Value) -> ir.Value:
        b = lanes.b
        q, r = _quadrant(b, x)
        q = b.add(q, iconst(shift))
        r2 = b.fmul(r, r)
        sine = fma(b, b.fmul(r2, r), vm.poly(b, r2, SIN_POLY), r)
        cosine = fma(b, r2, vm.poly(b, r2, COS_POLY), fconst(1.0))
        odd = b.icmp_signed("!=", b.and_(q, iconst(1)), iconst(0))
        value = b.select(odd, cosine, sine)
        sign = b.shl(b.and_(q, iconst(2)), iconst(30))
        value = b.bitcast(b.xor(b.bitcast(value, lanes.vector(I32)), sign), VF)
        if shift == 0:  # -0.0 stays
            value = b.select(b.fcmp_ordered("==", x, fconst(0.0)), x, value)
        large = b.fcmp_ordered(">", vm.absolute(b, x), fconst(LARGEST))
        some = b.icmp_unsigned(
            "!=", b.bitcast(large, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0)
        )
        return _unless(b, some, value, lambda: _each(b, name, x))

    return body


def _unless(b: ir.IRBuilder, rare: ir.Value, value: ir.Value, other: Callable) -> ir.Value:
    """Return ``value``, or ``other()`` where the scalar condition holds."""
    before = b.block
    with b.if_then(rare, likely=False):
        slow = other()
        inside = b.block
    phi = b.phi(VF)
    phi.add_incoming(value, before)
    phi.add_incoming(slow, inside)
    return phi


def _each(b: ir.IRBuilder, name: str, x: ir.Value) -> ir.Value:
    """Return the C library's ``name`` of every lane."""
    kind = ir.FunctionType(F32, [F32])
    fn = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    made = ir.Constant(VF, ir.Undefined)
    for lane in range(LANES):
        at = ir.Constant(I32, lane)
        made = b.insert_element(made, b.call(fn, [b.extract_element(x, at)]), at)
    return made


TRIGONOMETRY: Mapping[str, Body] = {"sin": _wave(0, "sinf"), "cos": _wave(1, "cosf")}
