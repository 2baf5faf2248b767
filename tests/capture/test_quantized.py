"""Quantized programs of leptonc, of torch and of torchao's PT2E come in as quantized kinds."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn

from leptonc import meaning
from leptonc.capture.frontend import capture
from leptonc.ir.core import Function
from leptonc.ir.kinds.region import TorchOp
from leptonc.passes.fold_quant import FoldQuant

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if op.kind.NAME not in ("constant", "full")]


class Own(nn.Module):
    """Every operator of leptonc's own library."""

    def forward(self, x: Tensor, w: Tensor, scale: Tensor, zero: Tensor, bias: Tensor):
        o = torch.ops.leptonc
        codes = o.quantize(x, scale, zero, low=0, high=255, dtype=torch.uint8)
        fake = o.fake_quantize(o.dequantize(codes, scale, zero), scale, None, low=-8, high=7)
        rows, by_row = o.quantize_rows(fake)
        product = o.int_linear(rows, w, bias, bias, x_zero=1) * by_row
        image, ones = codes[None, :, :, None], torch.ones(4, 3, 1, 1, dtype=torch.int8)
        conv = o.int_conv(
            image, ones, bias, stride=(1, 1), padding=(1, 0), after=(0, 0), dilation=(1, 1),
            groups=1, x_zero=3,
        )  # fmt: skip
        mean = o.int_avg_pool(
            image, scale, kernel=(2, 1), stride=(1, 1), padding=(1, 0), ceil=True,
            include_pad=False, divisor=None, x_zero=9,
        )  # fmt: skip
        heads = rows[None, None]
        seen = o.int_attention(
            heads, heads, heads, scale, scale, None, causal=True, gqa=False, nan_rows=False
        )
        return codes, fake, product, o.unpack_int4(codes), conv, mean, seen


def test_own_operators_are_their_kinds() -> None:
    g = torch.Generator().manual_seed(0)
    args = (
        torch.randn(3, 6, generator=g), torch.randint(-5, 5, (4, 6), generator=g).to(torch.int8),
        torch.tensor(0.1), torch.tensor(7, dtype=torch.int32), torch.rand(4, generator=g),
    )  # fmt: skip
    fn = capture(Own().eval(), args).function
    assert {"quantize", "dequantize", "fake_quantize", "quantize_rows", "unpack_int4", "int_linear",
            "int_conv", "int_avg_pool", "int_attention"} <= set(kinds(fn))  # fmt: skip
    for got, want in zip(meaning.run(fn, *args), Own()(*args), strict=True):
        assert torch.equal(got, want)


class Decomposed(nn.Module):
    """Q/DQ as PT2E writes it, by hand."""

    def __init__(self) -> None:
        super().__init__()
        importlib.import_module("torch.ao.quantization.fx._decomposed")
        self.register_buffer("codes", torch.randint(-127, 128, (8, 3, 3, 3), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(8, dtype=torch.float64) * 0.02 + 0.01)
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        o = torch.ops.quantized_decomposed
        q = o.quantize_per_tensor(x, 0.03, 128, 0, 255, torch.uint8)
        x = o.dequantize_per_tensor(q, 0.03, 128, 0, 255, torch.uint8)
        w = o.dequantize_per_channel(
            self.codes, self.scales.float(), self.zeros, 0, -127, 127, torch.int8
        )
        y = torch.conv2d(x, w)
        q = o.quantize_per_channel(y, self.scales.float(), self.zeros, 1, -127, 127, torch.int8)
        return o.dequantize_per_channel(
            q, self.scales.float(), self.zeros, 1, -127, 127, torch.int8
        )


def test_decomposed_operators() -> None:
    net = Decomposed().eval()
    fn = capture(net, X).function
    assert not any(isinstance(op.kind, TorchOp) for op in fn.ops)
    torch.testing.assert_close(meaning.run(fn, X)[0], net(X))
    assert "int_conv" in kinds(FoldQuant()(fn))


class Fake(nn.Module):
    """Torch's own fake quantizations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.register_buffer("scale", torch.full((8,), 0.02))
        self.register_buffer("zero", torch.zeros(8, dtype=torch.int32))
        self.register_buffer("one", torch.tensor([0.05]))
        self.register_buffer("shift", torch.tensor([128], dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, self.one, self.shift, 0, 255)
        w = torch.fake_quantize_per_channel_affine(self.weight, self.scale, self.zero, 0, -127, 127)
        y = torch.conv2d(x, w)
        return torch.fake_quantize_per_tensor_affine(y, 0.25, 0, -128, 127)


def test_fake_quantizations_of_torch() -> None:
    net = Fake().eval()
    fn = capture(net, X).function
    assert kinds(fn).count("fake_quantize") == 3
    assert not any(isinstance(op.kind, TorchOp) for op in fn.ops)
    want, got = net(X).detach(), meaning.run(fn, X)[0]
    assert float((got - want).abs().max()) <= 0.25 * (1 + 1e-5)  # a tie may go the other way
    assert float((got != want).float().mean()) < 0.01
    folded = FoldQuant()(fn)
    assert "int_conv" in kinds(folded) and "fake_quantize" not in kinds(folded)


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3),
            nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5),
        )  # fmt: skip


def test_a_cnn_quantized_by_pt2e() -> None:
    """No conversion is left between the products but those to codes."""
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    torch.manual_seed(0)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    program = torch.export.export(Small().eval(), (X,)).module()
    net = pt2e.prepare_pt2e(program, quantizer)
    net(X)
    net = pt2e.convert_pt2e(net)
    fn = capture(net, X).function
    assert not any(isinstance(op.kind, TorchOp) for op in fn.ops)
    want, got = net(X).detach(), meaning.run(fn, X)[0]
    torch.testing.assert_close(got, want)
    folded = FoldQuant()(fn)
    assert kinds(folded) == ["quantize", "int_conv", "quantize", "max_pool", "int_conv", "quantize",
                             "reshape", "int_linear"]  # fmt: skip
    last = float(want.abs().max())
    assert float((meaning.run(folded, X)[0] - want).abs().max()) < 0.01 * last


@pytest.mark.parametrize("block", [(4, 16), (1, 16), (1, 8)])
def test_affine_operators_of_torchao(block: tuple[int, int]) -> None:
    pytest.importorskip("torchao.quantization")

    class Affine(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
            o = torch.ops.torchao
            q = o.quantize_affine(x, block, scale, zero, torch.int8, -127, 127)
            return o.dequantize_affine(q, block, scale, zero, torch.int8, -127, 127)

    x = torch.randn(4, 16)
    shape = [4 // block[0], 16 // block[1]]
    scale = torch.rand(shape) * 0.05 + 0.01
    args = (x, scale, torch.randint(-3, 4, shape, dtype=torch.int32))
    fn = capture(Affine().eval(), args).function
    assert {"quantize", "dequantize"} <= set(kinds(fn))
    torch.testing.assert_close(meaning.run(fn, *args)[0], Affine()(*args))
