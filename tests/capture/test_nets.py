"""Whole modules: structure of arguments and results, in-place ops, origins, shared weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from capture.harness import Fn, call, check, same
from torch import Tensor

import leptonc.capture  # noqa: F401  # the package must import alone
from leptonc.capture.frontend import capture
from leptonc.errors import InputError


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x += x * 0.5
        x = F.max_pool2d(x, 2)
        return self.head(F.dropout(x.mean((2, 3)), 0.2, self.training))


@dataclass
class Result:
    logits: Tensor
    extra: Any = None


class Structured(nn.Module):
    def forward(self, x: Tensor, batch: dict[str, Any], *, scale: float = 1.0) -> Result:
        y = x * scale + batch["bias"][0]
        return Result(y, {"same": x, "n": x.shape[0], "none": None, "pair": (y, x.clone())})


def test_cnn_and_its_origins() -> None:
    net = Cnn().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    attributes = set(net.__dict__), set(net.conv.__dict__)
    fn = check(net, (torch.randn(2, 3, 8, 8),)).function
    conv = next(op for op in fn.ops if op.kind.NAME == "conv")
    assert conv.origin.module == "conv" and conv.origin.source.startswith("test_nets.py:")
    assert [op.kind.NAME for op in fn.ops if op.origin.module == "norm"] == ["batch_norm"]
    same(dict(net.state_dict()), before)
    assert attributes == (set(net.__dict__), set(net.conv.__dict__))


def test_attention_layer_is_not_one_opaque_op() -> None:
    net = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    captured = check(net, (torch.randn(2, 5, 16),))
    assert not captured.opaque
    assert any(op.kind.NAME == "attention" for op in captured.function.ops)
    assert torch.backends.mha.get_fastpath_enabled()


def test_structures_pass_both_ways() -> None:
    args = (torch.randn(2, 3), {"bias": [torch.randn(3)]})
    captured = check(Structured().eval(), args, {"scale": 2.0})
    assert [i.name for i in captured.inputs] == ["x", "batch['bias'][0]", "scale"]
    got = call(captured, args, {"scale": 2.0})
    assert isinstance(got, Result) and got.extra["same"] is args[0]
    assert got.extra["n"] == 2 and got.extra["none"] is None


def test_arguments_may_be_named_or_placed() -> None:
    net, x, b = Structured().eval(), torch.randn(2, 3), {"bias": [torch.randn(3)]}
    captured = capture(net, (x, b), {"scale": 2.0})
    leaves = captured.flatten((), {"scale": 2.0, "batch": b, "x": x})
    assert leaves[0] is x and leaves[1] is b["bias"][0]
    with pytest.raises(InputError, match=r"missing batch"):
        captured.flatten((x,), {"scale": 2.0})
    with pytest.raises(InputError, match="unexpected other"):
        captured.flatten((x, b), {"scale": 2.0, "other": 1})
    with pytest.raises(InputError, match="arranged"):
        captured.flatten((x, {"bias": []}), {"scale": 2.0})
    with pytest.raises(InputError, match=r"scale: .* 2\.0, got 3\.0"):
        captured.tensors(captured.flatten((x, b), {"scale": 3.0}))
    with pytest.raises(InputError, match="x: expected a tensor, got float"):
        captured.tensors(captured.flatten((1.0, b), {"scale": 2.0}))


def test_tied_weights_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, i: Tensor) -> Tensor:
            return self.head(self.embed(i))

    fn = check(Tied().eval(), (torch.tensor([[1, 2]]),)).function
    assert sum(op.kind.NAME == "constant" for op in fn.ops) == 1


def _write_part(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] = 1.0
    y[1:, 1:] += 3
    return y


def _write_through_view(x: Tensor) -> Tensor:
    y = x + 1
    z = y.view(-1)
    z.mul_(2)
    return y + z.view_as(y)


def _rebind(x: Tensor) -> Tensor:
    y = x.exp()
    z = y.detach()
    y.add_(1).mul_(x).clamp_(min=0)
    return z + y


def _fill(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y.copy_(x[:1])
    return y.masked_fill_(x > 0, 0.5)


def _strip(x: Tensor) -> Tensor:
    y = x[None] * 1.5
    y.squeeze_(0)
    return y.transpose_(0, 1)


def _slice_loop(x: Tensor) -> Tensor:
    y = torch.zeros(3, 4)
    for i in range(3):
        y[i] = x[i] * i
    return y


@pytest.mark.parametrize(
    "fn", [_write_part, _write_through_view, _rebind, _fill, _strip, _slice_loop]
)
def test_inplace_ops(fn: Any) -> None:
    x = torch.randn(3, 4)
    assert not check(Fn(fn), (x,)).opaque


def test_nested_no_grad_is_inlined() -> None:
    def fn(x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x * 2
        with torch.autocast("cpu", enabled=False):
            return y + 1

    check(Fn(fn), (torch.randn(3),))


def test_exported_program_and_graph_module() -> None:
    net, x = Cnn().eval(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(net, (x,), strict=False)
    same(call(capture(program), (x,)), net(x).detach())
    check(torch.fx.symbolic_trace(net), (x,))


def test_outputs_repeat_and_constants() -> None:
    net = Fn(lambda x: (x * 2, torch.ones(2), 3, "a"))
    captured = check(net, (torch.randn(2),))
    assert captured.outputs[2].constant == 3
    y = Fn(lambda x: (lambda z: [z, z])(x + 1))
    assert len(check(y, (torch.randn(2),)).function.returns) == 1


def test_unused_and_zero_size_inputs() -> None:
    net = Fn(lambda x, y: x.sum(0))
    captured = check(net, (torch.randn(0, 3), torch.randn(2)))
    assert len(captured.function.params) == 1 and captured.inputs[1].param is None


def test_batch_norm_is_traced_by_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's decomposition of every batch norm took a fifth of the first capture of a ResNet."""
    import torch._decomp.decompositions as torchs

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("torch decomposed a batch norm")

    monkeypatch.setattr(torchs, "native_batch_norm_helper", refuse)
    image = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    check(nn.BatchNorm2d(8).eval(), (image,))
