"""The verifier accepts what a Builder makes and names what anything else breaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from strategies import functions

from leptonc.errors import VerifyError
from leptonc.ir.core import Builder, Function, Op, Origin, Value
from leptonc.ir.dims import DimRange, symbol
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.unary import Exp, Relu
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify

X = TensorType(DType.F32, (2, 3))
HERE = Origin("m.act", "net.py:3")


def op(*operands: Value, result: TensorType = X) -> Op:
    return Op(Relu(), operands, (Value(result),), HERE)


def function(*ops: Op, params: tuple[Value, ...], returns: tuple[Value, ...] = ()) -> Function:
    return Function("f", params, ops, returns)


@given(functions())
def test_drawn_functions_verify(f: Function) -> None:
    verify(f)


def refuses(f: Function, says: str) -> None:
    with pytest.raises(VerifyError, match=says):
        verify(f)


def test_use_before_definition() -> None:
    x = Value(X)
    first = op(x)
    refuses(function(op(first.result), first, params=(x,)), r"op 0 \(relu at m.act .*before")


def test_use_of_a_value_of_nobody() -> None:
    refuses(function(op(Value(X, "w")), params=()), r"operand 0 \(w\) is read before")


def test_double_definition() -> None:
    x = Value(X)
    first = op(x)
    refuses(function(first, first, params=(x,)), "made twice")
    refuses(function(Op(Relu(), (x,), (x,)), params=(x,)), "made twice")
    refuses(function(params=(x, x)), "occurs twice")


def test_wrong_types() -> None:
    x = Value(X)
    refuses(function(op(x, result=X.with_shape((3, 2))), params=(x,)), r"f32\[3,2\], inferred")
    refuses(function(op(x, result=X.with_dtype(DType.F64)), params=(x,)), "inferred")
    refuses(function(op(x, x), params=(x,)), "takes 1 operands, got 2")
    whole = Value(X.with_dtype(DType.I64))
    refuses(function(Op(Exp(), (whole,), (Value(whole.type),)), params=(whole,)), "exp")


def test_wrong_number_of_results() -> None:
    x = Value(X)
    refuses(function(Op(Relu(), (x,), ()), params=(x,)), "makes 0 results, 1 inferred")


def test_returns_of_nothing() -> None:
    refuses(function(params=(), returns=(Value(X),)), "never makes")


def test_bad_layouts_and_sizes() -> None:
    refuses(function(params=(Value(TensorType(DType.F32, (2, 3), (0, 0))),)), "layout")
    refuses(function(params=(Value(TensorType(DType.F32, (2, 3), (1,))),)), "layout")
    refuses(function(params=(Value(TensorType(DType.F32, (-1,))),)), "negative")


def test_undeclared_and_repeated_sizes() -> None:
    p = Value(TensorType(DType.F32, (symbol("s"), 2)), "p")
    refuses(function(params=(p,)), r"parameter 0 \(p\).*undeclared size s")
    verify(Function("f", (p,), (), (p,), (DimRange("s"),)))
    refuses(Function("f", (p,), (), (p,), (DimRange("s"), DimRange("s"))), "declared twice")


def test_a_layout_is_no_change_of_type() -> None:
    x = Value(TensorType(DType.F32, (2, 3), (1, 0)))
    verify(function(op(x), params=(x,)))
    verify(function(op(x, result=x.type), params=(x,)))


def test_bodies_of_units_are_verified() -> None:
    p = Value(X)
    body = Function("body", (p,), (bad := op(Value(X)),), bad.results)
    b = Builder("f")
    refuses(b.finish(b(Unit(body), b.param(X))), "body: op 0")


def test_operands_must_fit_the_body_of_a_unit() -> None:
    b = Builder("body")
    body = b.finish(b(Relu(), b.param(X)))
    x = Value(X.with_shape((3, 3)))
    refuses(function(Op(Unit(body), (x,), (Value(X),)), params=(x,)), "does not fit parameter")
