"""The laws that every pass is held to, whatever it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import assume

from leptonc import meaning
from leptonc.ir.core import Function
from leptonc.ir.text import dump
from leptonc.ir.verify import verify
from leptonc.pipeline import Pass


def results(fn: Function, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run ``fn``, rejecting examples that torch has no op for."""
    try:
        return meaning.run(fn, *args)
    except (RuntimeError, IndexError, ValueError):
        assume(False)
        raise


def same_bits(want: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> None:
    """Assert equal dtypes, shapes and bits (one NaN is as good as another)."""
    assert len(want) == len(got)
    for w, g in zip(want, got, strict=True):
        assert w.dtype == g.dtype and w.shape == g.shape
        if not w.is_floating_point():
            assert torch.equal(w, g), (w, g)
            continue
        nan = torch.isnan(w)
        assert torch.equal(nan, torch.isnan(g)), (w, g)
        assert torch.equal(torch.nan_to_num(w), torch.nan_to_num(g)), (w, g)
        assert torch.equal(w.signbit() | nan, g.signbit() | nan), (w, g)


def keeps_its_laws(pass_: Pass, before: Function, may_grow: bool = False) -> Function:
    """Assert what holds of every pass but the values: purity, validity, size, a fixed point."""
    text, ops = dump(before), before.ops
    after = pass_(before)
    verify(after)
    assert dump(before) == text and before.ops is ops, "the input is never touched"
    assert may_grow or len(after.ops) <= len(before.ops), "op count never grows"
    assert pass_(after) is after, "idempotent, and says so by identity"
    assert [v.type for v in after.returns] == [v.type for v in before.returns]
    return after
