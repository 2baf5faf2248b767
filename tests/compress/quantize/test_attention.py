"""``Quantize(attention=True)``: codes from the projections through both products of attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.capture.frontend import capture
from leptonc.compress import CompressError, Quantize
from leptonc.compress.choice import Timing
from leptonc.compress.quantize import attention, measured
from leptonc.ir.core import Function, Value
from leptonc.ir.kinds.quantize import IntAttention
from leptonc.ir.text import dump
from leptonc.passes.fold_quant import FoldQuant

G = torch.Generator().manual_seed(0)
X = torch.randn(2, 10, 32, generator=G)
DATA = [torch.randn(2, 10, 32, generator=G) for _ in range(3)]


class Block(nn.Module):
    """Causal attention of grouped heads, then attention with a mask, and a head."""

    def __init__(self, depth: int = 8) -> None:
        super().__init__()
        self.depth = depth
        self.q, self.k, self.v = (nn.Linear(32, n * depth) for n in (4, 2, 2))
        self.out = nn.Linear(4 * depth, 32)
        self.register_buffer("keep", (torch.arange(10) < 7)[None])

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.depth)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        for mask in (None, self.keep):
            q, k, v = (self.heads(made(x)) for made in (self.q, self.k, self.v))
            a = nn.functional.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, enable_gqa=True
            )
            x = x + self.out(a.transpose(1, 2).flatten(2))
        return x


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if op.kind.NAME not in ("constant", "full")]


def behind(fn: Function, v: Value) -> list[str]:
    """Return the kinds that make ``v``, the last first, up to a product."""
    found: list[str] = []
    while not found or found[-1] != "int_linear":
        op = fn.producer[v]
        found.append(op.kind.NAME)
        v = op.operands[0]
    return found


def test_codes_reach_both_products(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(attention=True), data=DATA)
    assert dump(capture(small, X).function) == dump(small.function)
    folded = FoldQuant()(small.function)
    made = [op for op in folded.ops if isinstance(op.kind, IntAttention)]
    assert len(made) == 2 and "attention" not in kinds(folded)
    for v in (v for op in made for v in op.operands[:3]):
        # codes right behind the product, before it is split into heads
        assert behind(folded, v) == ["transpose", "reshape", "quantize", "int_linear"]
    want = net(X).detach()
    assert float((small(X).detach() - want).norm() / want.norm()) < 0.03  # as in test_quantize
    assert [e.where for e in small.ledger][-2:] == ["the model", "#1"]
    less = small.ledger.undo(len(small.ledger) - 1)
    assert kinds(less.function).count("int_attention") == 1


@pytest.mark.numba
def test_it_compiles_to_kernels(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(attention=True), data=DATA)
    compiled = leptonc.compile(small, X, cache=False)
    want = small(X).detach()
    assert compiled.stats["ops_torch"] == 0
    # of each attention some weights may get the other of two codes: a step of 1 in 255
    assert float((compiled(X) - want).norm() / want.norm()) < 2 / 255


def test_only_where_it_is_faster(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(1.0, 0.5), (1.0, 1.25)])
    monkeypatch.setattr(measured, "timings", lambda fns: [Timing(ms) for ms in next(times)])
    fn, data = capture(net, X).function, [(x,) for x in DATA]
    context = attention.Context(data=leptonc.compress.recipe.Calibration(tuple(data)))
    made = attention.plan(fn, context, "minmax", True)
    assert [edit.where for edit in made] == ["the model"]
    told = "stays float, 1.000 ms: int8 takes 1.250 ms (+25 %)"
    assert any(told in r.reason for r in context.remarks)


def test_what_stays_float_says_why() -> None:
    torch.manual_seed(0)
    small = leptonc.compress(Block(6).eval(), X, Quantize(attention=True), data=DATA)
    assert "attention" in kinds(small.function)
    assert any("a depth of 6" in r.reason for r in small.remarks)
    with pytest.raises(CompressError, match="no attention"):
        leptonc.compress(nn.Linear(32, 4).eval(), X, Quantize(attention=True), data=DATA)
