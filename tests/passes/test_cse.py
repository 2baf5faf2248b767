"""``cse``: bitwise, by kind and operands."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays_for, functions
from strategies.laws import keeps_its_laws, results, same_bits

from leptonc import meaning
from leptonc.ir.core import Builder
from leptonc.ir.kinds.data import Constant
from leptonc.ir.text import dump, parse
from leptonc.passes.cse import Cse


def test_repetitions_merge_through_chains_and_swapped_operands() -> None:
    fn = parse("""
func @f(%x: f32[2], %y: f32[2]) {
  %a = add(%x, %y) : f32[2]
  %b = relu(%a) : f32[2]
  %c = add(%y, %x) : f32[2]
  %d = relu(%c) : f32[2]
  %e = sub(%b, %d) : f32[2]
  return %e
}""")
    assert (
        dump(Cse()(fn))
        == """\
func @f(%x: f32[2], %y: f32[2]) {
  %a = add(%x, %y) : f32[2]
  %b = relu(%a) : f32[2]
  %e = sub(%b, %b) : f32[2]
  return %e
}"""
    )


def test_operands_of_ops_that_do_not_commute_keep_their_order() -> None:
    fn = parse("""
func @f(%x: f32[2], %y: f32[2]) {
  %a = sub(%x, %y) : f32[2]
  %b = sub(%y, %x) : f32[2]
  return %a, %b
}""")
    assert Cse()(fn) is fn


def test_constants_merge_by_content() -> None:
    b = Builder("f")
    big = torch.arange(10_000.0)
    other = big.clone()
    other[7] = -1  # beside every sampled element
    made = [b(Constant(meaning.const_of(t))) for t in (big, big.clone(), other)]
    after = Cse()(b.finish(*made))
    assert len(after.ops) == 2 and after.returns[0] is after.returns[1]


@given(data=st.data())
def test_laws(data: st.DataObject) -> None:
    before = data.draw(functions())
    args = data.draw(arrays_for(before))
    same_bits(results(before, args), results(keeps_its_laws(Cse(), before), args))
