"""numba_cpu > kernels > activation: the one table of activations that every epilogue switches over.

``over_rows`` writes the switch with one loop an activation; ``vact(code, x, p0, p1)`` inside a
kernel applies activation ``code`` to a vector. The codes are ``Act``; ``p0`` and ``p1`` are its
parameters (see ``Act``), 0.0 where it has none.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    VF,
    call_float,
    fconst,
    fma,
    i64,
    load_vec,
    masked_load,
    masked_store,
    pointer,
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
    return b.fmul(_between(b, b.fadd(x, fconst(3.0)), 0.0, 6.0), fconst(1.0 / 6.0))


def _hard_swish(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return b.fmul(b.fmul(x, _between(b, b.fadd(x, fconst(3.0)), 0.0, 6.0)), fconst(1.0 / 6.0))


def _silu(b: ir.IRBuilder, x: ir.Value, slope: float = 1.0) -> ir.Value:
    """Return ``x * sigmoid(slope * x)``."""
    inner = x if slope == 1.0 else b.fmul(x, fconst(slope))
    return b.fdiv(x, vm.one_plus_exp_minus(b, inner))


# The normal distribution function less 1/2 is x top(x**2) / bottom(x**2) up to NORMAL_LIMIT, where
# the quotient is exactly 1/2, with and without fused operations. The error of the fit times x is
# 2.3e-8, with the rounding errors 4.9e-7 (at 5; eager's own is 2.5e-7 there).
NORMAL_LIMIT = 5.4627237
NORMAL_TOP = (
    0.7938274145126343, 0.06941304355859756, 0.009440646506845951, 0.0003579678595997393,
    1.2890681318822317e-05, 4.425497834859016e-08,
)  # fmt: skip
NORMAL_BOTTOM = (
    1.9898309707641602, 0.5056273937225342, 0.058195922523736954, 0.003873235546052456,
    0.00015415677626151592, 2.372034487052588e-06,
)  # fmt: skip


def _gelu(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    y = _between(b, x, -NORMAL_LIMIT, NORMAL_LIMIT)
    u = b.fmul(y, y)
    odd = b.fdiv(b.fmul(y, vm.poly(b, u, NORMAL_TOP)), vm.poly(b, u, NORMAL_BOTTOM))
    return b.fmul(x, b.fadd(odd, fconst(0.5)))


def _gelu_tanh(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    # (1 + tanh(y)) / 2 = 1 / (1 + exp(-2 y)); the power is taken to base 2.
    slope = -2.0 * math.sqrt(2.0 / math.pi) * math.log2(math.e)
    inner = fma(b, b.fmul(x, x), fconst(slope * 0.044715), fconst(slope))
    return b.fdiv(x, b.fadd(fconst(1.0), vm.exp2_saturated(b, b.fmul(x, inner))))


def _positive_or(b: ir.IRBuilder, x: ir.Value, other: ir.Value) -> ir.Value:
    return b.select(b.fcmp_ordered(">", x, fconst(0.0)), x, other)


def _mish(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    # tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2): no cancellation; from 20 on it is 1.
    e = vm.exp_clamped(b, _between(b, x, vm.EXP_ZERO, 20.0))
    n = b.fmul(e, b.fadd(e, fconst(2.0)))
    return b.fmul(x, b.fdiv(n, b.fadd(n, fconst(2.0))))


def _softplus(b: ir.IRBuilder, x: ir.Value, beta: ir.Value, threshold: ir.Value) -> ir.Value:
    y = b.fmul(x, beta)
    soft = b.fadd(vm.clamp_low(b, y, fconst(0.0)), vm.log1p_exp_minus(b, vm.absolute(b, y)))
    soft = b.fmul(soft, b.fdiv(fconst(1.0), beta))  # the quotient stays outside of loops
    return b.select(b.fcmp_ordered(">", y, threshold), x, soft)


def _elu(b: ir.IRBuilder, x: ir.Value, alpha: ir.Value) -> ir.Value:
    return _positive_or(b, x, b.fmul(vm.expm1_negative(b, x), alpha))


def _selu(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return b.fmul(_elu(b, x, fconst(1.6732632423543772)), fconst(1.0507009873554805))


BODIES: dict[Act, Callable[..., ir.Value]] = {
    Act.NONE: lambda b, x, p0, p1: x,
    Act.RELU: lambda b, x, p0, p1: vm.clamp_low(b, x, fconst(0.0)),
    Act.RELU6: lambda b, x, p0, p1: _between(b, x, 0.0, 6.0),
    Act.CLAMP: lambda b, x, p0, p1: vm.clamp_high(b, vm.clamp_low(b, x, p0), p1),
    Act.SILU: lambda b, x, p0, p1: _silu(b, x),
    Act.HARDSWISH: lambda b, x, p0, p1: _hard_swish(b, x),
    Act.HARDSIGMOID: lambda b, x, p0, p1: _hard_sigmoid(b, x),
    Act.SIGMOID: lambda b, x, p0, p1: vm.sigmoid_inline(b, x),
    Act.GELU: lambda b, x, p0, p1: _gelu(b, x),
    Act.GELU_TANH: lambda b, x, p0, p1: _gelu_tanh(b, x),
    Act.LEAKY_RELU: lambda b, x, p0, p1: _positive_or(b, x, b.fmul(x, p0)),
    Act.ELU: lambda b, x, p0, p1: _elu(b, x, p0),
    Act.TANH: lambda b, x, p0, p1: vm.tanh_inline(b, x),
    Act.MISH: lambda b, x, p0, p1: _mish(b, x),
    Act.SOFTPLUS: lambda b, x, p0, p1: _softplus(b, x, p0, p1),
    Act.SELU: lambda b, x, p0, p1: _selu(b, x),
    Act.ABS: lambda b, x, p0, p1: vm.absolute(b, x),
    Act.EXP: lambda b, x, p0, p1: vm.exp_inline(b, x),
    Act.SQRT: lambda b, x, p0, p1: call_float(b, "sqrt", x),
    Act.NEG: lambda b, x, p0, p1: b.fneg(x),
    Act.SQUARE: lambda b, x, p0, p1: b.fmul(x, x),
    Act.QUICK_GELU: lambda b, x, p0, p1: _silu(b, x, 1.702),
    Act.SOFTSIGN: lambda b, x, p0, p1: b.fdiv(x, b.fadd(fconst(1.0), vm.absolute(b, x))),
    Act.LOG: lambda b, x, p0, p1: vm.log(b, x),
    Act.RECIPROCAL: lambda b, x, p0, p1: b.fdiv(fconst(1.0), x),
}


def over_rows(
    b: ir.IRBuilder,
    act: ir.Value,
    params: tuple[ir.Value, ir.Value],
    table: ir.Value,
    count: ir.Value,
    offset: ir.Value,
    mask: ir.Value | None,
) -> None:
    """Replace a vector in each of ``count >= 1`` rows by its activation.

    A jump table leads to one loop an activation, so that the work of neighbouring rows overlaps;
    unknown codes and NONE do nothing. ``table``: address of the row addresses (bytes), ``offset``:
    bytes added to each. ``mask``: the lanes that exist, or None for all.
    """
    low, high = (splat(b, p) for p in params)
    end = b.append_basic_block("activated")
    switch = b.switch(act, end)
    for code, body in BODIES.items():
        if code is Act.NONE:
            continue
        loop = b.append_basic_block(code.name.lower())
        switch.add_case(i64(int(code)), loop)
        before = b.block
        b.position_at_end(loop)
        i = b.phi(I64)
        place = pointer(b, b.add(b.load(pointer(b, table, i, 8), align=8, typ=I64), offset))
        x = load_vec(b, place) if mask is None else masked_load(b, place, mask)
        y = body(b, x, low, high)
        if mask is None:
            b.store(y, place, align=4)
        else:
            masked_store(b, y, place, mask)
        following = b.add(i, i64(1))
        i.add_incoming(i64(0), before)
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, count), loop, end)
        b.position_at_end(before)
    b.position_at_end(end)


def _switch(b: ir.IRBuilder, code: ir.Value, x: ir.Value, p0: ir.Value, p1: ir.Value) -> ir.Value:
    """Write ``lep_act``: a jump table over the codes; unknown codes are the identity."""
    low, high = splat(b, p0), splat(b, p1)
    end = b.append_basic_block("end")
    switch = b.switch(code, end)
    incoming = [(x, b.block)]
    for act, body in BODIES.items():
        block = b.append_basic_block(act.name.lower())
        switch.add_case(i64(int(act)), block)
        b.position_at_end(block)
        incoming.append((body(b, x, low, high), b.block))
        b.branch(end)
    b.position_at_end(end)
    phi = b.phi(VF)
    for value, block in incoming:
        phi.add_incoming(value, block)
    return phi


def activated(b: ir.IRBuilder, code: ir.Value, x: ir.Value, p0: ir.Value, p1: ir.Value) -> ir.Value:
    """Return activation ``code`` of vector ``x``; ``p0``, ``p1``: its float32 parameters."""
    fn = shared_function(b.module, "lep_act", VF, [I64, VF, F32, F32], _switch)
    return b.call(fn, [code, x, p0, p1])


@intrinsic
def vact(typingctx, code, x, p0, p1):
    """Return activation ``code`` of vector ``x``; ``p0``, ``p1``: its float32 parameters."""

    def build(context, builder, sig, args):
        return activated(builder, *args)

    return vf32(types.int64, vf32, types.float32, types.float32), build


_INF = np.float32(np.inf)
_NONE, _RELU, _RELU6, _CLAMP = int(Act.NONE), int(Act.RELU), int(Act.RELU6), int(Act.CLAMP)


@inline_njit
def clamp_of(act, p0, p1):
    """Return the float32 bounds that an activation is, and whether it is no more than them."""
    if act == _RELU:
        return np.float32(0.0), _INF, True
    if act == _RELU6:
        return np.float32(0.0), np.float32(6.0), True
    if act == _CLAMP:
        return p0, p1, True
    return -_INF, _INF, act == _NONE
