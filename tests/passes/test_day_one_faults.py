"""Ten faults that compilers of this kind are born with. (The tenth, a shared weight folded for one
user, is in ``test_fold_batchnorm``.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from strategies.rule_checks import firing_instance

from leptonc import meaning
from leptonc.errors import PipelineError, VerifyError
from leptonc.ir.core import Builder, Function, Kind, Op, Value
from leptonc.ir.kinds.binary import Add, Div
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.pointwise import Clamp, LeakyRelu
from leptonc.ir.kinds.region import TorchOp
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.text import dump, parse
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.passes.cse import Cse
from leptonc.passes.dce import Dce
from leptonc.passes.fold_constants import FoldConstants
from leptonc.passes.rules import ALL_RULES
from leptonc.passes.simplify import Simplify
from leptonc.pipeline import Pass, PassManager
from leptonc.rewrite import RemarkKind, Rule, Trace, rewrite
from leptonc.rewrite.pattern import inner_nodes

F2 = TensorType(DType.F32, (2,))
EVERYTHING = Simplify(signed_zeros=False, reassociate=True)
RANDOM = TorchOp("aten.rand.default", ((2,),), (), (F2,), pure=False)


def test_1_use_before_definition() -> None:
    x, a, c = Value(F2), Value(F2), Value(F2)
    late = Op(Relu(), (x,), (a,))
    early = Op(Relu(), (a,), (c,))
    with pytest.raises(VerifyError, match="before it is made"):
        verify(Function("f", (x,), (early, late), (c,)))


@pytest.mark.parametrize(
    ("top", "bottom", "want"),
    [(float("nan"), 0.0, "nan"), (1.0, -0.0, "-inf"), (1.0, 0.0, "inf"), (0.0, 0.0, "nan"),
     (-0.0, 1.0, "-0.0")],
)  # fmt: skip
def test_2_folding_nan_over_zero_and_one_over_minus_zero(top, bottom, want) -> None:
    b = Builder("f")
    q = b(Div(), b(Full((), top, DType.F32)), b(Full((), bottom, DType.F32)))
    folded = FoldConstants()(b.finish(q))
    (op,) = folded.ops
    assert isinstance(op.kind, Full) and repr(op.kind.value) == want


@pytest.mark.parametrize("expression", ["mul(%x, %z)", "div(%x, %x)", "sub(%x, %x)"])
def test_3_what_nan_and_inf_forbid_is_no_rule(expression: str) -> None:
    fn = parse(f"""
func @f(%x: f32[2]) {{
  %z = full{{shape=(), value=0.0, dtype=f32}}() : f32[]
  %y = {expression} : f32[2]
  %r = add(%y, %z) : f32[2]
  return %y
}}""")
    after = EVERYTHING(fn)
    x = torch.tensor([float("nan"), float("inf")])
    (y,) = meaning.run(after, x)
    assert torch.isnan(y).all()


def test_4_random_ops_are_never_merged_nor_dropped() -> None:
    b = Builder("f")
    first, second, _unread = b(RANDOM), b(RANDOM), b(RANDOM)
    fn = b.finish(b(Add(), first, second))
    for pass_ in (Cse(), Dce(), EVERYTHING, FoldConstants()):
        assert pass_(fn) is fn, pass_
    pure = TorchOp("aten.ones.default", ((2,),), (), (F2,))
    b = Builder("g")
    merged = Cse()(b.finish(b(Add(), b(pure), b(pure))))
    assert len(merged.ops) == 2


def test_5_an_op_without_operands_is_constant_only_if_pure() -> None:
    b = Builder("f")
    fn = b.finish(b(Relu(), b(RANDOM)))
    assert FoldConstants()(fn) is fn
    b = Builder("g")
    pure = TorchOp("aten.ones.default", ((2,),), (), (F2,))
    (op,) = FoldConstants()(b.finish(b(Relu(), b(pure)))).ops
    assert isinstance(op.kind, (Constant, Full))


GUARDED = [r for r in ALL_RULES if any(n.once for n in inner_nodes(r.lhs)) or r.once]


@pytest.mark.parametrize("rule", GUARDED, ids=lambda r: r.name)
def test_6_guards_against_other_readers_are_live(rule: Rule) -> None:
    """An instance that fires no longer does once every inner value is returned as well."""
    fn = firing_instance(rule)
    inner = tuple(op.result for op in fn.ops if op.result not in fn.returns)
    kept = Function(fn.name, fn.params, fn.ops, (*fn.returns, *inner), fn.dims)
    trace = Trace("test")
    assert rewrite(kept, (rule,), trace, 16) is kept
    missed = [r for r in trace.remarks if r.kind is RemarkKind.MISSED and r.rule == rule.name]
    assert missed and "is also read by" in missed[0].reason


@dataclass(frozen=True)
class Boasts(Pass):
    """Claim to have partitioned what it left alone."""

    NAME: ClassVar[str] = "boasts"
    ESTABLISHES: ClassVar[frozenset[str]] = frozenset({"partitioned"})

    def run(self, fn: Function, trace: Trace) -> Function:
        return fn


def test_7_what_a_pass_establishes_is_checked_on_its_result() -> None:
    fn = parse("func @f(%x: f32[2]) {\n  %y = relu(%x) : f32[2]\n  return %y\n}")
    with pytest.raises(PipelineError, match=r"boasts establishes 'partitioned', but .* relu"):
        PassManager((Boasts(),)).run(fn)


_VALUES = (1, 1.0, True, 0, 0.0, -0.0, False, float("nan"))


def test_8_attributes_that_only_look_equal_do_not_merge() -> None:
    b = Builder("f")
    x = b.param(F2)
    made: list[Kind] = [Clamp(None, v) for v in _VALUES]
    fn = b.finish(*(b(k, x) for k in made))
    assert Cse()(fn) is fn
    b = Builder("g")
    x = b.param(F2)
    slopes = (0.0, -0.0, float("nan"), 0.0, -0.0, float("nan"))
    g = Cse()(b.finish(*(b(LeakyRelu(s), x) for s in slopes)))
    assert len(g.ops) == 3, "NaN equals itself, 0.0 and -0.0 stay apart"


def test_8_constants_of_equal_numbers_and_other_bits_do_not_merge() -> None:
    b = Builder("f")
    zeros = [torch.tensor([1.0, z]) for z in (0.0, -0.0, 0.0)]
    values = [b(Constant(meaning.const_of(t))) for t in zeros]
    after = Cse()(b.finish(*values))
    assert len(after.ops) == 2 and after.returns[0] is after.returns[2]


def test_9_equal_name_hints_print_as_two_names() -> None:
    b = Builder("f")
    x = b.param(F2, "x")
    fn = b.finish(b(Relu(), b(Relu(), x, hint="y"), hint="y"))
    text = dump(fn)
    again = parse(text)
    assert dump(again) == text and len({*fn.ops[0].results, *fn.ops[1].results}) == 2
    assert again.ops[1].operands[0] is again.ops[0].result
