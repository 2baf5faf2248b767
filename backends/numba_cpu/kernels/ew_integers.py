"""numba_cpu > kernels > ew_integers: elementary operations on integers and bools."""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.ew_bodies import Value, compare, element, like, plain, truth
from leptonc.backends.numba_cpu.kernels.ew_loop import Body, Lanes


def pick(kind: str, sign: str) -> Body:
    """Return the body of the larger (``>``) or smaller (``<``) of two integers or bools."""
    test = compare(sign, kind)
    return lambda lanes, x, y: lanes.b.select(test(lanes, x, y), x, y)


def int_relu(lanes: Lanes, x: Value) -> Value:
    """Return ``max(x, 0)``."""
    zero = like(lanes, x, 0)
    return lanes.b.select(lanes.b.icmp_signed("<", x, zero), zero, x)


def int_abs(lanes: Lanes, x: Value) -> Value:
    """Return ``|x|``; the smallest integer stays itself."""
    negative = lanes.b.icmp_signed("<", x, like(lanes, x, 0))
    return lanes.b.select(negative, lanes.b.sub(like(lanes, x, 0), x), x)


def int_sign(lanes: Lanes, x: Value) -> Value:
    """Return -1, 0 or 1."""
    b, zero = lanes.b, like(lanes, x, 0)
    up, down = (b.zext(b.icmp_signed(s, x, zero), x.type) for s in (">", "<"))
    return b.sub(up, down)


def int_not(lanes: Lanes, x: Value) -> Value:
    """Return the complement (of a bool: not)."""
    return lanes.b.not_(x)


def int_clamp(unsigned: bool) -> Body:
    """Return the body of ``min(max(x, p0), p1)``."""

    def body(lanes: Lanes, x: Value) -> Value:
        b = lanes.b
        test = b.icmp_unsigned if unsigned else b.icmp_signed
        low, high = (lanes.param(i, element(x)) for i in range(2))
        x = b.select(test("<", x, low), low, x)
        return b.select(test(">", x, high), high, x)

    return body


def int_divide(name: str, unsigned: bool) -> Body:
    """Return the body of an integer division; the lowering makes sure that no divisor is 0."""

    def body(lanes: Lanes, x: Value, y: Value) -> Value:
        b, zero = lanes.b, like(lanes, x, 0)
        if unsigned:
            return b.urem(x, y) if name in ("remainder", "fmod") else b.udiv(x, y)
        # x / -1 traps for the smallest integer: divide by 1 and negate.
        minus = b.icmp_signed("==", y, like(lanes, x, -1))
        safe = b.select(minus, like(lanes, x, 1), y)
        quotient, rest = b.sdiv(x, safe), b.srem(x, safe)
        quotient = b.select(minus, b.sub(zero, x), quotient)
        signs = b.xor(b.icmp_signed("<", rest, zero), b.icmp_signed("<", y, zero))
        off = b.and_(b.icmp_signed("!=", rest, zero), signs)
        return {
            "trunc_div": lambda: quotient,
            "floor_div": lambda: b.select(off, b.sub(quotient, like(lanes, x, 1)), quotient),
            "fmod": lambda: rest,
            "remainder": lambda: b.select(off, b.add(rest, y), rest),
        }[name]()

    return body


def int_pow(lanes: Lanes, x: Value, y: Value) -> Value:
    """Return ``x ** y`` by squaring (one element); a negative power is 0 unless ``|x| = 1``."""
    b, kind = lanes.b, x.type
    zero, one, minus = (ir.Constant(kind, c) for c in (0, 1, -1))
    before = b.block
    head, work, end = (b.append_basic_block(n) for n in ("pow", "square", "powered"))
    b.branch(head)
    b.position_at_end(head)
    power, base, left = (b.phi(kind) for _ in range(3))
    for phi, start in ((power, one), (base, x), (left, y)):
        phi.add_incoming(start, before)
    b.cbranch(b.icmp_signed(">", left, zero), work, end)
    b.position_at_end(work)
    odd = b.icmp_signed("!=", b.and_(left, one), zero)
    power.add_incoming(b.select(odd, b.mul(power, base), power), work)
    base.add_incoming(b.mul(base, base), work)
    left.add_incoming(b.ashr(left, one), work)
    b.branch(head)
    b.position_at_end(end)
    odd = b.icmp_signed("!=", b.and_(y, one), zero)
    inverse = b.select(b.icmp_signed("==", x, minus), b.select(odd, minus, one), zero)
    inverse = b.select(b.icmp_signed("==", x, one), one, inverse)
    return b.select(b.icmp_signed("<", y, zero), inverse, power)


def int_neg(lanes: Lanes, x: Value) -> Value:
    """Return ``-x``, wrapping."""
    return lanes.b.sub(like(lanes, x, 0), x)


def unsigned_sign(lanes: Lanes, x: Value) -> Value:
    """Return 0 or 1."""
    return lanes.b.zext(truth(lanes, x), x.type)


def falsity(lanes: Lanes, x: Value) -> Value:
    """Return ``x == 0``."""
    return lanes.b.not_(truth(lanes, x))


INT_BINARY: Mapping[str, Body] = {
    "add": plain(lambda b, x, y: b.add(x, y)),
    "sub": plain(lambda b, x, y: b.sub(x, y)),
    "mul": plain(lambda b, x, y: b.mul(x, y)),
    "bitwise_and": plain(lambda b, x, y: b.and_(x, y)),
    "bitwise_or": plain(lambda b, x, y: b.or_(x, y)),
    "bitwise_xor": plain(lambda b, x, y: b.xor(x, y)),
}
