"""The self-check of models with dynamic sizes looks at other sizes than the example's, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc import Dim, meaning
from leptonc.backends.numba_cpu.lower import norm
from leptonc.errors import CheckError
from leptonc.ir.core import Builder, Function
from leptonc.ir.dims import DimRange, ceildiv, symbol
from leptonc.ir.kinds.binary import Mul
from leptonc.ir.kinds.data import Full
from leptonc.ir.types import DType
from leptonc.passes.simplify import Simplify
from leptonc.probes import _odd, _smallest, resized


class Rows(torch.nn.Module):
    """A layer, then a softmax over a size that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layer(x).transpose(0, 1), -1)


DYNAMIC = {"x": {0: Dim("rows", min=1, max=64)}}
EXAMPLE = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))


@given(low=st.integers(0, 40), now=st.integers(0, 80), more=st.integers(0, 40))
def test_sizes_stay_in_their_range(low: int, now: int, more: int) -> None:
    d = DimRange("n", low, low + now + more)
    now = max(low + now, 1)
    assert _smallest(d, now) == max(low, 1)
    assert max(low, 1) <= _odd(d, now) <= now
    assert _odd(d, now) % 2 or _odd(d, now) == now


def test_the_example_is_cut_to_the_smallest_and_to_an_odd_size() -> None:
    fn = leptonc.capture(Rows().eval(), EXAMPLE, dynamic=DYNAMIC)
    found = [(sizes, probe.inputs[0]) for sizes, probe in resized(fn, [EXAMPLE])]
    assert [next(iter(sizes.values())) for sizes, _ in found] == [1, 9]
    for sizes, x in found:
        assert torch.equal(x, EXAMPLE[: next(iter(sizes.values()))])
        meaning.run(fn, x)


def test_a_static_model_has_no_other_sizes() -> None:
    assert list(resized(leptonc.capture(Rows().eval(), EXAMPLE), [EXAMPLE])) == []


def break_tail(patch: pytest.MonkeyPatch) -> None:
    """Leave out the last element of rows that no vector of four fills."""
    real = norm.softmax_view

    def wrong(ctx: Any, x: Any, out: Any, axis: int, log: bool = False) -> None:
        n = x.shape[axis] - (x.shape[axis] % 4 == 1 and x.shape[axis] > 1)
        real(ctx, x.slice(axis, 0, n), out.slice(axis, 0, n), axis, log)

    patch.setattr(norm, "softmax_view", wrong)


def compiled(model: torch.nn.Module, verify: str) -> leptonc.CompiledModel:
    return leptonc.compile(model, EXAMPLE, dynamic=DYNAMIC, verify=verify, cache=False, threads=1)


def remarks(net: leptonc.CompiledModel) -> list[str]:
    return [str(r) for s in net.specializations for r in s.remarks if r.pass_ == "check"]


@pytest.mark.numba
def test_a_kernel_that_is_wrong_at_odd_sizes_retreats(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Rows().eval()
    break_tail(monkeypatch)
    assert remarks(compiled(model, "final")) == []
    net = compiled(model, "unit")
    (said,) = remarks(net)
    assert "softmax" in said and "runs through torch" in said and "rows = 9" in said
    for rows in (1, 9, 13, 16):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(net(x), model(x))


@pytest.mark.numba
def test_a_pass_that_is_wrong_at_one_size_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Simplify, "run", lambda _self, fn, _trace: grown(fn))
    model = Rows().eval()
    compiled(model, "final")
    with pytest.raises(CheckError, match=r"pass simplify.* with rows = 1\b"):
        compiled(model, "pass")


def grown(fn: Function) -> Function:
    """Return ``fn`` times 16 / rows, rounded up: right for the example alone."""
    (rows,) = (symbol(d.name) for d in fn.dims)
    b = Builder(fn.name, list(fn.params), dims=fn.dims)
    for op in fn.ops:
        b.append(op)
    factor = b(Full((), ceildiv(16, rows), DType.F32))
    return b.finish(b(Mul(), fn.returns[0], factor))
