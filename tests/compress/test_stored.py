"""Compressed models come back from the cache as they were: their choices need no weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import leptonc
from leptonc.compress import Compressed, Prune, Quantize, Store, compress

pytestmark = pytest.mark.numba
X = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 6000), nn.ReLU(), nn.Linear(6000, 64)).eval()


RECIPES = {
    "sparse": (Prune(sparsity=0.97),), "int8": (Quantize(),), "store": (Store("bf16"),),
    "dynamic": (Quantize(scheme="dynamic"),),
    "w4": (Quantize(weights=4, group=64, scheme="dynamic"),),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_second_compile_loads_what_the_first_stored(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    small: Compressed = compress(net(), X, *RECIPES[name], data=[X])
    first = leptonc.compile(small, X)
    want = first(X)
    assert first.stats["cached"] is False and first.stats["units_torch"] == 0
    again = leptonc.compile(compress(net(), X, *RECIPES[name], data=[X]), X)
    assert again.stats["cached"] is True
    assert torch.equal(again(X), want)
