"""Patterns: what matches, what does not, and what is captured."""

from __future__ import annotations

import pytest

from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.binary import Add, Div, Mul, Sub
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.pointwise import Cast, LeakyRelu
from leptonc.ir.kinds.shape import Concat
from leptonc.ir.kinds.unary import Relu, Sigmoid
from leptonc.ir.text import parse
from leptonc.rewrite import Either, Lit, Many, Match, Node, Opt, Var, maybe
from leptonc.rewrite.match import match
from leptonc.rewrite.pattern import inner_nodes

X, Y = Var("x"), Var("y")


def last(text: str, params: str = "%x: f32[2], %y: f32[2]") -> tuple[Function, Op]:
    lines = [line.strip() for line in text.strip().splitlines()]
    name = lines[-1].split(" = ")[0]
    fn = parse("\n".join([f"func @f({params}) {{", *lines, f"return {name}", "}"]))
    return fn, fn.ops[-1]


def found(pattern: Node, text: str, params: str = "%x: f32[2], %y: f32[2]") -> Match | None:
    fn, op = last(text, params)
    return match(pattern, op, fn.producer)


def test_commutative_operands_match_in_either_order() -> None:
    silu = Node(Mul, (X, Node(Sigmoid, (X,))))
    for operands in ("%x, %s", "%s, %x"):
        m = found(silu, f"%s = sigmoid(%x) : f32[2]\n%m = mul({operands}) : f32[2]")
        assert m is not None and m["x"].hint == "x"
    assert found(silu, "%s = sigmoid(%x) : f32[2]\n%m = mul(%y, %s) : f32[2]") is None
    minus = Node(Sub, (X, Node(Sigmoid, (X,))))
    assert found(minus, "%s = sigmoid(%x) : f32[2]\n%m = sub(%s, %x) : f32[2]") is None


def test_backtracking_reaches_into_nested_choices() -> None:
    """The first order of the inner product must be given up again for the outer to match."""
    pattern = Node(Mul, (Node(Mul, (X, Y)), X))
    m = found(pattern, "%a = mul(%y, %x) : f32[2]\n%b = mul(%x, %a) : f32[2]")
    assert m is not None and (m["x"].hint, m["y"].hint) == ("x", "y")


@pytest.mark.parametrize(
    ("value", "want", "hit"),
    [("0.0", 0.0, True), ("-0.0", 0.0, False), ("-0.0", -0.0, True), ("nan", float("nan"), True),
     ("0.70710678", 0.5**0.5, False)],
)  # fmt: skip
def test_literals_compare_by_bits(value: str, want: float, hit: bool) -> None:
    text = f"%c = full{{shape=(), value={value}, dtype=f32}}() : f32[]\n%a = add(%x, %c) : f32[2]"
    assert (found(Node(Add, (X, Lit(want))), text) is not None) is hit
    loose = found(Node(Add, (X, Lit(want, rtol=1e-6))), text)
    assert value == "nan" or (loose is not None) is (hit or value != "1")


def test_literals_of_symbolic_size_never_match() -> None:
    fn = parse("""
func @f(%x: i64[n]; n in [1, 8]) {
  %c = full{shape=(), value=n, dtype=i64}() : i64[]
  %a = add(%x, %c) : i64[n]
  return %a
}""")
    assert match(Node(Add, (X, Lit())), fn.ops[-1], fn.producer) is None


def test_optional_and_many_operands() -> None:
    params = "%x: f32[2,3], %w: f32[4,3], %b: f32[4]"
    p = Node(Linear, (X, Var("w"), Opt(Var("b"))))
    with_bias = found(p, "%a = linear(%x, %w, %b) : f32[2,4]", params)
    without = found(p, "%a = linear(%x, %w) : f32[2,4]", params)
    assert with_bias is not None and with_bias.get("b") is not None
    assert without is not None and without.get("b") is None
    m = found(Node(Concat, (Many("xs"),)), "%a = concat{axis=0}(%x, %y, %x) : f32[6]")
    assert m is not None and [v.hint for v in m.lists["xs"]] == ["x", "y", "x"]


def test_either_maybe_where_and_kinds() -> None:
    p = Node(Div, (maybe(Cast, Node((Relu, Sigmoid), (X,), "f")), Y))
    for text in ("%a = relu(%x) : f32[2]", "%a = sigmoid(%x) : f32[2]",
                 "%r = relu(%x) : f32[2]\n%a = cast{dtype=f32}(%r) : f32[2]"):  # fmt: skip
        assert found(p, f"{text}\n%d = div(%a, %y) : f32[2]") is not None
    half = Node(LeakyRelu, (X,), where=lambda k: k.slope == 0.5)
    assert found(half, "%a = leaky_relu{slope=0.5}(%x) : f32[2]") is not None
    assert found(half, "%a = leaky_relu{slope=0.1}(%x) : f32[2]") is None
    assert len(inner_nodes(p)) == 4
    assert inner_nodes(Opt(Either((X, half)))) == (half,)


def test_captures_are_typed() -> None:
    m = found(Node(Relu, (X,), "r"), "%a = relu(%x) : f32[2]")
    assert m is not None and m.kind("r", Relu) == Relu()
    with pytest.raises(TypeError):
        m.kind("r", Sigmoid)
