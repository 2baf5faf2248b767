"""numba_cpu > kernels > ew_bodies: what each elementary operation computes, as LLVM IR on lanes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.activation import BODIES, Act
from leptonc.backends.numba_cpu.kernels.ew_loop import Body, Lanes
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I16,
    I32,
    call,
    call_float,
    fconst,
    fma,
)

Value = ir.Value
INF = float("inf")


def element(v: Value) -> ir.Type:
    """Return the element type of a scalar or vector value."""
    return v.type.element if isinstance(v.type, ir.VectorType) else v.type


def like(lanes: Lanes, v: Value, x: float) -> ir.Constant:
    """Return the constant ``x`` of the type of ``v``."""
    return lanes.const(element(v), x)


def plain(build: Callable[..., Value]) -> Body:
    """Return the body of a function of the builder and values."""
    return lambda lanes, *values: build(lanes.b, *values)


def _act(code: Act, *params: int) -> Body:
    """Return the body of an activation; its parameters are the operation's."""

    def body(lanes: Lanes, x: Value) -> Value:
        extra = [lanes.param(i, F32) for i in params] + [fconst(0.0)] * (2 - len(params))
        return BODIES[code](lanes.b, x, *extra)

    return body


def _libm(name: str) -> Body:
    """Return the body that calls ``name`` of the C library on one float."""

    def body(lanes: Lanes, *values: Value) -> Value:
        module = lanes.b.module
        kind = ir.FunctionType(F32, [F32] * len(values))
        fn = module.globals.get(name) or ir.Function(module, kind, name)
        return lanes.b.call(fn, values)

    return body


# --- floats, one operand --------------------------------------------------------------------------
def _log_sigmoid(lanes: Lanes, x: Value) -> Value:
    b = lanes.b
    soft = vm.log1p_exp_minus(b, vm.absolute(b, x))
    return b.fsub(vm.clamp_high(b, x, fconst(0.0)), soft)


def _exp2(lanes: Lanes, x: Value) -> Value:
    b = lanes.b
    y = vm.clamp_high(b, vm.clamp_low(b, x, fconst(-152.0)), fconst(130.0))
    shifted = b.fadd(y, fconst(vm.ROUND_MAGIC))
    n = b.sub(b.bitcast(shifted, lanes.vector(I32)), lanes.const(I32, 0x4B400000))
    rest = b.fsub(y, b.fsub(shifted, fconst(vm.ROUND_MAGIC)))
    return vm._scale(b, vm.exp(b, b.fmul(rest, fconst(math.log(2.0)))), n)


def _sign(lanes: Lanes, x: Value) -> Value:
    b = lanes.b
    up, down = (b.fcmp_ordered(s, x, fconst(0.0)) for s in (">", "<"))
    ones = [b.select(m, fconst(1.0), fconst(0.0)) for m in (up, down)]
    return b.fsub(*ones)


def _elu(lanes: Lanes, x: Value) -> Value:
    b = lanes.b
    alpha, scale, inner = (lanes.param(i, F32) for i in range(3))
    below = b.fmul(vm.expm1(b, b.fmul(x, inner)), b.fmul(alpha, scale))
    return b.select(b.fcmp_unordered("<=", x, fconst(0.0)), below, b.fmul(x, scale))


def _is_finite(lanes: Lanes, x: Value) -> Value:
    return lanes.b.fcmp_ordered("<", vm.absolute(lanes.b, x), fconst(INF))


def _is_inf(lanes: Lanes, x: Value) -> Value:
    return lanes.b.fcmp_ordered("==", vm.absolute(lanes.b, x), fconst(INF))


def _clamp(lanes: Lanes, x: Value) -> Value:
    b = lanes.b
    return vm.clamp_high(b, vm.clamp_low(b, x, lanes.param(0, F32)), lanes.param(1, F32))


FLOAT_UNARY: Mapping[str, Body] = {
    "relu": _act(Act.RELU),
    "silu": _act(Act.SILU),
    "hard_swish": _act(Act.HARDSWISH),
    "hard_sigmoid": _act(Act.HARDSIGMOID),
    "sigmoid": _act(Act.SIGMOID),
    "log_sigmoid": _log_sigmoid,
    "tanh": _act(Act.TANH),
    "mish": _act(Act.MISH),
    "exp": _act(Act.EXP),
    "expm1": plain(vm.expm1),
    "exp2": _exp2,
    "log": plain(vm.log),
    "log1p": plain(vm.log1p),
    "sqrt": _act(Act.SQRT),
    "rsqrt": plain(lambda b, x: b.fdiv(fconst(1.0), call_float(b, "sqrt", x))),
    "reciprocal": _act(Act.RECIPROCAL),
    "neg": plain(lambda b, x: b.fneg(x)),
    "abs": plain(vm.absolute),
    "sign": _sign,
    "floor": plain(lambda b, x: call_float(b, "floor", x)),
    "ceil": plain(lambda b, x: call_float(b, "ceil", x)),
    "round": plain(lambda b, x: call_float(b, "nearbyint", x)),
    "trunc": plain(lambda b, x: call_float(b, "trunc", x)),
    "erf": plain(vm.erf),
    "gelu": _act(Act.GELU),
    "gelu_tanh": _act(Act.GELU_TANH),
    "leaky_relu": _act(Act.LEAKY_RELU, 0),
    "softplus": _act(Act.SOFTPLUS, 0, 1),
    "elu": _elu,
    "clamp": _clamp,
    "square": plain(lambda b, x: b.fmul(x, x)),
    "cube": plain(lambda b, x: b.fmul(b.fmul(x, x), x)),
    "inverse_square": plain(lambda b, x: b.fdiv(fconst(1.0), b.fmul(x, x))),
}
FLOAT_SCALAR: Mapping[str, Body] = {
    name: _libm(c)
    for name, c in {
        "log2": "log2f", "log10": "log10f", "tan": "tanf", "asin": "asinf", "acos": "acosf",
        "atan": "atanf", "sinh": "sinhf", "cosh": "coshf", "asinh": "asinhf", "acosh": "acoshf",
        "atanh": "atanhf", "erfc": "erfcf", "pow": "powf", "atan2": "atan2f", "fmod": "fmodf",
    }.items()
}  # fmt: skip
FLOAT_TESTS: Mapping[str, Body] = {
    "logical_not": plain(lambda b, x: b.fcmp_ordered("==", x, fconst(0.0))),
    "is_nan": plain(lambda b, x: b.fcmp_unordered("uno", x, x)),
    "is_inf": _is_inf,
    "is_finite": _is_finite,
    "to_bool": plain(lambda b, x: b.fcmp_unordered("!=", x, fconst(0.0))),
}


# --- floats, two operands -------------------------------------------------------------------------
def _fmod(lanes: Lanes, x: Value, y: Value) -> Value:
    return FLOAT_SCALAR["fmod"](lanes, x, y)


def _opposite(b: ir.IRBuilder, mod: Value, y: Value) -> Value:
    """Return whether ``mod`` is not zero and its sign is not that of ``y``."""
    zero = ir.Constant(F32, 0.0)
    signs = b.xor(b.fcmp_ordered("<", y, zero), b.fcmp_ordered("<", mod, zero))
    return b.and_(b.fcmp_unordered("!=", mod, zero), signs)


def _remainder(lanes: Lanes, x: Value, y: Value) -> Value:
    b, mod = lanes.b, _fmod(lanes, x, y)
    return b.select(_opposite(b, mod, y), b.fadd(mod, y), mod)


def _floor_div(lanes: Lanes, x: Value, y: Value) -> Value:
    """Return Python's ``//`` as torch computes it, from fmod: it never rounds up."""
    b, mod = lanes.b, _fmod(lanes, x, y)
    zero, half, one = (ir.Constant(F32, c) for c in (0.0, 0.5, 1.0))
    quotient = b.fdiv(x, y)
    whole = b.fdiv(b.fsub(x, mod), y)
    whole = b.select(_opposite(b, mod, y), b.fsub(whole, one), whole)
    down = call(b, "llvm.floor.f32", F32, [whole])
    near = b.fcmp_ordered(">", b.fsub(whole, down), half)
    down = b.select(near, b.fadd(down, one), down)
    signed_zero = call(b, "llvm.copysign.f32", F32, [zero, quotient])
    result = b.select(b.fcmp_ordered("==", whole, zero), signed_zero, down)
    return b.select(b.fcmp_ordered("==", y, zero), quotient, result)


FLOAT_BINARY: Mapping[str, Body] = {
    "add": plain(lambda b, x, y: b.fadd(x, y)),
    "sub": plain(lambda b, x, y: b.fsub(x, y)),
    "mul": plain(lambda b, x, y: b.fmul(x, y)),
    "div": plain(lambda b, x, y: b.fdiv(x, y)),
    "trunc_div": plain(lambda b, x, y: call_float(b, "trunc", b.fdiv(x, y))),
    "maximum": plain(vm.maximum),
    "minimum": plain(vm.minimum),
}
FLOAT_BINARY_SCALAR: Mapping[str, Body] = {"remainder": _remainder, "floor_div": _floor_div}


def _mul_add(lanes: Lanes, x: Value, y: Value, z: Value) -> Value:
    """Return ``x * y + z``, rounded twice: the bits of two operations."""
    return lanes.b.fadd(lanes.b.fmul(x, y), z)


def _mul_add_relu(lanes: Lanes, x: Value, y: Value, z: Value) -> Value:
    return FLOAT_UNARY["relu"](lanes, _mul_add(lanes, x, y, z))


FLOAT_TERNARY: Mapping[str, Body] = {
    "fma": plain(fma), "mul_add": _mul_add, "mul_add_relu": _mul_add_relu,
}  # fmt: skip


# --- comparisons and logic ------------------------------------------------------------------------
def compare(sign: str, kind: str) -> Body:
    """Return the body of ``x sign y`` for element type ``kind``."""

    def body(lanes: Lanes, x: Value, y: Value) -> Value:
        b = lanes.b
        if kind == "f32":
            return (b.fcmp_unordered if sign == "!=" else b.fcmp_ordered)(sign, x, y)
        return (b.icmp_unsigned if kind in ("u8", "bool") else b.icmp_signed)(sign, x, y)

    return body


COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def truth(lanes: Lanes, x: Value) -> Value:
    """Return ``x != 0`` (NaN is true)."""
    b, kind = lanes.b, element(x)
    if kind == F32:
        return b.fcmp_unordered("!=", x, like(lanes, x, 0.0))
    return x if kind.width == 1 else b.icmp_unsigned("!=", x, like(lanes, x, 0))


def logic(name: str) -> Body:
    """Return the body of a logical operation on any type."""

    def body(lanes: Lanes, x: Value, y: Value) -> Value:
        return getattr(lanes.b, name)(truth(lanes, x), truth(lanes, y))

    return body


LOGIC = {"logical_and": logic("and_"), "logical_or": logic("or_"), "logical_xor": logic("xor")}


def where(lanes: Lanes, c: Value, x: Value, y: Value) -> Value:
    """Return ``x`` where ``c`` else ``y``."""
    return lanes.b.select(c, x, y)


# --- conversions ----------------------------------------------------------------------------------
def float_to_int(to: ir.Type) -> Body:
    """Return C's conversion as x86 does it: the smallest integer where it does not fit."""
    wide = I32 if to.width < 32 else to

    def body(lanes: Lanes, x: Value) -> Value:
        b, half = lanes.b, 2.0 ** (wide.width - 1)
        fits = b.and_(b.fcmp_ordered(">=", x, fconst(-half)), b.fcmp_ordered("<", x, fconst(half)))
        got = b.fptosi(b.select(fits, x, fconst(0.0)), lanes.vector(wide))
        got = b.select(fits, got, lanes.const(wide, -(2 ** (wide.width - 1))))
        return got if wide == to else b.trunc(got, lanes.vector(to))

    return body


def int_to_int(source: str, to: ir.Type) -> Body:
    """Return the widening or wrapping conversion."""

    def body(lanes: Lanes, x: Value) -> Value:
        b, have = lanes.b, element(x).width
        if have == to.width:
            return x
        if have > to.width:
            return b.trunc(x, lanes.vector(to))
        return (b.zext if source in ("u8", "bool") else b.sext)(x, lanes.vector(to))

    return body


def int_to_float(source: str) -> Body:
    """Return the conversion to float32, rounded to nearest."""

    def body(lanes: Lanes, x: Value) -> Value:
        b = lanes.b
        return (b.uitofp if source in ("u8", "bool") else b.sitofp)(x, lanes.vector(F32))

    return body


def widen_bf16(lanes: Lanes, half: Value) -> Value:
    """Return bfloat16 bits as float32."""
    b, words = lanes.b, lanes.vector(I32)
    return b.bitcast(b.shl(b.zext(half, words), lanes.const(I32, 16)), lanes.vector(F32))


def narrow_bf16(lanes: Lanes, x: Value) -> Value:
    """Return bfloat16 bits, rounded to nearest even."""
    b, words = lanes.b, lanes.vector(I32)
    bits, sixteen = b.bitcast(x, words), lanes.const(I32, 16)
    odd = b.and_(b.lshr(bits, sixteen), lanes.const(I32, 1))
    rounded = b.lshr(b.add(bits, b.add(odd, lanes.const(I32, 0x7FFF))), sixteen)
    quiet = b.or_(b.lshr(bits, sixteen), lanes.const(I32, 0x40))
    return b.trunc(b.select(b.fcmp_unordered("uno", x, x), quiet, rounded), lanes.vector(I16))


def widen_f16(lanes: Lanes, half: Value) -> Value:
    """Return float16 bits as float32."""
    b = lanes.b
    return b.fpext(b.bitcast(half, lanes.vector(ir.HalfType())), lanes.vector(F32))


def narrow_f16(lanes: Lanes, x: Value) -> Value:
    """Return float16 bits, rounded to nearest even."""
    b = lanes.b
    return b.bitcast(b.fptrunc(x, lanes.vector(ir.HalfType())), lanes.vector(I16))


WIDEN = {"bf16": widen_bf16, "f16": widen_f16}
NARROW = {"bf16": narrow_bf16, "f16": narrow_f16}
INT_TYPES: Mapping[str, ir.Type] = {
    "i64": ir.IntType(64), "i32": I32, "i16": I16, "i8": I8, "u8": I8,
}  # fmt: skip
