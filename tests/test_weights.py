"""A compiled model holds packed weights alone: the model and what passes folded may go."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import leptonc
from leptonc import Dim
from leptonc.errors import LeptoncError
from leptonc.ir.text import constants

pytestmark = pytest.mark.numba


def _net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(32 * 36, 64))
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("compiles", [1, 2])
def test_the_model_may_go(compiles, tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    x = torch.randn(1, 16, 8, 8)
    for _ in range(compiles):
        model = _net()
        want = model(x).detach()
        net = leptonc.compile(model, x)
    assert net.stats["cached"] is (compiles == 2)
    if compiles == 1:  # a program from the cache would capture the model again, and keep it
        assert len(net.stages) > 1
    held = weakref.ref(model[3].weight.untyped_storage())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert held() is None
    torch.testing.assert_close(net(x), want, rtol=1e-4, atol=1e-4)
    big = [c for c in constants(net.ir).values() if c.type.numel > 10_000]
    assert big
    assert not any(any(c.payload.stride()) for c in big)


def test_what_only_the_model_could_tell_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    x = torch.randn(1, 16, 8, 8)
    for _ in range(2):
        net = leptonc.compile(_net(), x)
        gc.collect()
    with pytest.raises(LeptoncError, match="cache=False"):
        _ = net.stages


def test_programs_of_several_sizes_keep_what_other_sizes_may_pack():
    model = _net()
    net = leptonc.compile(model, torch.randn(2, 16, 8, 8), dynamic={"input": {0: Dim("n", max=8)}})
    x = torch.randn(5, 16, 8, 8)
    torch.testing.assert_close(net(x), model(x).detach(), rtol=1e-4, atol=1e-4)
