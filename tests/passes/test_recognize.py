"""``recognize``: its rules' laws, and whole patterns as models write them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies.rule_checks import check_law, firing_instance

from leptonc import meaning
from leptonc.ir.core import Builder, Function, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Attention, Linear, Matmul
from leptonc.ir.kinds.data import Constant, scalar
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.kinds.pointwise import Where
from leptonc.ir.kinds.shape import Transpose
from leptonc.ir.text import parse
from leptonc.ir.types import DType, TensorType
from leptonc.passes.fold_constants import FoldConstants
from leptonc.passes.recognize import RULES, Recognize
from leptonc.passes.rules import ALL_RULES, clamps
from leptonc.passes.simplify import Simplify
from leptonc.rewrite import Rule, Trace

OWN = [r for r in RULES if r in ALL_RULES and r not in clamps.RULES]
BY_HAND = {"attention-causal", "linear-constant"}  # they need a constant: see below
each_rule = pytest.mark.parametrize("rule", OWN, ids=lambda r: r.name)


@each_rule
@settings(suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rule_keeps_its_law(rule: Rule, data: st.DataObject) -> None:
    check_law(rule, data)


@each_rule
def test_rule_can_fire(rule: Rule) -> None:
    firing_instance(rule)


def test_no_rule_is_untested() -> None:
    assert {r.name for r in RULES} - {r.name for r in ALL_RULES} == BY_HAND


# ----- rules on constants -------------------------------------------------------------------------


def constant(b: Builder, t: torch.Tensor) -> Value:
    return b(Constant(meaning.const_of(t)))


def agree(before: Function, after: Function, *args: torch.Tensor) -> None:
    for want, got in zip(meaning.run(before, *args), meaning.run(after, *args), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_a_product_with_a_constant_matrix_becomes_a_linear() -> None:
    b = Builder("f")
    x = b.param(TensorType(DType.F32, (2, 3, 4)))
    y = b(Matmul(), x, constant(b, torch.randn(4, 5)))
    fn = b.finish(b(Add(), y, constant(b, torch.randn(5))))
    after = FoldConstants()(Recognize()(fn))
    assert [op.kind.NAME for op in after.ops] == ["constant", "constant", "linear"]
    agree(fn, after, torch.randn(2, 3, 4))


def attention(mask: torch.Tensor, fill: float | None) -> Function:
    b = Builder("f")
    q, k, v = (b.param(TensorType(DType.F32, (2, 6, 8)), n) for n in "qkv")
    s = b(Mul(), b(Matmul(), q, b(Transpose((0, 2, 1)), k)), scalar(b, 0.3, DType.F32))
    m = constant(b, mask)
    branch = () if fill is None else (s, scalar(b, fill, DType.F32))
    masked = b(Where(), m, *branch) if branch else b(Add(), s, m)
    return b.finish(b(Matmul(), b(Softmax(2), masked), v))


def raised(fn: Function) -> Function:
    for pass_ in (Recognize(), FoldConstants(), Simplify(), Recognize(), Simplify()):
        fn = pass_(fn)
    return fn


@pytest.mark.parametrize("fill", [-math.inf, torch.finfo(torch.float32).min, -1e32, None])
def test_a_causal_mask_is_found(fill: float | None) -> None:
    lower = torch.ones(6, 6).tril().bool()
    mask = lower if fill is not None else torch.zeros(6, 6).masked_fill(~lower, -math.inf)
    fn = attention(mask, fill)
    (op,) = raised(fn).ops
    assert op.kind == Attention(0.3, causal=True) and op.operands == fn.params
    agree(fn, raised(fn), *(torch.randn(2, 6, 8) for _ in range(3)))


def test_a_mask_that_is_nearly_causal_stays() -> None:
    mask = torch.ones(6, 6).tril().bool()
    mask[5, 0] = False
    fn = attention(mask, -math.inf)
    after = raised(fn)
    assert after.ops[-1].kind == Attention(0.3) and len(after.ops[-1].operands) == 4
    agree(fn, after, *(torch.randn(2, 6, 8) for _ in range(3)))


@pytest.mark.parametrize("fill", [-math.inf, None])
def test_a_row_that_is_lost_wholly_is_nan_as_written_out(fill: float | None) -> None:
    mask = torch.ones(6, 6).bool()
    mask[2] = False
    added = torch.zeros(6, 6).masked_fill(~mask, -math.inf)
    fn = attention(mask if fill is not None else added, fill)
    after = raised(fn)
    assert after.ops[-1].kind == Attention(0.3, nan_rows=True)
    agree(fn, after, *(torch.randn(2, 6, 8) for _ in range(3)))


def test_a_mask_that_no_constant_shows_may_lose_rows() -> None:
    b = Builder("f")
    q, k, v = (b.param(TensorType(DType.F32, (2, 6, 8)), n) for n in "qkv")
    mask = b.param(TensorType(DType.F32, (6, 6)), "mask")
    s = b(Add(), b(Matmul(), q, b(Transpose((0, 2, 1)), k)), mask)
    fn = b.finish(b(Matmul(), b(Softmax(2), s), v))
    after = Simplify()(Recognize()(fn))
    assert after.ops[-1].kind == Attention(1.0, nan_rows=True)
    lost = torch.randn(6, 6)
    lost[1] = -math.inf
    agree(fn, after, *(torch.randn(2, 6, 8) for _ in range(3)), lost)


def test_fills_that_scores_could_reach_are_no_masks() -> None:
    fn = attention(torch.ones(6, 6).tril().bool(), -1e4)
    assert Recognize()(fn) is fn


# ----- whole patterns -----------------------------------------------------------------------------


def test_attention_weights_that_are_returned_keep_the_pattern() -> None:
    fn = parse("""
func @f(%q: f32[2,4,8], %k: f32[2,8,5], %v: f32[2,5,6]) {
  %s = matmul(%q, %k) : f32[2,4,5]
  %p = softmax{axis=2}(%s) : f32[2,4,5]
  %o = matmul(%p, %v) : f32[2,4,6]
  return %o, %p
}""")
    trace = Trace("t")
    assert Recognize().run(fn, trace) is fn
    assert trace.remarks[0].reason == "%p is also read by the caller"


def test_norms_take_their_weights() -> None:
    fn = parse("""
func @f(%x: f32[2,6], %w: f32[6], %b: f32[6]) {
  %two = full{shape=(), value=2.0, dtype=f32}() : f32[]
  %eps = full{shape=(), value=1e-06, dtype=f32}() : f32[]
  %m = mean{axes=(1,), keepdim=True}(%x) : f32[2,1]
  %d = sub(%x, %m) : f32[2,6]
  %p = pow(%d, %two) : f32[2,6]
  %v = mean{axes=(1,), keepdim=True}(%p) : f32[2,1]
  %e = add(%v, %eps) : f32[2,1]
  %s = sqrt(%e) : f32[2,1]
  %n = div(%d, %s) : f32[2,6]
  %a = mul(%w, %n) : f32[2,6]
  %r = add(%a, %b) : f32[2,6]
  return %r
}""")
    (op,) = Recognize()(fn).ops
    assert str(op.kind.attributes) == "{'axes': 1, 'eps': 1e-06, 'affine': 'both'}"
    assert op.operands == fn.params
    (again,) = Recognize()(Simplify()(fn)).ops
    assert again.kind == op.kind, "simplify writes the square as a product first"


def test_gelu_of_gpt2_is_found_before_and_after_simplify() -> None:
    c = math.sqrt(2 / math.pi)
    fn = parse(f"""
func @f(%x: f32[9]) {{
  %half = full{{shape=(), value=0.5, dtype=f32}}() : f32[]
  %three = full{{shape=(), value=3.0, dtype=f32}}() : f32[]
  %k = full{{shape=(), value=0.044715, dtype=f32}}() : f32[]
  %c = full{{shape=(), value={c}, dtype=f32}}() : f32[]
  %one = full{{shape=(), value=1.0, dtype=f32}}() : f32[]
  %h = mul(%x, %half) : f32[9]
  %p = pow(%x, %three) : f32[9]
  %q = mul(%p, %k) : f32[9]
  %s = add(%x, %q) : f32[9]
  %t = mul(%s, %c) : f32[9]
  %u = tanh(%t) : f32[9]
  %v = add(%u, %one) : f32[9]
  %r = mul(%h, %v) : f32[9]
  return %r
}}""")
    for start in (fn, Simplify()(fn)):
        (op,) = Recognize()(start).ops
        assert op.kind.NAME == "gelu" and op.kind.attributes == {"tanh": True}


def test_recognition_is_idempotent() -> None:
    body = "%y = linear(%x, %w) : f32[2,4]\nreturn %y"
    fn = parse(f"func @f(%x: f32[2,3], %w: f32[4,3]) {{\n{body}\n}}")
    assert Recognize()(fn) is fn and fn.ops[0].kind == Linear()
