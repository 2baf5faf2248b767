"""numba_cpu > kernels > operands: what an expression of a kernel gives, and arithmetic on it.

An operand is known while the code is written (:class:`Known`: numbers, functions, modules, texts),
is computed by the code (:class:`Value`), or is a tuple of operands, which exists only here. Whole
numbers compute with 64 bits, a float32 and a larger whole number with float64, as in numba.
Registers, and whatever else has a type of its own, have the operators of ``language.OPERATORS``.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types, typing
from numba.core.errors import NumbaNotImplementedError

from leptonc.backends.numba_cpu.kernels.language import OPERATORS as REGISTERS
from leptonc.backends.numba_cpu.kernels.language import TARGET
from leptonc.backends.numba_cpu.kernels.syntax import KernelError

I1, I64 = ir.IntType(1), ir.IntType(64)


@dataclass(frozen=True, eq=False)
class Known:
    """An object that is known while the code is written; 1, 1.0 and True are three."""

    value: Any

    @property
    def _key(self) -> tuple[object, ...]:
        sign = repr(self.value) if isinstance(self.value, float | np.generic) else ""
        return type(self.value), self.value, sign

    def __eq__(self, other: object) -> bool:
        """Return whether both are equal and of one type."""
        return isinstance(other, Known) and self._key == other._key

    def __hash__(self) -> int:
        """Return what equal ones share."""
        return hash(self._key)


@dataclass(frozen=True, eq=False)
class Value:
    """What the code computes: numba's type and LLVM's value."""

    type: types.Type
    code: ir.Value


Operand: TypeAlias = "Known | Value | tuple[Operand, ...]"
NOTHING = Known(None)
_SCALARS = (bool, int, float, np.generic)
_TYPES = sorted(types.number_domain, key=str)  # the same order in every process
_OF_NUMPY = {getattr(np, str(t)): t for t in _TYPES if hasattr(np, str(t))}
NUMBER_TYPES: Mapping[object, types.Type] = {
    bool: types.boolean, int: types.int64, float: types.float64, np.bool_: types.boolean,
    **_OF_NUMPY, **{t: t for t in _TYPES}, types.boolean: types.boolean,
}  # fmt: skip

OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.USub: operator.neg,
    ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
_COMPARE = {
    operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">",
    operator.ge: ">=",
}  # fmt: skip
_WHOLE = {
    operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.lshift: "shl",
    operator.and_: "and_", operator.or_: "or_", operator.xor: "xor",
}  # fmt: skip
_DIVISIONS = (operator.floordiv, operator.mod, operator.truediv)
_BITS = (operator.and_, operator.or_, operator.xor)
_FLOAT = {
    operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv",
}  # fmt: skip


def known(value: object) -> Operand:
    """Return the operand of an object; a tuple is one of operands."""
    return tuple(map(known, value)) if isinstance(value, tuple) else Known(value)


def is_number(x: Operand) -> bool:
    """Return whether ``x`` is a number, computed or known."""
    if isinstance(x, Value):
        return isinstance(x.type, types.Number | types.Boolean)
    return isinstance(x, Known) and isinstance(x.value, _SCALARS)


def computed(x: Operand) -> Value:
    """Return ``x`` as what the code computes; a known number is a constant.

    Raises:
        KernelError: it is nothing that code can hold.
    """
    if isinstance(x, Value):
        return x
    if not is_number(x) or isinstance(x, tuple):
        raise KernelError(f"{describe(x)} is no number")
    kind = NUMBER_TYPES[type(x.value)]
    if kind == types.int64 and not -(2**63) <= x.value < 2**63:
        raise KernelError(f"{x.value} takes more than 64 bits")
    plain = x.value.item() if isinstance(x.value, np.generic) else x.value
    return Value(kind, ir.Constant(llvm_type(kind), plain))


def describe(x: Operand) -> str:
    """Return what ``x`` is, for messages."""
    if isinstance(x, tuple):
        return f"({', '.join(map(describe, x))})"
    return str(x.type) if isinstance(x, Value) else repr(x.value)


def llvm_type(kind: types.Type) -> ir.Type:
    """Return what LLVM holds a value of numba's type as."""
    return TARGET.target_context.get_value_type(kind)


def common(a: types.Type, b: types.Type) -> types.Type:
    """Return the type that holds values of both.

    Raises:
        KernelError: there is none.
    """
    if a == b:
        return a
    scalar = types.Number | types.Boolean
    if not isinstance(a, scalar) or not isinstance(b, scalar):
        raise KernelError(f"there is no type for {a} and {b}")
    floats = [t for t in (a, b) if isinstance(t, types.Float)]
    wide = any(isinstance(t, types.Integer) and t.bitwidth > 16 for t in (a, b))
    if floats:
        return types.float64 if wide or types.float64 in floats else types.float32
    signed = [t for t in (a, b) if not isinstance(t, types.Integer) or t.signed]
    if not signed:
        return types.uint64
    if types.uint64 in (a, b):
        raise KernelError(f"{a} and {b}: convert one of them first")
    return types.int64


def cast(b: ir.IRBuilder, x: Operand, to: types.Type) -> Value:
    """Return ``x`` converted to a type as numba converts it.

    Raises:
        KernelError: there is no conversion.
    """
    found = computed(x)
    if found.type == to:
        return found
    try:
        code = TARGET.target_context.cast(b, found.code, found.type, to)
    except NumbaNotImplementedError as error:
        raise KernelError(f"{describe(x)} is no {to}") from error
    return Value(to, code)


def whole(b: ir.IRBuilder, x: Operand) -> Value:
    """Return a whole number as ``int64``.

    Raises:
        KernelError: it is none.
    """
    if not isinstance(computed(x).type, types.Integer):
        raise KernelError(f"{describe(x)} is no whole number")
    return cast(b, x, types.int64)


def truth(b: ir.IRBuilder, x: Operand) -> Known | Value:
    """Return whether ``x`` is true, as ``boolean``."""
    if isinstance(x, tuple):
        return Known(bool(x))
    if isinstance(x, Known):
        return Known(bool(x.value))
    if x.type == types.boolean:
        return x
    return Value(types.boolean, computed(compare(b, operator.ne, x, Known(0))).code)


def unary(b: ir.IRBuilder, op: Callable[..., Any], x: Operand) -> Operand:
    """Return ``op x`` for minus, plus and bits."""
    if isinstance(x, Known) and type(x.value) in (int, float, bool):
        return Known(op(x.value))
    if not is_number(x):
        return _registered(b, op, computed(x))
    value = computed(x)
    if isinstance(value.type, types.Float):
        return value if op is operator.pos else Value(value.type, b.fneg(value.code))
    value = cast(b, value, types.int64)
    how = {operator.neg: b.neg, operator.invert: b.not_, operator.pos: lambda v: v}[op]
    return Value(types.int64, how(value.code))


def binary(b: ir.IRBuilder, op: Callable[..., Any], x: Operand, y: Operand) -> Operand:
    """Return ``x op y``, arithmetic or of bits; known at once if both are.

    Raises:
        KernelError: the operands have no such operator.
    """
    if isinstance(x, tuple) and isinstance(y, tuple) and op is operator.add:
        return x + y
    if _both_plain(x, y) and (op not in _DIVISIONS or _value(y) != 0):
        return Known(op(_value(x), _value(y)))
    if not (is_number(x) and is_number(y)):
        return _registered(b, op, computed(x), computed(y))
    left, right = computed(x), computed(y)
    kind = common(left.type, right.type)
    if isinstance(kind, types.Float) or op is operator.truediv:
        kind = kind if isinstance(kind, types.Float) else types.float64
        if op not in _FLOAT:
            raise KernelError(f"{op.__name__} of {left.type} and {right.type}: whole numbers only")
        return Value(kind, getattr(b, _FLOAT[op])(*(cast(b, v, kind).code for v in (left, right))))
    if kind != types.boolean or op not in _BITS:
        kind = types.int64 if kind == types.boolean or kind.signed else types.uint64
    codes = [cast(b, v, kind).code for v in (left, right)]
    if op in _WHOLE:
        return Value(kind, getattr(b, _WHOLE[op])(*codes))
    if op is operator.rshift:
        return Value(kind, (b.ashr if kind.signed else b.lshr)(*codes))
    return Value(kind, _BY[op](b, kind, *codes))


def compare(b: ir.IRBuilder, op: Callable[..., Any], x: Operand, y: Operand) -> Known | Value:
    """Return ``x op y``, a comparison: a boolean, of registers what is registered."""
    plain = (isinstance(v, Known) and not isinstance(v.value, np.generic) for v in (x, y))
    if all(plain):  # numpy compares a float32 with a float as float32, the code as float64
        return Known(bool(op(_value(x), _value(y))))
    left, right = computed(x), computed(y)
    if not (is_number(left) and is_number(right)):
        return _registered(b, op, left, right)
    kind = common(left.type, right.type)
    if kind == types.boolean or (isinstance(kind, types.Integer) and kind.bitwidth < 64):
        kind = types.int64 if kind == types.boolean or kind.signed else types.uint64
    codes = [cast(b, v, kind).code for v in (left, right)]
    how: Callable[..., ir.Value] = b.icmp_signed
    if isinstance(kind, types.Float):
        how = b.fcmp_unordered if op is operator.ne else b.fcmp_ordered
    elif not kind.signed:
        how = b.icmp_unsigned
    return Value(types.boolean, how(_COMPARE[op], *codes))


def extreme(b: ir.IRBuilder, op: Callable[..., Any], x: Operand, y: Operand) -> Operand:
    """Return ``y if y op x else x``: ``min`` for less, ``max`` for greater."""
    if _both_plain(x, y):
        return y if op(_value(y), _value(x)) else x
    kind = common(computed(x).type, computed(y).type)
    left, right = cast(b, x, kind), cast(b, y, kind)
    chosen = computed(compare(b, op, right, left))
    return Value(kind, b.select(chosen.code, right.code, left.code))


def _both_plain(x: Operand, y: Operand) -> bool:
    """Return whether both are numbers of Python, with which Python computes as the code would."""
    return all(isinstance(v, Known) and type(v.value) in (int, float, bool) for v in (x, y))


def _value(x: Operand) -> Any:
    assert isinstance(x, Known)
    return x.value


def _registered(b: ir.IRBuilder, op: Callable[..., Any], *values: Value) -> Value:
    """Return what an operator gives for registers and other types of our own."""
    found = REGISTERS.find(op, tuple(v.type for v in values))
    if found is None:
        raise KernelError(
            f"kernels know no {op.__name__}({', '.join(str(v.type) for v in values)})"
        )
    kind, write = found
    return Value(kind, write(b, *(v.code for v in values)))


def function_of_math(b: ir.IRBuilder, fn: Callable[..., Any], *args: Operand) -> Value:
    """Return a call of a function of ``math``, of float32 if its arguments are, else of float64.

    Raises:
        KernelError: there is no such function.
    """
    values = [computed(x) for x in args]
    single = bool(values) and all(v.type == types.float32 for v in values)
    kind = types.float32 if single else types.float64
    result = types.int64 if fn in (math.floor, math.ceil, math.trunc) else kind
    write = None
    if getattr(math, getattr(fn, "__name__", ""), None) is fn:
        sig = typing.signature(result, *[kind] * len(values))
        with contextlib.suppress(NotImplementedError):  # how numba says that it has none
            write = TARGET.target_context.get_function(fn, sig)
    if write is None:
        told = ", ".join(str(v.type) for v in values)
        raise KernelError(f"kernels know no {getattr(fn, '__name__', fn)}({told})")
    return Value(result, write(b, [cast(b, v, kind).code for v in values]))


def absolute(b: ir.IRBuilder, x: Operand) -> Value:
    """Return ``abs(x)``."""
    if isinstance(computed(x).type, types.Float):
        return function_of_math(b, math.fabs, x)
    value = whole(b, x)
    negative = computed(compare(b, operator.lt, value, Known(0)))
    return Value(types.int64, b.select(negative.code, b.neg(value.code), value.code))


def operand_of(b: ir.IRBuilder, kind: types.Type, code: ir.Value) -> Operand:
    """Return what a call gave; a tuple of numba's is one of operands, nothing is None."""
    if kind in (types.void, types.none):
        return NOTHING
    if isinstance(kind, types.BaseTuple):
        parts = cgutils.unpack_tuple(b, code, len(kind))
        return tuple(operand_of(b, t, c) for t, c in zip(kind, parts, strict=True))
    return Value(kind, code)


def packed(b: ir.IRBuilder, x: Operand, kind: types.Type) -> ir.Value:
    """Return ``x`` as an argument of numba's type."""
    if isinstance(x, tuple) and isinstance(kind, types.BaseTuple):
        parts = [packed(b, v, t) for v, t in zip(x, kind, strict=True)]
        return TARGET.target_context.make_tuple(b, kind, parts)
    return cast(b, x, kind).code


def type_of(x: Operand) -> types.Type:
    """Return numba's type of an operand that code can hold."""
    return types.Tuple(tuple(map(type_of, x))) if isinstance(x, tuple) else computed(x).type


def looked_up(b: ir.IRBuilder, table: tuple[Operand, ...], place: Value) -> Value:
    """Return the number at a place, counted from the end below 0, of a tuple of known numbers.

    Which place is not checked.

    Raises:
        KernelError: the tuple holds something else, or nothing.
    """
    if not table or not all(isinstance(x, Known) and is_number(x) for x in table):
        raise KernelError("a place that is computed is one in a tuple of known numbers")
    kind = functools.reduce(common, (computed(x).type for x in table))
    codes = [ir.Constant(llvm_type(kind), _value(x)) for x in table]
    data = ir.Constant(ir.ArrayType(codes[0].type, len(codes)), codes)
    held = ir.GlobalVariable(b.module, data.type, b.module.get_unique_name("table"))
    held.linkage, held.global_constant, held.initializer = "internal", True, data
    at = cast(b, place, types.int64).code
    below = b.icmp_signed("<", at, ir.Constant(I64, 0))
    at = b.select(below, b.add(at, ir.Constant(I64, len(codes))), at)
    spot = b.gep(held, [ir.Constant(I64, 0), at])
    return Value(kind, b.load(spot, typ=codes[0].type))


# --- division: rounded down, of the divisor's sign ------------------------------------------------
def _division(b: ir.IRBuilder, kind: types.Type, n: ir.Value, d: ir.Value) -> tuple[ir.Value, ...]:
    """Return quotient and rest, both 0 where ``d`` is."""
    zero = ir.Constant(n.type, 0)
    if isinstance(d, ir.Constant):
        absent = None
        if d.constant == 0:
            return zero, zero
    else:
        absent = b.icmp_signed("==", d, zero)
        d = b.select(absent, ir.Constant(n.type, 1), d)
    if kind.signed:
        quotient, rest = b.sdiv(n, d), b.srem(n, d)
        other = b.icmp_signed("<", b.xor(rest, d), zero)
        inexact = b.and_(b.icmp_signed("!=", rest, zero), other)
        quotient = b.sub(quotient, b.zext(inexact, n.type))
        rest = b.add(rest, b.select(inexact, d, zero))
    else:
        quotient, rest = b.udiv(n, d), b.urem(n, d)
    if absent is None:
        return quotient, rest
    return b.select(absent, zero, quotient), b.select(absent, zero, rest)


_BY: Mapping[Callable[..., Any], Callable[..., ir.Value]] = {
    operator.floordiv: lambda b, kind, n, d: _division(b, kind, n, d)[0],
    operator.mod: lambda b, kind, n, d: _division(b, kind, n, d)[1],
}
