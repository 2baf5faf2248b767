"""The text form reads back: functions, constants, units, symbols, origins."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import applications, functions
from strategies.kinds import COVERED

from leptonc.errors import InferError, ParseError
from leptonc.ir.constants import ConstantStore
from leptonc.ir.core import Builder, Function, Kind, Op, Origin, Value
from leptonc.ir.dims import DimRange, symbol
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.region import Arg, TorchOp, Unit
from leptonc.ir.kinds.shape import Concat, Reshape, Slice
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.text import constants, dump, parse, value_names
from leptonc.ir.types import DType, TensorType, parse_type
from leptonc.ir.verify import verify
from leptonc.meaning import const_of

S = symbol("s")
X = TensorType(DType.F32, (2, 3))


def same(a: Function, b: Function) -> bool:
    """Return whether two functions are equal up to the identity and hints of values."""
    if (a.name, a.dims, len(a.ops)) != (b.name, b.dims, len(b.ops)):
        return False
    pairs: dict[Value, Value] = {}

    def match(xs: tuple[Value, ...], ys: tuple[Value, ...], new: bool) -> bool:
        if new:
            pairs.update(zip(xs, ys, strict=True))
        return len(xs) == len(ys) and all(
            pairs[x] is y and x.type == y.type for x, y in zip(xs, ys, strict=True)
        )

    def kinds(p: Op, q: Op) -> bool:
        if isinstance(p.kind, Unit) and isinstance(q.kind, Unit):
            names = (p.kind.name, p.kind.pattern) == (q.kind.name, q.kind.pattern)
            return names and same(p.kind.body, q.kind.body)
        return p.kind == q.kind

    return (
        match(a.params, b.params, True)
        and all(
            kinds(p, q)
            and p.origin == q.origin
            and match(p.operands, q.operands, False)
            and match(p.results, q.results, True)
            for p, q in zip(a.ops, b.ops, strict=True)
        )
        and match(a.returns, b.returns, False)
    )


def round_trips(f: Function) -> None:
    text = dump(f)
    again = parse(text, constants(f))
    verify(again)
    assert same(f, again)
    assert dump(again) == text


@given(functions())
def test_drawn_functions_read_back(f: Function) -> None:
    round_trips(f)


@given(st.data())
@pytest.mark.parametrize("cls", COVERED, ids=lambda k: k.NAME)
def test_every_kind_reads_back(cls: type[Kind], data: st.DataObject) -> None:
    kind, types = data.draw(applications(cls))
    b = Builder("f")
    round_trips(b.finish(*b.emit(kind, *map(b.param, types))))


def test_documented_form() -> None:
    b = Builder("f", dims=(DimRange("b", 1, 64),))
    x = b.param(TensorType(DType.F32, (symbol("b"), 3)), "x")
    y = b(Relu(), x, origin=Origin("act", "net.py:12"), hint="y")
    b(Full((2,), -0.0, DType.F32))
    assert dump(b.finish(y)).splitlines() == [
        "func @f(%x: f32[b,3]; b in [1, 64]) {",
        "  %y = relu(%x) : f32[b,3]  // act (net.py:12)",
        "  %2 = full{shape=(2,), value=-0.0, dtype=f32}() : f32[2]",
        "  return %y",
        "}",
    ]


def test_symbols_constants_units_and_origins_read_back() -> None:
    inner = Builder("body", dims=(DimRange("s", 1, None),))
    p = inner.param(TensorType(DType.F32, (S, 3)), "p")
    unit = Unit(inner.finish(inner(Relu(), p, origin=Origin("a.b"))), "relu_0", "chain")
    b = Builder("outer", dims=(DimRange("s", 1, None),))
    x = b.param(TensorType(DType.F32, (S, 3)), "x")
    c = b(Constant(const_of(torch.rand(1, 3))))
    y = b(Add(), x, c, origin=Origin("enc.layers[0]", "<string>:3"))
    z = b(unit, y, origin=Origin("", "it's (odd).py:1"))
    joined = b(Concat(0), z, y, b(Slice(0, 1, S), z))
    w = b(Reshape((9 * S - 3,)), joined)
    round_trips(b.finish(w, z))


def test_opaque_calls_read_back() -> None:
    b = Builder("f")
    x = b.param(X, "x")
    args = ((Arg(0), None), "a, {b}  // c", DType.F16, 1.5, True, ("x",), (S,))
    kind = TorchOp("aten.foo.default", args, (("k", (1, 2)), ("memory_format", "p")), (X, X))
    f = b.finish(*b.emit(kind, x), *b.emit(TorchOp("aten.effect.default", (), (), ())))
    f = Function(f.name, f.params, f.ops, f.returns, (DimRange("s"),))
    round_trips(f)


def test_layouts_read_back() -> None:
    b = Builder("f")
    x = b.param(parse_type("f32[1,2,3,4]@0231"), "x")
    b.append(op := Op(Relu(), (x,), (Value(x.type),)))
    round_trips(b.finish(op.result))


def test_equal_hints_print_as_different_names() -> None:
    b = Builder("f")
    x = b.param(X, "a")
    y = b(Relu(), b(Relu(), x, hint="a"), hint="a_1")
    z = b(Relu(), y, hint="layer.0/relu")
    f = b.finish(z, x)
    assert len(set(value_names(f).values())) == 4
    assert value_names(f)[z] == "%layer_0_relu"
    round_trips(f)


def test_dump_can_leave_origins_out() -> None:
    b = Builder("f", origin=Origin("m"))
    f = b.finish(b(Relu(), b.param(X)))
    assert "//" in dump(f)
    assert "//" not in dump(f, origins=False)


def test_store_resolves_prefixes() -> None:
    store, c, d = ConstantStore(), const_of(torch.ones(2)), const_of(torch.zeros(2))
    assert store.add(c) is c
    store.add(d)
    assert store.add(const_of(torch.ones(2))) is c
    for n in (5, 16, 40, 64):
        assert store[c.digest[:n]] is c
    assert "" not in store
    assert "feed" * 4 not in store
    assert len(store) == 2


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", ParseError, "ends inside"),
        ("func f() {", ParseError, "expected 'func"),
        ("func @f() {\n  %0 = nope() : f32[]\n  return\n}", ParseError, "line 2: not an op"),
        ("func @f(%x: f32[2]) {\n  return %y\n}", ParseError, "%y is read before"),
        ("func @f(%x: f32[2]) {\n  %1 = relu(%x) : f32[3]\n  return\n}", ParseError, "makes f32"),
        ("func @f(%x: i64[2]) {\n  %1 = exp(%x) : i64[2]\n  return\n}", InferError, "line 2"),
        ("func @f(%x: f32[2]) {\n  %1 = relu{a=1}(%x) : f32[2]\n  return\n}", ParseError, "relu"),
        ("func @f() {\n  return\n}\nmore", ParseError, "after the function"),
        ("func @f(; s in 1) {\n  return\n}", ParseError, "name in"),
        ("func @f() {\n  return", ParseError, "ends inside"),
        ("func @f(%x: f32[2]) {\n %1, %2 = relu(%x) : f32[2]\n return\n}", ParseError, "2 names"),
    ],
)
def test_bad_text_is_refused_with_its_line(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        parse(text)
