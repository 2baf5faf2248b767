"""``decode-weights``: products of floats get weights of floats, bit for bit, and once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import leptonc
from leptonc import meaning
from leptonc.ir.core import Builder, Function, Value
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import Dequantize
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.passes.decode_weights import DecodeWeights

FEW = settings(max_examples=8, deadline=None)


def nets(conv: bool) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    if conv:
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 7, 3, groups=1))
        return nn.Sequential(*layers).eval(), (2, 3, 9, 9)
    return nn.Sequential(nn.Linear(64, 33), nn.ReLU(), nn.Linear(33, 5)).eval(), (64,)


RECIPES = {
    "w8": leptonc.Quantize(activations=None),
    "w4": leptonc.Quantize(weights=4, activations=None),
    "w4 group": leptonc.Quantize(weights=4, activations=None, group=32),
    "a16": leptonc.Quantize(activations=16),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RECIPES))
@FEW
@given(conv=st.booleans(), rows=st.sampled_from([1, 2, 40]), seed=st.integers(0, 99))
def test_every_weight_is_decoded_bit_for_bit(name: str, conv: bool, rows: int, seed: int) -> None:
    net, shape = nets(conv)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape if conv else (rows, *shape), generator=g)
    fn = leptonc.compress.compress(net, x, RECIPES[name], data=[x]).function
    after = DecodeWeights()(fn)
    verify(after)
    assert torch.equal(meaning.run(after, x)[0], meaning.run(fn, x)[0])
    assert DecodeWeights()(after) is after
    for op in after.ops:
        if op.kind.NAME in ("conv", "linear"):
            assert isinstance(after.producer[op.operands[1]].kind, Constant)


def shared(returned: bool) -> Function:
    """Return two layers that share a weight of codes, which is returned, too, or is not."""
    b = Builder("f")
    x = b.param(TensorType(DType.F32, (2, 4)))

    def const(t: torch.Tensor) -> Value:
        return b(Constant(meaning.const_of(t)))

    codes = const(torch.arange(-8, 8, dtype=torch.int8).reshape(4, 4))
    w = b(Dequantize(), codes, const(torch.rand(4) + 0.5))
    y = b(Add(), b(Linear(), x, w), b(Linear(), b(Linear(), x, w), w))
    return b.finish(y, w) if returned else b.finish(y)


@pytest.mark.parametrize("returned", [False, True])
def test_a_shared_weight_is_decoded_once(returned: bool) -> None:
    fn = shared(returned)
    after = DecodeWeights()(fn)
    verify(after)
    weights = {op.operands[1] for op in after.ops if isinstance(op.kind, Linear)}
    assert len(weights) == 1
    assert any(isinstance(op.kind, Dequantize) for op in after.ops) == returned
    x = torch.randn(2, 4)
    for a, b in zip(meaning.run(after, x), meaning.run(fn, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.numba
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("name", ["w8", "w4", "w4 group"])
@pytest.mark.parametrize("rows", [1, 40])
def test_a_compiled_program_converts_no_weight(name: str, conv: bool, rows: int) -> None:
    net, shape = nets(conv)
    x = torch.randn(shape if conv else (rows, *shape))
    small = leptonc.compress.compress(net, x, RECIPES[name], data=[x])
    compiled = leptonc.compile(small, x, cache=False)
    assert compiled.stats["ops_torch"] == 0
    assert "dequantize" not in compiled.source and "pack_b" not in compiled.source
    with torch.no_grad():
        want = small(x)
    assert float((compiled(x) - want).abs().max() / want.abs().max()) < 1e-5


@pytest.mark.numba
def test_codes_of_16_bits_take_weights_of_floats() -> None:
    net, shape = nets(True)
    x = torch.randn(shape)
    small = leptonc.compress.compress(net, x, RECIPES["a16"], data=[x])
    source = leptonc.compile(small, x, cache=False).source
    assert "pack_b" not in source and "lines" in source
