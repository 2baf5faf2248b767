"""numba_cpu > kernels > activation: the one table of activations that every epilogue switches over.

``vact(code, x, p0, p1)`` inside a kernel applies activation ``code`` to a vector. The codes are
``Act``; ``p0`` and ``p1`` are its parameters (see ``Act``), 0.0 where it has none.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    VF,
    call_float,
    fconst,
    fma,
    i64,
    shared_function,
    splat,
    vf32,
)


class Act(enum.IntEnum):
    """Activation codes; the formula of each in terms of ``x``, ``p0``, ``p1`` stands beside it."""

    NONE = 0  # x
    RELU = 1  # max(x, 0)
    RELU6 = 2  # min(max(x, 0), 6)
    CLAMP = 3  # min(max(x, p0), p1)
    SILU = 4  # x * sigmoid(x)
    HARDSWISH = 5  # x * min(max(x + 3, 0), 6) / 6
    HARDSIGMOID = 6  # min(max(x + 3, 0), 6) / 6
    SIGMOID = 7  # 1 / (1 + exp(-x))
    GELU = 8  # x * (1 + erf(x / sqrt(2))) / 2
    GELU_TANH = 9  # x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2
    LEAKY_RELU = 10  # x if x > 0 else p0 * x
    ELU = 11  # x if x > 0 else p0 * (exp(x) - 1)
    TANH = 12  # tanh(x)
    MISH = 13  # x * tanh(log(1 + exp(x)))
    SOFTPLUS = 14  # log(1 + exp(p0 * x)) / p0, x where p0 * x > p1
    SELU = 15  # 1.0507... * (x if x > 0 else 1.6732... * (exp(x) - 1))
    ABS = 16  # |x|
    EXP = 17  # exp(x)
    SQRT = 18  # sqrt(x)
    NEG = 19  # -x
    SQUARE = 20  # x * x
    QUICK_GELU = 21  # x * sigmoid(1.702 * x)
    SOFTSIGN = 22  # x / (1 + |x|)
    LOG = 23  # log(x)
    RECIPROCAL = 24  # 1 / x


def _between(b: ir.IRBuilder, x: ir.Value, low: float, high: float) -> ir.Value:
    return vm.clamp_high(b, vm.clamp_low(b, x, fconst(low)), fconst(high))


def _hard_sigmoid(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return b.fdiv(_between(b, b.fadd(x, fconst(3.0)), 0.0, 6.0), fconst(6.0))


def _hard_swish(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return b.fdiv(b.fmul(x, _between(b, b.fadd(x, fconst(3.0)), 0.0, 6.0)), fconst(6.0))


def _half_times_one_plus(b: ir.IRBuilder, x: ir.Value, t: ir.Value) -> ir.Value:
    """Return ``x * (1 + t) / 2``."""
    return b.fmul(b.fmul(x, fconst(0.5)), b.fadd(fconst(1.0), t))


def _gelu(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return _half_times_one_plus(b, x, vm.erf(b, b.fmul(x, fconst(math.sqrt(0.5)))))


def _gelu_tanh(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    cube = b.fmul(b.fmul(x, x), x)
    inner = b.fmul(fma(b, cube, fconst(0.044715), x), fconst(math.sqrt(2.0 / math.pi)))
    return _half_times_one_plus(b, x, vm.tanh(b, inner))


def _positive_or(b: ir.IRBuilder, x: ir.Value, other: ir.Value) -> ir.Value:
    return b.select(b.fcmp_ordered(">", x, fconst(0.0)), x, other)


def _mish(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    # tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2): no cancellation; from 20 on it is 1.
    e = vm.exp(b, vm.clamp_high(b, x, fconst(20.0)))
    n = b.fmul(e, b.fadd(e, fconst(2.0)))
    return b.fmul(x, b.fdiv(n, b.fadd(n, fconst(2.0))))


def _softplus(b: ir.IRBuilder, x: ir.Value, beta: ir.Value, threshold: ir.Value) -> ir.Value:
    y = b.fmul(x, beta)
    soft = vm.log1p(b, vm.exp(b, b.fneg(vm.absolute(b, y))))
    soft = b.fdiv(b.fadd(vm.clamp_low(b, y, fconst(0.0)), soft), beta)
    return b.select(b.fcmp_ordered(">", y, threshold), x, soft)


def _selu(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    below = b.fmul(vm.expm1(b, x), fconst(1.6732632423543772))
    return b.fmul(_positive_or(b, x, below), fconst(1.0507009873554805))


BODIES: dict[Act, Callable[..., ir.Value]] = {
    Act.NONE: lambda b, x, p0, p1: x,
    Act.RELU: lambda b, x, p0, p1: vm.clamp_low(b, x, fconst(0.0)),
    Act.RELU6: lambda b, x, p0, p1: _between(b, x, 0.0, 6.0),
    Act.CLAMP: lambda b, x, p0, p1: vm.clamp_high(b, vm.clamp_low(b, x, p0), p1),
    Act.SILU: lambda b, x, p0, p1: b.fmul(x, vm.sigmoid(b, x)),
    Act.HARDSWISH: lambda b, x, p0, p1: _hard_swish(b, x),
    Act.HARDSIGMOID: lambda b, x, p0, p1: _hard_sigmoid(b, x),
    Act.SIGMOID: lambda b, x, p0, p1: vm.sigmoid(b, x),
    Act.GELU: lambda b, x, p0, p1: _gelu(b, x),
    Act.GELU_TANH: lambda b, x, p0, p1: _gelu_tanh(b, x),
    Act.LEAKY_RELU: lambda b, x, p0, p1: _positive_or(b, x, b.fmul(x, p0)),
    Act.ELU: lambda b, x, p0, p1: _positive_or(b, x, b.fmul(vm.expm1(b, x), p0)),
    Act.TANH: lambda b, x, p0, p1: vm.tanh(b, x),
    Act.MISH: lambda b, x, p0, p1: _mish(b, x),
    Act.SOFTPLUS: lambda b, x, p0, p1: _softplus(b, x, p0, p1),
    Act.SELU: lambda b, x, p0, p1: _selu(b, x),
    Act.ABS: lambda b, x, p0, p1: vm.absolute(b, x),
    Act.EXP: lambda b, x, p0, p1: vm.exp(b, x),
    Act.SQRT: lambda b, x, p0, p1: call_float(b, "sqrt", x),
    Act.NEG: lambda b, x, p0, p1: b.fneg(x),
    Act.SQUARE: lambda b, x, p0, p1: b.fmul(x, x),
    Act.QUICK_GELU: lambda b, x, p0, p1: b.fmul(x, vm.sigmoid(b, b.fmul(x, fconst(1.702)))),
    Act.SOFTSIGN: lambda b, x, p0, p1: b.fdiv(x, b.fadd(fconst(1.0), vm.absolute(b, x))),
    Act.LOG: lambda b, x, p0, p1: vm.log(b, x),
    Act.RECIPROCAL: lambda b, x, p0, p1: b.fdiv(fconst(1.0), x),
}


def _switch(b: ir.IRBuilder, code: ir.Value, x: ir.Value, p0: ir.Value, p1: ir.Value) -> ir.Value:
    """Write ``lep_act``: a jump table over the codes; unknown codes are the identity."""
    low, high = splat(b, p0), splat(b, p1)
    end = b.function.append_basic_block("end")
    switch = b.switch(code, end)
    incoming = [(x, b.block)]
    for act, body in BODIES.items():
        block = b.function.append_basic_block(act.name.lower())
        switch.add_case(i64(int(act)), block)
        b.position_at_end(block)
        incoming.append((body(b, x, low, high), b.block))
        b.branch(end)
    b.position_at_end(end)
    phi = b.phi(VF)
    for value, block in incoming:
        phi.add_incoming(value, block)
    return phi


def emit_act(b: ir.IRBuilder, code: ir.Value, x: ir.Value, p0: ir.Value, p1: ir.Value) -> ir.Value:
    """Call activation ``code`` (i64) on ``x`` with float parameters, in IR."""
    fn = shared_function(b.module, "lep_act", VF, [I64, VF, F32, F32], _switch)
    return b.call(fn, [code, x, p0, p1])


@intrinsic
def vact(typingctx, code, x, p0, p1):
    """Return activation ``code`` of vector ``x``; ``p0``, ``p1``: its float32 parameters."""

    def build(context, builder, sig, args):
        return emit_act(builder, *args)

    return vf32(types.int64, vf32, types.float32, types.float32), build
