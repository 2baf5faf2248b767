"""numba_cpu > kernels > vecmath: elementary functions on float vectors, written as LLVM IR.

Argument reduction after Cody and Waite; the polynomials are our own minimax fits (weighted least
squares with Lawson weights). Errors are at most 2 ulp; inf, NaN, signed zero and denormals behave
as in IEEE/C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.vectype import (
    VF,
    VI,
    call_float,
    fconst,
    fma,
    iconst,
    shared_function,
)

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # LN2_HIGH has 9 bits: n * LN2_HIGH is exact
ROUND_MAGIC = (
    12582912.0  # 1.5 * 2**23: adding it rounds to an integer held in the low mantissa bits
)
EXPM1_POLY = (
    0.5,
    0.16666541993618011,
    0.04166628047823906,
    0.008366644382476807,
    0.0013946554390713573,
)
LOG_POLY = (
    0.3333333134651184,
    -0.2500081956386566,
    0.20001226663589478,
    -0.16623356938362122,
    0.14201757311820984,
    -0.13160182535648346,
    0.1276157796382904,
    -0.07634498924016953,
)  # (log(1 + f) - f + f**2 / 2) / f**3 on [sqrt(1/2) - 1, sqrt(2) - 1]
ERF_SMALL = (
    0.12837916709551256,
    -0.3761262595653534,
    0.1128358542919159,
    -0.026853812858462334,
    0.005188327748328447,
    -0.0008010193705558777,
    7.853861461626366e-05,
)  # erf(x) / x - 1 on [0, 1] in powers of x**2
ERF_LARGE = (
    0.00018846799503080547,
    -1.1295802593231201,
    -0.633216381072998,
    -0.10842210054397583,
    0.025210339576005936,
    -0.0042052846401929855,
    0.000441472657257691,
    -2.169761501136236e-05,
)  # log(erfc(x)) on [1, 4]


def poly(b: ir.IRBuilder, x: ir.Value, coefs: Sequence[float]) -> ir.Value:
    """Return ``sum(coefs[i] * x**i)`` by Horner's rule."""
    acc = fconst(coefs[-1])
    for c in reversed(coefs[:-1]):
        acc = fma(b, acc, x, fconst(c))
    return acc


def absolute(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``|x|``."""
    return call_float(b, "fabs", x)


def clamp_low(b: ir.IRBuilder, x: ir.Value, low: ir.Value) -> ir.Value:
    """Return ``max(x, low)``, NaN where ``x`` is NaN (one instruction on x86)."""
    return b.select(b.fcmp_ordered(">", low, x), low, x)


def clamp_high(b: ir.IRBuilder, x: ir.Value, high: ir.Value) -> ir.Value:
    """Return ``min(x, high)``, NaN where ``x`` is NaN."""
    return b.select(b.fcmp_ordered("<", high, x), high, x)


def maximum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return the larger, NaN if either is NaN (``torch.maximum``)."""
    return b.select(b.fcmp_unordered("uno", x, x), x, clamp_low(b, y, x))


def minimum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return the smaller, NaN if either is NaN (``torch.minimum``)."""
    return b.select(b.fcmp_unordered("uno", x, x), x, clamp_high(b, y, x))


def _power_of_two(b: ir.IRBuilder, n: ir.Value) -> ir.Value:
    """Return ``2.0 ** n`` for ``-126 <= n <= 127``."""
    return b.bitcast(b.shl(b.add(n, iconst(127)), iconst(23)), VF)


def _reduce_exp(b: ir.IRBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return ``(n, exp(r) - 1)`` with ``x = n * ln 2 + r`` and ``|r| <= ln(2) / 2``."""
    shifted = fma(b, x, fconst(1.4426950408889634), fconst(ROUND_MAGIC))
    # Read the integer off the mantissa: unlike fptosi this is defined for NaN.
    n = b.sub(b.bitcast(shifted, VI), iconst(0x4B400000))
    nf = b.fsub(shifted, fconst(ROUND_MAGIC))
    r = fma(b, nf, fconst(-LN2_HIGH), x)
    r = fma(b, nf, fconst(-LN2_LOW), r)
    return n, fma(b, b.fmul(r, r), poly(b, r, EXPM1_POLY), r)


def _scale(b: ir.IRBuilder, value: ir.Value, n: ir.Value) -> ir.Value:
    """Return ``value * 2**n`` for ``|n| <= 252``, through denormals and up to inf."""
    half = b.ashr(n, iconst(1))
    first = b.fmul(value, _power_of_two(b, half))
    return b.fmul(first, _power_of_two(b, b.sub(n, half)))


def _exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    x = clamp_high(b, clamp_low(b, x, fconst(-105.0)), fconst(90.0))
    n, em1 = _reduce_exp(b, x)
    return _scale(b, b.fadd(em1, fconst(1.0)), n)


def exp_down(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``exp(x)`` for ``x <= 0``: below the normal range 0; NaN stays. Inlined."""
    n, em1 = _reduce_exp(b, clamp_low(b, x, fconst(-87.3)))
    scale = _power_of_two(b, n)
    result = fma(b, em1, scale, scale)
    return b.select(b.fcmp_ordered("<", x, fconst(-87.3)), fconst(0.0), result)


def _expm1(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    y = clamp_high(b, clamp_low(b, x, fconst(-60.0)), fconst(90.0))
    n, em1 = _reduce_exp(b, y)
    scale = _power_of_two(b, n)
    near = fma(b, scale, em1, b.fsub(scale, fconst(1.0)))
    far = _scale(b, b.fadd(em1, fconst(1.0)), n)
    result = b.select(b.icmp_signed(">", n, iconst(64)), far, near)
    # n = 0 gives em1 itself; x = -0.0 must stay -0.0.
    return b.select(b.fcmp_ordered("==", x, fconst(0.0)), x, result)


def _log(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    tiny = b.fcmp_ordered("<", x, fconst(1.1754943508222875e-38))
    y = b.select(tiny, b.fmul(x, fconst(8388608.0)), x)
    bits = b.bitcast(y, VI)
    # Split so that the mantissa lies in [sqrt(1/2), sqrt(2)).
    offset = b.sub(bits, iconst(0x3F3504F3))
    e = b.ashr(offset, iconst(23))
    m = b.bitcast(b.sub(bits, b.shl(e, iconst(23))), VF)
    e = b.sub(e, b.select(tiny, iconst(23), iconst(0)))
    ef = b.sitofp(e, VF)
    f = b.fsub(m, fconst(1.0))
    f2 = b.fmul(f, f)
    tail = b.fmul(b.fmul(f2, f), poly(b, f, LOG_POLY))
    tail = fma(b, ef, fconst(LN2_LOW), tail)
    tail = fma(b, f2, fconst(-0.5), tail)
    result = fma(b, ef, fconst(LN2_HIGH), b.fadd(f, tail))
    # 0 -> -inf, negative or NaN -> NaN, inf -> inf.
    result = b.select(b.fcmp_ordered("==", x, fconst(0.0)), fconst(float("-inf")), result)
    result = b.select(b.fcmp_ordered("==", x, fconst(float("inf"))), x, result)
    return b.select(b.fcmp_unordered("<", x, fconst(0.0)), fconst(float("nan")), result)


def _log1p(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    w = b.fadd(x, fconst(1.0))
    error = b.fsub(x, b.fsub(w, fconst(1.0)))  # what the rounding of 1 + x lost
    result = b.fadd(log(b, w), b.fdiv(error, w))
    keep = b.or_(
        b.fcmp_ordered("==", w, fconst(1.0)), b.fcmp_ordered("==", x, fconst(float("inf")))
    )
    result = b.select(keep, x, result)
    return b.select(b.fcmp_ordered("==", x, fconst(-1.0)), fconst(float("-inf")), result)


def _tanh(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    a = absolute(b, x)
    em1 = expm1(b, b.fadd(a, a))
    # tanh = em1 / (em1 + 2) = 1 - 2 / (em1 + 2): take the form that does not amplify the rounding
    # of em1.
    far = b.fcmp_ordered(">", a, fconst(0.55))
    quotient = b.fdiv(b.select(far, fconst(-2.0), em1), b.fadd(em1, fconst(2.0)))
    t = b.fadd(b.select(far, fconst(1.0), fconst(0.0)), quotient)
    return call_float(b, "copysign", t, x)


def _erf(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    a = absolute(b, x)
    small = fma(b, x, poly(b, b.fmul(x, x), ERF_SMALL), x)
    tail = exp(b, poly(b, clamp_high(b, a, fconst(4.0)), ERF_LARGE))
    large = call_float(b, "copysign", b.fsub(fconst(1.0), tail), x)
    return b.select(b.fcmp_ordered("<", a, fconst(1.0)), small, large)


def _sigmoid(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    e = exp(b, b.fneg(absolute(b, x)))
    negative = b.fcmp_ordered("<", x, fconst(0.0))
    return b.fdiv(b.select(negative, e, fconst(1.0)), b.fadd(fconst(1.0), e))


def _outlined(name: str, body: Callable) -> Callable:
    """Return ``f(builder, x)`` that calls ``body`` as one out-of-line function a module."""

    def emit(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        return b.call(shared_function(b.module, f"lep_{name}", VF, [VF], body), [x])

    emit.__doc__ = f"Return ``{name}(x)`` lane by lane."
    return emit


exp = _outlined("exp", _exp)
expm1 = _outlined("expm1", _expm1)
log = _outlined("log", _log)
log1p = _outlined("log1p", _log1p)
tanh = _outlined("tanh", _tanh)
erf = _outlined("erf", _erf)
sigmoid = _outlined("sigmoid", _sigmoid)
