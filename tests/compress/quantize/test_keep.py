"""``Quantize(keep="faster")``: units that lose stay float, and a remark says by how much."""

from __future__ import annotations

import pytest
import torch

import leptonc
from leptonc.compress.quantize import recipe
from leptonc.compress.recipe import CompressError
from leptonc.ir.kinds.quantize import Dequantize

pytestmark = pytest.mark.numba
X = torch.randn(2, 8, 10, 10, generator=torch.Generator().manual_seed(0))


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 16, 1)).eval()


def compressed(times: list[tuple[float, float]], patch: pytest.MonkeyPatch):
    left = iter(times)
    patch.setattr(recipe, "compiled_ms", lambda fns: list(next(left)))
    return leptonc.compress.compress(net(), X, leptonc.Quantize(keep="faster"), data=[X])


def test_a_unit_that_loses_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    small = compressed([(1.0, 0.5), (1.0, 1.25)], monkeypatch)
    assert [e.where for e in small.ledger] == ["0"]
    assert any("1.250 ms with codes, 1.000 ms without" in str(r) for r in small.remarks)
    codes = [op for op in small.function.ops if isinstance(op.kind, Dequantize)]
    assert len(codes) == 2  # the activation's and the weight's of one unit


def test_none_faster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompressError, match="no unit is faster"):
        compressed([(1.0, 0.99), (1.0, 2.0)], monkeypatch)


def test_units_are_really_timed() -> None:
    torch.manual_seed(0)
    wide = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 1)).eval()
    x = torch.randn(1, 64, 28, 28)
    before = recipe.alone(leptonc.capture(wide, x), leptonc.capture(wide, x).ops[-1])
    (ms,) = recipe.compiled_ms([before])
    assert 0.0 < ms < 1000.0
