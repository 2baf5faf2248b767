"""A pruned program computes what the whole one does with the pruned channels zero everywhere."""

from __future__ import annotations

import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from strategies.pruning import cnns, removals, rounding_bound, run_masked, transformers

from leptonc import meaning
from leptonc.compress.prune.groups import Analysis, analyze
from leptonc.compress.prune.rebuild import without
from leptonc.compress.raised import names_of
from leptonc.ir.core import Function
from leptonc.ir.verify import verify


def _pruned(analysis: Analysis, gone: dict[int, set[int]]) -> Function:
    after = without(analysis, gone)
    verify(after)
    assert [v.type for v in after.returns] == [v.type for v in analysis.fn.returns]
    assert set(names_of(after).values()) == set(names_of(analysis.fn).values())
    return after


@given(data=st.data())
def test_small_integers_bit_by_bit(data: st.DataObject) -> None:
    analysis = analyze(data.draw(cnns()))
    assume(analysis.groups)
    gone = data.draw(removals(analysis))
    assert gone
    event(f"{len(analysis.groups)} groups")
    args = [torch.randint(-2, 3, v.type.shape).double() for v in analysis.fn.params]
    (want,) = run_masked(analysis, gone, args)
    assume(want.abs().max() < 2**50)  # beyond it, sums need not be exact
    (got,) = meaning.run(_pruned(analysis, gone), *args)
    assert torch.equal(got, want)


@given(data=st.data())
def test_transformers_to_rounding(data: st.DataObject) -> None:
    analysis = analyze(data.draw(transformers()))
    assume(analysis.groups)
    gone = data.draw(removals(analysis))
    assert gone
    event(f"{len(analysis.groups)} groups")
    args = [torch.randint(0, 5, v.type.shape) for v in analysis.fn.params]
    (want,) = run_masked(analysis, gone, args)
    (got,) = meaning.run(_pruned(analysis, gone), *args)
    assert float((got - want).abs().max()) <= rounding_bound(analysis, gone, args)


@given(data=st.data())
def test_every_unit_is_of_one_group_and_leaves_something(data: st.DataObject) -> None:
    analysis = analyze(data.draw(st.one_of(cnns(), transformers())))
    seen: set[tuple[int, int]] = set()
    for group in analysis.groups:
        assert group.units > 1 and group.constants
        for slot in group.slots:
            taken = {(slot.axis, i) for block in slot.blocks for i in block}
            assert len(taken) == sum(map(len, slot.blocks)), "units overlap"
            assert not taken & seen, "groups overlap"
            seen |= taken
