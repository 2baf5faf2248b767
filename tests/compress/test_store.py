"""Weights kept in 16 bits: half the state, errors of one rounding, trained and compiled."""

from __future__ import annotations

import pytest
import torch

import leptonc
from leptonc.compress.recipe import CompressError
from leptonc.compress.store import Store

X = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    first, last = torch.nn.Linear(32, 64), torch.nn.Linear(64, 8)
    return torch.nn.Sequential(first, torch.nn.ReLU(), last).eval()


@pytest.mark.parametrize(("dtype", "unit"), [("bf16", 2.0**-8), ("fp16", 2.0**-11)])
def test_weights_are_rounded_once(dtype: str, unit: float) -> None:
    model = net()
    small = leptonc.compress.compress(model, X, Store(dtype))
    assert len(small.ledger) == 2
    for name, tensor in model.state_dict().items():
        kept = small.state_dict()[name]
        if tensor.numel() < 256:
            assert torch.equal(kept, tensor)
            continue
        assert kept.element_size() == 2
        assert ((kept.float() - tensor).abs() <= unit * tensor.abs() + 2.0**-25).all()
    assert small.ledger[1].bytes_after < 0.6 * small.ledger[0].bytes_before
    compiled = leptonc.compile(small, X, cache=False)
    torch.testing.assert_close(compiled(X), small(X).detach(), rtol=1e-4, atol=1e-5)


def test_it_trains_and_a_step_is_undone() -> None:
    small = leptonc.compress.compress(net(), X, Store(skip="2.*"))
    small.train()
    small(X).square().sum().backward()
    assert small.get_parameter("0.weight").grad is not None
    assert small.ledger.undo(0).state_dict()["0.weight"].dtype is torch.float32


def test_what_cannot_be_is_an_error() -> None:
    with pytest.raises(CompressError, match="bf16 or fp16"):
        Store("int8")
    with pytest.raises(CompressError, match="matches no weight"):
        leptonc.compress.compress(net(), X, Store(skip="head"))
    with pytest.raises(CompressError, match="no f32 weight"):
        leptonc.compress.compress(net(), X, Store(least=10**9))
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = 1e6
    with pytest.raises(CompressError, match="fp16 ends at"):
        leptonc.compress.compress(model, X, Store("fp16"))
