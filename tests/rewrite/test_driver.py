"""The sweep driver: identity, fixed points, guards, origins, cost."""

from __future__ import annotations

import time

import pytest

from leptonc.ir.core import Builder, Origin
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.unary import Abs, Neg, Relu, Sigmoid, Silu
from leptonc.ir.text import dump, parse
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.rewrite import (
    Exactness,
    Node,
    NoFixedPoint,
    RemarkKind,
    Rule,
    Skip,
    Trace,
    Var,
    drop_dead,
    rewrite,
)

X = Var("x")
RELU = Rule("relu-relu", "relu(relu(x)) = relu(x)", Exactness.BITWISE,
            Node(Relu, (Node(Relu, (X,), "in"),)), lambda m, b: m["in"])  # fmt: skip
SILU = Rule("silu", "x * sigmoid(x) = silu(x)", Exactness.REASSOC,
            Node(Mul, (X, Node(Sigmoid, (X,), once=True))),
            lambda m, b: b(Silu(), m["x"]))  # fmt: skip
TEXT = """\
func @f(%x: f32[2]) {
  %s = sigmoid(%x) : f32[2]  // gate (net.py:3)
  %m = mul(%x, %s) : f32[2]  // act (net.py:4)
  %n = neg(%m) : f32[2]  // out (net.py:5)
  return %n
}"""


def test_nothing_to_do_returns_the_same_object() -> None:
    fn = parse(TEXT)
    assert rewrite(fn, (RELU,), Trace()) is fn


def test_name_and_origin_of_the_root_survive() -> None:
    fn = parse(TEXT)
    after = rewrite(fn, (SILU,), Trace())
    verify(after)
    assert (
        dump(after)
        == """\
func @f(%x: f32[2]) {
  %m = silu(%x) : f32[2]  // act (net.py:4)
  %n = neg(%m) : f32[2]  // out (net.py:5)
  return %n
}"""
    )
    assert dump(fn) == TEXT, "the input is never touched"
    assert after.ops[-1] is fn.ops[-1], "what no rule touches is not copied"


def test_a_second_reader_trips_the_guard() -> None:
    """``once`` is live: the same graph with one more reader is skipped, and says why."""
    fn = parse(TEXT.replace("%n = neg(%m)", "%n = add(%m, %s)"))
    trace = Trace("test")
    assert rewrite(fn, (SILU,), trace) is fn
    (remark,) = trace.remarks
    assert remark.kind is RemarkKind.MISSED and remark.rule == "silu"
    assert remark.reason == "%s is also read by out (add %n)"
    assert "act (net.py:4)" in str(remark)


def test_a_refusal_that_a_later_sweep_takes_back_is_not_told() -> None:
    """The other reader dies behind the refused op: the next sweep rewrites that after all."""
    drop = Rule("drop", "x + |y| = x", Exactness.BITWISE,
                Node(Add, (X, Node(Abs, (Var("y"),)))), lambda m, b: m["x"])  # fmt: skip
    fn = parse("""
func @f(%x: f32[2]) {
  %s = sigmoid(%x) : f32[2]
  %m = mul(%x, %s) : f32[2]
  %t = abs(%s) : f32[2]
  %o = add(%m, %t) : f32[2]
  return %o
}""")
    trace = Trace("test")
    assert len(rewrite(fn, (SILU, drop), trace).ops) == 1
    assert {r.kind for r in trace.remarks} == {RemarkKind.APPLIED}


def test_a_returned_value_trips_the_guard() -> None:
    fn = parse(TEXT.replace("return %n", "return %n, %s"))
    trace = Trace("test")
    assert rewrite(fn, (SILU,), trace) is fn
    assert trace.remarks[0].reason == "%s is also read by the caller"


def test_two_reads_inside_the_match_are_one_reader() -> None:
    double = Rule("d", "relu(x) + relu(x) = |x|", Exactness.BITWISE,
                  Node(Add, (Node(Relu, (X,), "r", once=True), Var("r"))),
                  lambda m, b: b(Abs(), m["x"]))  # fmt: skip
    body = "%r = relu(%x) : f32[2]\n%a = add(%r, %r) : f32[2]\nreturn %a"
    fn = parse(f"func @f(%x: f32[2]) {{\n{body}\n}}")
    assert rewrite(fn, (double,), Trace()) is not fn


def test_guards_see_what_earlier_rewrites_freed() -> None:
    """The second reader dies in the same sweep, so the guard lets the rule through."""
    fn = parse("""
func @f(%x: f32[2]) {
  %s = sigmoid(%x) : f32[2]
  %a = relu(%s) : f32[2]
  %b = relu(%a) : f32[2]
  %m = mul(%x, %s) : f32[2]
  return %m
}""")
    assert len(rewrite(drop_dead(fn), (SILU, RELU), Trace()).ops) == 1


def test_a_skip_leaves_no_trace_in_the_function() -> None:
    def build(m, b):
        b(Neg(), m["x"])
        return Skip("not today")

    rule = Rule("never", "relu(x) = ?", Exactness.BITWISE, Node(Relu, (X,)), build)
    fn = parse("func @f(%x: f32[2]) {\n%r = relu(%x) : f32[2]\nreturn %r\n}")
    trace = Trace("test")
    assert rewrite(fn, (rule,), trace) is fn
    assert [r.reason for r in trace.remarks] == ["not today"]


def test_a_replacement_of_another_type_is_refused() -> None:
    rule = Rule("wrong", "x + y = x", Exactness.BITWISE, Node(Add, (X, Var("y"))),
                lambda m, b: m["x"])  # fmt: skip
    fn = parse("func @f(%x: f32[1], %y: f32[2]) {\n%a = add(%x, %y) : f32[2]\nreturn %a\n}")
    trace = Trace("test")
    assert rewrite(fn, (rule,), trace) is fn
    assert "f32[1], not f32[2]" in trace.remarks[0].reason


def test_rules_that_undo_each_other_are_named() -> None:
    there = Rule("there", "relu = sigmoid", Exactness.BITWISE, Node(Relu, (X,)),
                 lambda m, b: b(Sigmoid(), m["x"]))  # fmt: skip
    back = Rule("back", "sigmoid = relu", Exactness.BITWISE, Node(Sigmoid, (X,)),
                lambda m, b: b(Relu(), m["x"]))  # fmt: skip
    fn = parse("func @f(%x: f32[2]) {\n%r = relu(%x) : f32[2]\nreturn %r\n}")
    with pytest.raises(NoFixedPoint, match=r"3 sweeps \(back, there\)"):
        rewrite(fn, (there, back), Trace(), max_sweeps=3)


def test_the_trace_counts_what_fired() -> None:
    trace = Trace("test")
    rewrite(parse(TEXT), (SILU,), trace)
    assert trace.fired == {"silu": 1}
    assert str(trace.remarks[0]) == (
        "test/silu applied: mul %m at act (net.py:4): x * sigmoid(x) = silu(x)"
    )


def chain(n: int):
    b = Builder("chain")
    x = b.param(TensorType(DType.F32, (4,)), "x")
    v = x
    for i in range(n // 4):
        s = b(Sigmoid(), v, origin=Origin(f"layer{i}"))
        v = b(Neg(), b(Relu(), b(Mul(), v, s)))
    return b.finish(v)


def test_cost_grows_linearly() -> None:
    def seconds(n: int) -> float:
        fn, best = chain(n), 9e9
        for _ in range(3):
            start = time.perf_counter()
            rewrite(fn, (SILU, RELU), Trace())
            best = min(best, time.perf_counter() - start)
        return best

    small, large = seconds(1000), seconds(8000)
    assert large < 8 * small * 3 + 0.05
