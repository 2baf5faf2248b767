"""Means and sums in quantized networks: they read codes where that is for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc import meaning
from leptonc.capture.frontend import capture
from leptonc.compress import Quantize, freeze
from leptonc.compress.choice import Timing
from leptonc.compress.quantize import edits, measured, ranges, readers
from leptonc.compress.quantize.places import Place
from leptonc.compress.timing import alone, timings
from leptonc.ir.core import Function
from leptonc.ir.kinds.region import Unit
from leptonc.passes import pipeline
from leptonc.passes.fold_quant import FoldQuant

G = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 12, 12, generator=G)
DATA = [torch.randn(2, 3, 12, 12, generator=G) for _ in range(4)]


class Net(nn.Module):
    """A mean beside a convolution (as in Inception), one between two, one before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.side, self.after = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        mean = nn.functional.avg_pool2d(x, 3, 1, 1)
        x = torch.cat([self.side(x), self.after(mean)], 1)
        x = nn.functional.avg_pool2d(torch.relu(x), 2)
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class Gated(nn.Module):
    """A mean of what a product with its gate reads, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        return x * gate[:, :, None, None]


class Block(nn.Module):
    """Sums of two convolutions, as a ResNet's stages begin; the second is read elsewhere, too."""

    def __init__(self, later: bool = False) -> None:
        super().__init__()
        self.main, self.side = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 1)
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.head, self.later = nn.Conv2d(16, 4, 1), later

    def forward(self, x: Tensor) -> Tensor:
        side = self.side(x) if self.later else None
        main = self.main(x)
        x = torch.relu(main + (self.side(x) if side is None else side))
        left = self.left(x)
        x = torch.relu(left + self.right(x))
        return self.head(x) + left.amax()


@pytest.mark.numba
@pytest.mark.parametrize("later", [False, True])
def test_a_sum_of_two_convolutions_reads_the_first_as_codes(later: bool) -> None:
    torch.manual_seed(0)
    model = Block(later).eval()
    small = leptonc.compress(model, X, Quantize(), data=DATA)
    assert [e.what for e in small.ledger if "sums" in e.what] == ["sums of u8"]
    assert "sum0_input_scale" in small.state_dict()
    fn = FoldQuant()(small.function)
    (product,) = [op for op in fn.ops if op.origin.module == ("side" if later else "main")
                  and op.kind.NAME == "int_conv"]  # fmt: skip
    assert {op.kind.NAME for op in fn.users[product.result]} == {"quantize"}
    want = model(X).detach()
    assert float((small(X).detach() - want).norm() / want.norm()) < 0.03  # as in test_quantize
    compiled = leptonc.compile(small, X, cache=False)
    assert torch.equal(compiled(X), meaning.run(fn, X)[0])
    names = [u.name for u in compiled.schedule.units]
    assert sum(n.endswith("dequantize+add+quantize") for n in names) == 1, names


def test_a_sum_on_codes_can_be_undone_and_left_out() -> None:
    model = Block().eval()
    small = leptonc.compress(model, X, Quantize(), data=DATA)
    (step,) = [e.index for e in small.ledger if "sums" in e.what]
    less = small.ledger.undo(step)
    assert not [n for n in less.state_dict() if n.startswith("sum")]
    off = leptonc.compress(model, X, Quantize(residuals=False), data=DATA)
    assert not [n for n in off.state_dict() if n.startswith("sum")]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if op.kind.NAME not in ("constant", "full")]


def test_no_float_is_left_between_the_first_product_and_the_last(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(), data=DATA)
    found = kinds(FoldQuant()(small.function))
    assert found.count("int_avg_pool") == 3
    assert not {"dequantize", "avg_pool", "mean", "relu"} & set(found)
    want = net(X).detach()
    assert float((small(X).detach() - want).norm() / want.norm()) < 0.03  # as in test_quantize
    assert [e.where for e in small.ledger if "means" in e.what] == ["#1", "#2"]
    assert {"mean1_input_scale", "mean2_input_scale"} <= set(small.state_dict())


@pytest.mark.numba
def test_it_compiles_to_kernels_of_codes(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(), data=DATA)
    compiled = leptonc.compile(small, X, cache=False)
    fn = small.function
    assert torch.equal(compiled(X), meaning.run(FoldQuant()(fn), X)[0])
    assert compiled.stats["ops_torch"] == 0
    for a_pass in pipeline("O2"):
        fn = a_pass(fn)
    assert [op.kind.pattern for op in fn.ops if isinstance(op.kind, Unit)].count("pooled") == 3


@pytest.mark.parametrize("step", [5, 6])
def test_each_step_can_be_undone(net: nn.Module, step: int) -> None:
    small = leptonc.compress(net, X, Quantize(), data=DATA)
    less = small.ledger.undo(step)
    found = kinds(FoldQuant()(less.function))
    assert found.count("int_avg_pool") == 2
    assert "dequantize" not in found


def test_without_residuals_means_stay_float(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(residuals=False), data=DATA)
    assert "int_avg_pool" not in kinds(FoldQuant()(small.function))


def test_a_mean_of_what_others_read_in_floats_says_why() -> None:
    torch.manual_seed(0)
    small = leptonc.compress(Gated().eval(), X, Quantize(), data=DATA)
    assert any("a mean of floats" in r.reason for r in small.remarks)
    assert "int_avg_pool" not in kinds(FoldQuant()(small.function))


def test_a_mean_that_loses_time_stays_float(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(fns: Sequence[Function]) -> list[Timing]:
        product = any(op.kind.NAME in ("conv", "linear") for op in fns[0].ops)
        return [Timing(ms) for ms in ((1.0, 0.5) if product else next(times))]

    times = iter([(1.0, 0.5), (1.0, 1.25)])
    monkeypatch.setattr(measured, "timings", faster)
    small = leptonc.compress(net, X, Quantize(keep="faster"), data=DATA)
    assert [e.where for e in small.ledger if "means" in e.what] == ["#1"]
    told = "stays float, 1.000 ms: int8 takes 1.250 ms (+25 %)"
    assert any(told in r.reason for r in small.remarks)


@pytest.mark.numba
def test_a_mean_is_really_timed(net: nn.Module) -> None:
    fn = capture(net, X).function
    op = next(op for op in fn.ops if op.kind.NAME == "avg_pool")
    x = edits.Input(ranges.CODES[8, False], 0.1, 3)
    made = readers.on_codes(readers.Reader("mean", Place("", 0), op), x)
    assert "int_avg_pool" in kinds(FoldQuant()(made))
    assert all(0 < t.ms < 1000 for t in timings([alone(fn, op), made]))


def test_training_and_freezing(net: nn.Module) -> None:
    small = leptonc.compress(net, X, Quantize(qat=True), data=DATA)
    small.train()
    small(X).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in small.parameters())
    frozen = freeze(small.eval())
    assert kinds(FoldQuant()(frozen.function)).count("int_avg_pool") == 3
