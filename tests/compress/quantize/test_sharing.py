"""Weights with several readers: codes are held once, for all of them and for lookups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc import meaning
from leptonc.capture.frontend import capture
from leptonc.compress import Quantize, freeze
from leptonc.compress.raised import raise_
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant
from leptonc.ir.text import dump
from leptonc.ir.types import DType
from leptonc.passes.fold_quant import FoldQuant

IDS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
DATA = [
    torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(i)) for i in range(1, 4)
]


class Decoder(nn.Module):
    """An embedding tied to the output layer, a linear layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.step = nn.Linear(32, 32)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, i: Tensor) -> Tensor:
        x = self.embed(i)
        x = x + torch.relu(self.step(torch.relu(self.step(x))))
        return self.head(x)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Decoder().eval()


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if op.kind.NAME not in ("constant", "full")]


def tables(fn: Function) -> list[DType]:
    """Return the types of the constants that are as large as a weight."""
    held = (op.result.type for op in fn.ops if isinstance(op.kind, Constant))
    return [t.dtype for t in held if int(t.numel) >= 32 * 32]


ALL = {
    "static": Quantize(), "gptq": Quantize(method="gptq"), "dynamic": Quantize(scheme="dynamic"),
    "groups": Quantize(activations=None, group=32), "four": Quantize(weights=4, group=32,
                                                                     scheme="dynamic"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_every_weight_is_held_once_as_codes(net: nn.Module, name: str) -> None:
    recipe = ALL[name]
    small = leptonc.compress(net, IDS, recipe, data=DATA)
    assert tables(small.function) == [DType.I8] * 2  # with 4 bits asked for, too
    assert len(small.ledger) == 3
    want = net(IDS).detach()
    bound = 0.3 if recipe.weights == 4 else 0.03  # as in test_quantize
    assert float((small(IDS).detach() - want).norm() / want.norm()) < bound
    again = raise_(small.captured())
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(IDS), small(IDS))
    assert dump(capture(small, IDS).function) == dump(small.function)


def test_lookups_read_codes(net: nn.Module) -> None:
    small = leptonc.compress(net, IDS, Quantize(), data=DATA)
    folded = FoldQuant()(small.function)
    assert tables(folded) == [DType.I8] * 2
    found = kinds(folded)
    assert found.count("int_linear") == 3 and "linear" not in found
    # the codes that are looked up, and their scales
    assert found.count("embedding") == 2 and "dequantize" not in found[: found.index("int_linear")]
    rows = meaning.run(folded, IDS)[0]
    codes = net.embed.weight.detach()  # type: ignore[union-attr]
    assert rows.shape == (2, 7, len(codes))


@pytest.mark.numba
def test_it_compiles_to_kernels(net: nn.Module) -> None:
    small = leptonc.compress(net, IDS, Quantize(), data=DATA)
    compiled = leptonc.compile(small, IDS, cache=False)
    assert torch.equal(compiled(IDS), meaning.run(FoldQuant()(small.function), IDS)[0])
    assert compiled.stats["ops_torch"] == 0


@pytest.mark.parametrize("step", range(3))
def test_each_step_can_be_undone(net: nn.Module, step: int) -> None:
    small = leptonc.compress(net, IDS, Quantize(), data=DATA)
    less = small.ledger.undo(step)
    assert len(less.ledger) == 2
    assert kinds(FoldQuant()(less.function)).count("int_linear") == 2
    held = tables(less.function)
    # the output layer alone takes the codes of the embedding with it; of two calls each has its own
    assert held.count(DType.I8) == (1 if less.ledger[1].where == "step" else 2)
    assert held.count(DType.F32) == 1


def test_training_and_freezing(net: nn.Module) -> None:
    small = leptonc.compress(net, IDS, Quantize(qat=True), data=DATA)
    assert tables(small.function) == [DType.F32] * 2
    small.train()
    small(IDS).square().mean().backward()
    grads = {n: p.grad for n, p in small.named_parameters()}
    assert {"step.weight", "step.bias"} <= set(grads)
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values())
    frozen = freeze(small.eval())
    assert tables(frozen.function) == [DType.I8] * 2
    assert not any(op.kind.NAME == "fake_quantize" for op in frozen.function.ops)


def test_a_weight_that_others_read_otherwise_says_why() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) + self.a.weight

    small = leptonc.compress(Odd().eval(), torch.ones(8, 8), Quantize(activations=None))
    assert [e.where for e in small.ledger] == ["b"]
    assert any("its weight a.weight is shared with another op" in r.reason for r in small.remarks)
