"""Transposed convolutions: in phases they mean the same, and are quantized as convolutions are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import leptonc
from leptonc import meaning
from leptonc.capture.frontend import capture
from leptonc.compress import Quantize, freeze
from leptonc.compress.quantize import transposed
from leptonc.ir.core import Function
from leptonc.passes.cse import Cse
from leptonc.passes.fold_quant import FoldQuant

_LAYERS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if op.kind.NAME not in ("constant", "full")]


@given(data=st.data())
def test_phases_compute_the_same_sums(data: st.DataObject) -> None:
    """With whole numbers no sum is rounded: every bit is the same."""
    pick = data.draw
    rank, groups = pick(st.integers(1, 3)), pick(st.sampled_from([1, 2]))
    axes = st.tuples(*[st.integers(1, 3)] * rank)
    kernel, stride = pick(st.tuples(*[st.integers(1, 5)] * rank)), pick(axes)
    padding = tuple(pick(st.integers(0, k // 2)) for k in kernel)
    extra = tuple(pick(st.integers(0, s - 1)) for s in stride)
    net = _LAYERS[rank](
        2 * groups, 3 * groups, kernel, stride, padding, extra, groups, pick(st.booleans())
    ).eval()  # fmt: skip
    g = torch.Generator().manual_seed(pick(st.integers(0, 999)))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randint(-4, 5, p.shape, generator=g))
    size = tuple(pick(st.integers(3, 5)) for _ in kernel)
    x = torch.randint(-9, 10, (2, 2 * groups, *size), generator=g).float()
    fn = capture(net, x).function
    (edit,) = transposed.plan(fn, lambda op, why: None)
    after = edit.make(fn)
    assert "conv_transpose" not in kinds(after)
    assert torch.equal(meaning.run(after, x)[0], net(x))


class UNet(nn.Module):
    """Down by a stride, up by a transposed convolution, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.up(torch.relu(self.down(x))))))


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return UNet().eval()


@pytest.mark.parametrize("method", ["minmax", "gptq"])
def test_codes_from_the_first_product_to_the_last(net: nn.Module, method: str) -> None:
    small = leptonc.compress(net, X, Quantize(method=method), data=[X])
    found = kinds(FoldQuant()(Cse()(small.function)))  # phases read the same codes
    assert found.count("int_conv") == 6 and not {"conv", "conv_transpose", "relu"} & set(found)
    assert "dequantize" not in found
    want = net(X).detach()
    assert float((small(X).detach() - want).norm() / want.norm()) < 0.03  # as in test_quantize
    assert [e.where for e in small.ledger] == ["up", "down", *["up"] * 4, "head"]
    assert small.state_dict()["up.weight_phase3"].dtype is torch.int8
    less = small.ledger.undo(0)
    assert kinds(less.function).count("conv_transpose") == 1


@pytest.mark.numba
def test_it_compiles_to_kernels(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(), data=[X])
    compiled = leptonc.compile(small, X, cache=False)
    assert torch.equal(compiled(X), meaning.run(FoldQuant()(small.function), X)[0])
    assert compiled.stats["ops_torch"] == 0


def test_names_choose(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(skip="up"), data=[X])
    assert kinds(small.function).count("conv_transpose") == 1
    assert [e.where for e in small.ledger] == ["down", "head"]


def test_training_and_freezing(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(qat=True), data=[X])
    small.train()
    small(X).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in small.parameters())
    assert kinds(FoldQuant()(freeze(small.eval()).function)).count("int_conv") == 6


def test_a_dilated_one_says_why() -> None:
    odd = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 3, dilation=2)).eval()
    small = leptonc.compress(odd, X, Quantize(), data=[X])
    assert any("transposed and dilated" in r.reason for r in small.remarks)
