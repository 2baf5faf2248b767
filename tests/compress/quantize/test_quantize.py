"""``Quantize``: what it makes of a network, its ledger, its errors; training and freezing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc import meaning
from leptonc.capture.frontend import capture
from leptonc.compress import CompressError, FreezeQuant, Quantize, freeze
from leptonc.compress.raised import raise_
from leptonc.ir.core import Function
from leptonc.ir.kinds.quantize import Quantize as ToCodes
from leptonc.ir.text import dump
from leptonc.passes.fold_quant import FoldQuant

G = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 12, 12, generator=G)
DATA = [torch.randn(2, 3, 12, 12, generator=G) for _ in range(4)]


class Net(nn.Module):
    """A convolution with a norm, a depthwise one, a residual, a pool, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1)
        )
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(288, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.pool(torch.relu(x + self.block(x)))
        return self.head(torch.relu(self.fc(x.flatten(1))))


UNITS = ["stem", "block.0", "block.2", "fc", "head"]


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    made.norm.running_mean.normal_()
    made.norm.running_var.uniform_(0.5, 2)
    return made


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if op.kind.NAME not in ("constant", "full")]


ALL = (
    Quantize(), Quantize(method="mse"), Quantize(method="percentile"), Quantize(method="gptq"),
    Quantize(symmetric=True), Quantize(activations=16), Quantize(weights=4, method="gptq"),
    Quantize(scheme="dynamic", group=32), Quantize(weights=4, activations=None, group=32),
    Quantize(residuals=False, correct=False), Quantize(qat=True),
)  # fmt: skip


def _name(q: Quantize) -> str:
    plain = Quantize()
    changed = {k: v for k, v in vars(q).items() if v != getattr(plain, k)}
    return ",".join(f"{k}={v}" for k, v in changed.items()) or "default"


@pytest.mark.parametrize("recipe", ALL, ids=_name)
def test_the_module_is_what_its_program_says(net: Net, recipe: Quantize) -> None:
    """Captured again exactly, with and without tracing; near the original; its state is plain."""
    small = leptonc.compress(net, X, recipe, data=DATA)
    want = net(X).detach()
    bound = 0.3 if recipe.weights == 4 else 0.03  # rounding to 15 codes, or to 255
    assert float((small(X) - want).norm() / want.norm()) < bound
    assert dump(capture(small, X).function) == dump(small.function)
    traced = capture(nn.Sequential(small).eval(), X).function
    assert kinds(traced) == kinds(small.function)
    assert torch.equal(meaning.run(traced, X)[0], small(X))
    state = small.state_dict()
    if not recipe.qat:
        assert state["fc.weight"].dtype in (torch.int8, torch.uint8)
        assert state["fc.weight_scale"].dtype is torch.float32
    again = raise_(small.captured())
    again.load_state_dict(state)
    assert torch.equal(again(X), small(X))


def test_static_codes_are_kept_from_the_first_to_the_last_product(net: Net) -> None:
    small = leptonc.compress(net, X, Quantize(), data=DATA)
    folded = FoldQuant()(small.function)
    assert kinds(folded) == [
        "quantize", "int_conv", "quantize", "dequantize", "int_conv", "quantize", "int_conv", "add",
        "quantize", "max_pool", "reshape", "int_linear", "quantize", "int_linear",
    ]  # fmt: skip
    assert [e.where for e in small.ledger] == UNITS
    assert small.ledger[0].bytes_after < small.ledger[0].bytes_before


def test_zero_point_of_what_is_never_negative_is_zero(net: Net) -> None:
    state = leptonc.compress(net, X, Quantize(), data=DATA).state_dict()
    assert int(state["stem.input_zero"]) > 0
    assert all(int(state[f"{u}.input_zero"]) == 0 for u in UNITS[1:])


@pytest.mark.parametrize("step", range(len(UNITS)))
def test_each_step_can_be_undone(net: Net, step: int) -> None:
    small = leptonc.compress(net, X, Quantize(), data=DATA)
    less = small.ledger.undo(step)
    assert [e.where for e in less.ledger] == [u for u in UNITS if u != UNITS[step]]
    assert less.state_dict()[f"{UNITS[step]}.weight"].dtype is torch.float32


def test_names_select(net: Net) -> None:
    only = leptonc.compress(net, X, Quantize(only="block"), data=DATA)
    assert [e.where for e in only.ledger] == ["block.0", "block.2"]
    skipped = leptonc.compress(net, X, Quantize(skip=("f?", "stem")), data=DATA)
    assert [e.where for e in skipped.ledger] == ["block.0", "block.2", "head"]


def test_two_recipes_share_a_model(net: Net) -> None:
    both = (Quantize(only="fc", weights=4, activations=None, group=32), Quantize(skip="stem"))
    small = leptonc.compress(net, X, *both, data=DATA)
    assert [e.where for e in small.ledger] == ["fc", "block.0", "block.2", "head"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": 3}, "weights"), ({"activations": 4}, "activations"), ({"group": 7}, "group"),
        ({"scheme": "fast"}, "scheme"), ({"method": "magic"}, "method"),
        ({"scheme": "weight-only"}, "activations=None"),
        ({"scheme": "dynamic", "activations": None}, "activations=8"),
        ({"scheme": "dynamic", "activations": 16}, "8 bits"),
        ({"scheme": "dynamic", "symmetric": False}, "symmetric"),
        ({"attention": True, "activations": 16}, "static activations of 8 bits"),
        ({"attention": True, "qat": True}, "no gradient"),
        ({"qat": True, "scheme": "dynamic"}, "train"), ({"qat": True, "method": "gptq"}, "gptq"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options: dict, words: str) -> None:
    with pytest.raises(CompressError, match=words):
        Quantize(**options)


def test_bad_data_and_names(net: Net) -> None:
    with pytest.raises(CompressError, match="needs calibration data"):
        leptonc.compress(net, X, Quantize())
    with pytest.raises(CompressError, match="needs calibration data"):
        leptonc.compress(net, X, Quantize(activations=None, method="gptq"))
    with pytest.raises(CompressError, match=r"named 'blok.0'; there are block.0"):
        leptonc.compress(net, X, Quantize(skip="blok.0"), data=DATA)
    with pytest.raises(CompressError, match="leave no unit"):
        leptonc.compress(net, X, Quantize(skip="*"), data=DATA)
    with pytest.raises(CompressError, match="no convolution or linear"):
        leptonc.compress(nn.ReLU().eval(), X, Quantize(), data=DATA)
    with pytest.raises(CompressError, match="NaN"):
        leptonc.compress(net, X, Quantize(), data=[X * float("nan")])


def test_an_already_quantized_model(net: Net) -> None:
    small = leptonc.compress(net, X, Quantize(), data=DATA)
    with pytest.raises(CompressError, match="already quantized"):
        leptonc.compress(small, X, Quantize(), data=DATA)


def test_activations_that_overflow() -> None:
    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.exp(x * 100))

    with pytest.raises(CompressError, match="fc: its inputs hold NaN or infinities"):
        leptonc.compress(Overflows().eval(), torch.ones(2, 4), Quantize(), data=[torch.ones(2, 4)])


def test_what_is_left_alone_says_why() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(40, 40)
            self.tied = nn.Linear(40, 40)
            self.tied.weight = nn.Parameter(self.tied.weight.detach())

        def forward(self, x: Tensor) -> Tensor:
            return self.tied(self.fc(x)) + self.tied.weight.sum()

    recipe = Quantize(activations=None, group=64)
    small = leptonc.compress(Tied().eval(), torch.ones(2, 40), recipe)
    reasons = [r.reason for r in small.remarks]
    assert sum("shared" in r for r in reasons) == 1
    assert any("groups of 64 do not divide 40" in r for r in reasons)
    assert [e.where for e in small.ledger] == ["fc"]


def test_biases_make_up_for_the_mean_that_rounding_takes_off() -> None:
    torch.manual_seed(0)
    net = nn.Linear(64, 16).eval()
    data = [torch.rand(50, 64) for _ in range(2)]  # one-sided: errors of weights do not cancel
    off = {}
    for correct in (False, True):
        recipe = Quantize(weights=4, activations=16, correct=correct)
        small = leptonc.compress(net, data[0], recipe, data=data)
        with torch.no_grad():
            off[correct] = torch.cat([small(x) - net(x) for x in data]).mean(0).abs().max()
    # what is left is the activations' half step of 1 in 65,535, times 64 weights of at most 1/8
    assert float(off[True]) <= 0.5 / 65535 * 64 / 8 + 1e-5 < float(off[False])


# ----- training -----------------------------------------------------------------------------------


def test_training_with_fake_quantizations_and_freezing(net: Net) -> None:
    small = leptonc.compress(net, X, Quantize(weights=4, qat=True), data=DATA)
    target = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    names = {n for n, _ in small.named_parameters()}
    assert {"fc.weight", "stem.weight", "norm.bias", "head.bias"} <= names
    small.train()
    optimizer = torch.optim.Adam(small.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (small(X) - target).square().mean()
        loss.backward()
        if not losses:  # gradients reach every weight and bias
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in small.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    small.eval()
    frozen = freeze(small)
    assert frozen.state_dict()["fc.weight"].dtype is torch.uint8
    assert not any(op.kind.NAME == "fake_quantize" for op in frozen.function.ops)
    trained = small(X).detach()
    # scales are computed in another order: codes of ties may differ
    assert float((frozen(X) - trained).norm() / trained.norm()) < 0.02
    with pytest.raises(CompressError, match="no fake quantization"):
        freeze(frozen)
    with pytest.raises(CompressError, match="takes what leptonc"):
        freeze(net)  # type: ignore[arg-type]


def test_freezing_is_a_recipe(net: Net) -> None:
    recipes = (Quantize(qat=True), FreezeQuant())
    small = leptonc.compress(net, X, *recipes, data=DATA)
    plain = leptonc.compress(net, X, Quantize(correct=False), data=DATA)
    assert any(isinstance(op.kind, ToCodes) for op in small.function.ops)
    assert kinds(small.function).count("dequantize") == kinds(plain.function).count("dequantize")


@pytest.mark.numba
def test_it_compiles_to_kernels(net: Net) -> None:
    small = leptonc.compress(net, X, Quantize(), data=DATA)
    compiled = leptonc.compile(small, X, cache=False)
    want = small(X).detach()
    assert float((compiled(X) - want).abs().max() / want.abs().max()) < 1e-5
    assert compiled.stats["ops_torch"] == 0
