"""numba_cpu > kernels > vecmath: elementary functions on float vectors, written as LLVM IR.

Argument reduction after Cody and Waite. Polynomials and quotients are our own minimax fits:
linearised least squares (Loeb) with Lawson's weights in float64, rounded to float32, then a random
descent over last bits on the error of the float32 evaluation itself. Errors are at most 2 ulp (4
for tanh, 3.5 for sigmoid); inf, NaN, signed zero and denormals behave as in IEEE/C.

Functions named ``*_inline`` write their code where they are called; loops that apply one function
to many vectors want those, because consecutive vectors then overlap. The others call one
out-of-line copy a module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.machine_code import host_features
from leptonc.backends.numba_cpu.kernels.vectype import (
    I16,
    I32,
    LANES,
    VF,
    VI,
    call,
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
LOG2_E = (1.4426950216293335, 1.925963033500011e-08)  # high and low part
EXP2_POLY = (
    1.0,
    0.6931470036506653,
    0.24022242426872253,
    0.05550733581185341,
    0.009671513922512531,
    0.0013264724984765053,
)  # 2**f on [-1/2, 1/2], relative error 9.2e-8, exact at 0
EXP2_POLY_LONG = (
    1.0,
    0.6931471824645996,
    0.24022647738456726,
    0.055503323674201965,
    0.00961843691766262,
    0.0013398875016719103,
    0.00015353360504377633,
)  # the same with relative error 2e-9
LOG1P_POLY = (
    0.9999999403953552,
    -0.4999949336051941,
    0.3331909775733948,
    -0.2484298050403595,
    0.19105994701385498,
    -0.13663217425346375,
    0.07822559028863907,
    -0.02950500324368477,
    0.005232632160186768,
)  # log(1 + e) / e on [0, 1], relative error 3e-8
TANH_LIMIT = 8.819028  # from here on the quotient is exactly 1, with and without fused operations
TANH_TOP = (
    1.0,
    0.13387548923492432,
    0.0035033447202295065,
    2.0737295926664956e-05,
    1.3533883347349729e-08,
)
TANH_BOTTOM = (
    1.0,
    0.46720871329307556,
    0.025906462222337723,
    0.00032983420533128083,
    7.849550911487313e-07,
)  # tanh(x) = x top(x**2) / bottom(x**2)
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


def largest(b: ir.IRBuilder, four: Sequence[ir.Value]) -> ir.Value:
    """Return the largest of four, NaN if one is; a comparison of two finds NaN in either."""
    x, y, z, w = four
    odd = b.or_(b.fcmp_unordered("uno", x, y), b.fcmp_unordered("uno", z, w))
    most = clamp_low(b, clamp_low(b, x, y), clamp_low(b, z, w))
    return b.select(odd, fconst(float("nan")), most)


def minimum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return the smaller, NaN if either is NaN (``torch.minimum``)."""
    return b.select(b.fcmp_unordered("uno", x, x), x, clamp_high(b, y, x))


SCALES = LANES == 16 and "+avx512f" in host_features()  # one instruction for x * 2**n
EXP_ZERO = -110.0 if SCALES else -88.0  # exp_clamped gives 0 here
EXP_INF = 88.9  # and inf here


def _reduce_exp2(b: ir.IRBuilder, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return ``(shifted, n)``: ``y`` rounded to an integer, plus ROUND_MAGIC and as it is."""
    shifted = b.fadd(y, fconst(ROUND_MAGIC))
    return shifted, b.fsub(shifted, fconst(ROUND_MAGIC))


def _reduce_exp_base2(b: ir.IRBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return ``(shifted, n, f)`` with ``x log2(e) = n + f`` and ``|f| <= 1/2``."""
    shifted = fma(b, x, fconst(LOG2_E[0]), fconst(ROUND_MAGIC))
    n = b.fsub(shifted, fconst(ROUND_MAGIC))
    f = fma(b, x, fconst(LOG2_E[0]), b.fneg(n))
    return shifted, n, fma(b, x, fconst(LOG2_E[1]), f)


def _times_power(b: ir.IRBuilder, p: ir.Value, shifted: ir.Value, n: ir.Value) -> ir.Value:
    """Return ``p * 2**n`` for ``-127 <= n <= 128``: 0 and inf at the ends (see EXP_ZERO)."""
    if SCALES:
        mask, rounding = ir.Constant(I16, -1), ir.Constant(I32, 4)
        args = [p, n, fconst(0.0), mask, rounding]
        return call(b, "llvm.x86.avx512.mask.scalef.ps.512", VF, args)
    # The integer stands in the low bits of ``shifted``; as an exponent -127 reads 0 and 128 inf.
    power = b.add(b.shl(b.bitcast(shifted, VI), iconst(23)), iconst(127 << 23))
    return b.fmul(p, b.bitcast(power, VF))


def exp_clamped(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``exp(x)`` for ``EXP_ZERO <= x <= EXP_INF`` or NaN. Inlined; error 2.1 ulp.

    Without AVX-512, results below the normal range are 0, and inf begins at 88.4 instead of 88.7.
    """
    shifted, n, f = _reduce_exp_base2(b, x)
    return _times_power(b, poly(b, f, EXP2_POLY), shifted, n)


def exp2_down(b: ir.IRBuilder, y: ir.Value) -> ir.Value:
    """Return ``2**y`` for ``y <= 0``: 0 from about -127 down (AVX-512: -150); NaN stays. Inlined.

    Relative error 9.2e-8 and the rounding of one polynomial: 2 ulp.
    """
    shifted, n = _reduce_exp2(b, y := clamp_low(b, y, fconst(-152.0 if SCALES else -127.0)))
    return _times_power(b, poly(b, b.fsub(y, n), EXP2_POLY), shifted, n)


def exp2_saturated(b: ir.IRBuilder, y: ir.Value) -> ir.Value:
    """Return ``2**y`` clamped to ``2**-126`` below and inf from 128.3 on; NaN stays. Inlined."""
    y = clamp_high(b, clamp_low(b, y, fconst(-126.0)), fconst(128.3))
    shifted, n = _reduce_exp2(b, y)
    return _times_power(b, poly(b, b.fsub(y, n), EXP2_POLY), shifted, n)


def one_plus_exp_minus(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``1 + exp(-x)``, inf from ``x = -88.7`` down; NaN stays. Inlined."""
    x = clamp_high(b, clamp_low(b, x, fconst(-EXP_INF)), fconst(87.0))
    return b.fadd(fconst(1.0), exp_clamped(b, b.fneg(x)))


def log1p_exp_minus(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``log(1 + exp(-x))`` for ``x >= 0``. Inlined."""
    e = exp_clamped(b, b.fneg(clamp_high(b, x, fconst(-EXP_ZERO))))
    return b.fmul(e, poly(b, e, LOG1P_POLY))


def expm1_negative(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``exp(x) - 1`` for ``x <= 0``, anything finite or inf for others. Inlined."""
    x = clamp_high(b, clamp_low(b, x, fconst(-60.0)), fconst(1.0))
    shifted, n, f = _reduce_exp_base2(b, x)
    scale = _times_power(b, fconst(1.0), shifted, n)
    less = b.fmul(f, poly(b, f, EXP2_POLY_LONG[1:]))
    return fma(b, scale, less, b.fsub(scale, fconst(1.0)))


def tanh_inline(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``tanh(x)``. Inlined."""
    x = clamp_high(b, clamp_low(b, x, fconst(-TANH_LIMIT)), fconst(TANH_LIMIT))
    u = b.fmul(x, x)
    return b.fdiv(b.fmul(x, poly(b, u, TANH_TOP)), poly(b, u, TANH_BOTTOM))


def sigmoid_inline(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``1 / (1 + exp(-x))``, 0 from -88.7 down. Inlined."""
    return b.fdiv(fconst(1.0), one_plus_exp_minus(b, x))


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


def exp_inline(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``exp(x)``. Inlined."""
    x = clamp_high(b, clamp_low(b, x, fconst(-110.0)), fconst(90.0))
    shifted, n, f = _reduce_exp_base2(b, x)
    p = poly(b, f, EXP2_POLY_LONG)
    if SCALES:
        return _times_power(b, p, shifted, n)
    # Read the integer off the mantissa: unlike fptosi this is defined for NaN.
    return _scale(b, p, b.sub(b.bitcast(shifted, VI), iconst(0x4B400000)))


def exp_down(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return ``exp(x)`` for ``x <= 0``, 0 below -88 (AVX-512: -104); NaN stays. Inlined."""
    return exp_clamped(b, clamp_low(b, x, fconst(EXP_ZERO)))


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


def _erf(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    a = absolute(b, x)
    small = fma(b, x, poly(b, b.fmul(x, x), ERF_SMALL), x)
    tail = exp(b, poly(b, clamp_high(b, a, fconst(4.0)), ERF_LARGE))
    large = call_float(b, "copysign", b.fsub(fconst(1.0), tail), x)
    return b.select(b.fcmp_ordered("<", a, fconst(1.0)), small, large)


def _outlined(name: str, body: Callable) -> Callable:
    """Return ``f(builder, x)`` that calls ``body`` as one out-of-line function a module."""

    def emit(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        return b.call(shared_function(b.module, f"lep_{name}", VF, [VF], body), [x])

    emit.__doc__ = f"Return ``{name}(x)`` lane by lane."
    return emit


exp = _outlined("exp", exp_inline)
expm1 = _outlined("expm1", _expm1)
log = _outlined("log", _log)
log1p = _outlined("log1p", _log1p)
tanh = _outlined("tanh", tanh_inline)
erf = _outlined("erf", _erf)
sigmoid = _outlined("sigmoid", sigmoid_inline)
