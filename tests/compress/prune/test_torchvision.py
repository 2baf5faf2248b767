"""torchvision's networks at 30 %: pruned, equal to the masked network, trained and compiled."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from strategies.pruning import rounding_bound, run_masked
from torch import nn

import leptonc
from leptonc import meaning
from leptonc.bench import vision
from leptonc.capture.frontend import capture
from leptonc.compress.prune import Prune
from leptonc.compress.prune.groups import Analysis, analyze
from leptonc.compress.prune.select import Removal
from leptonc.compress.recipe import Context, Edit
from leptonc.cost.flops import op_cost
from leptonc.ir.core import Function, Value
from leptonc.ir.kinds import contract
from leptonc.ir.kinds.data import Constant
from leptonc.ir.verify import verify

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)
QUICK = {"resnet18": 64, "mobilenet_v3_small": 64}
REST = {
    "resnet50": 224, "mobilenet_v2": 224, "squeezenet1_1": 224, "shufflenet_v2_x1_0": 224,
    "efficientnet_b0": 224, "densenet121": 224, "googlenet": 224, "vgg11": 224, "alexnet": 224,
    "regnet_y_400mf": 224, "convnext_tiny": 224, "mnasnet1_0": 224, "vit_b_16": 224, "swin_t": 224,
    "maxvit_t": 224, "inception_v3": 299, "segmentation.lraspp_mobilenet_v3_large": 224,
    "segmentation.fcn_resnet50": 224, "segmentation.deeplabv3_resnet50": 224,
}  # fmt: skip
CASES = [pytest.param(n, s, id=n) for n, s in QUICK.items()]
CASES += [pytest.param(n, s, id=n, marks=pytest.mark.slow) for n, s in REST.items()]
MULTIPLIES = (contract.Conv, contract.Linear, contract.Matmul, contract.Attention)


def _made(name: str) -> nn.Module:
    torch.manual_seed(0)
    place, _, maker = name.rpartition(".")
    if not place:
        return vision.make(name).eval()
    models = getattr(vision.beside("torchvision.models"), place)
    return getattr(models, maker)(weights=None, weights_backbone=None).eval()


def _gone(analysis: Analysis, edits: list[Edit]) -> dict[int, set[int]]:
    values = {name: value for value, name in analysis.names.items()}
    seeds: dict[tuple[Value, int], list[int]] = {}
    for edit in edits:
        assert isinstance(edit.make, Removal)
        for seed in edit.make.seeds:
            seeds.setdefault((values[seed.name], seed.axis), []).extend(seed.indices)
    return analysis.removed(seeds)


def _parameters(fn: Function) -> int:
    return sum(int(op.result.type.numel) for op in fn.ops if isinstance(op.kind, Constant))


def _macs(fn: Function) -> int:
    return sum(int(op_cost(op).flops) // 2 for op in fn.ops if isinstance(op.kind, MULTIPLIES))


@pytest.mark.parametrize(("name", "size"), CASES)
def test_pruned_equals_masked(name: str, size: int) -> None:
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    fn = capture(_made(name), x).function
    analysis = analyze(fn)
    edits = list(Prune(0.3).plan(fn, Context()))
    gone, small = _gone(analysis, edits), fn
    for edit in edits:  # one after another, as the road makes them
        before, small = small, edit.make(small)
        assert small is not before
    verify(small)
    want = run_masked(analysis, gone, [x.double()])
    got = meaning.run(small, x, precision="f64")
    error = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
    bound = rounding_bound(analysis, gone, [x.double()])
    print(f"{name:40} | {_parameters(fn) / 1e6:.2f} | {_parameters(small) / 1e6:.2f} | "
          f"{_macs(fn) / 1e9:.3f} | {_macs(small) / 1e9:.3f} | {error:.1e} | {bound:.1e}")  # fmt: skip
    assert error <= bound
    for group in analysis.groups:
        out = {s.axis: len(gone.get(s.axis, ())) for s in group.slots}
        units = sum(
            set(b) <= gone.get(s.axis, set()) for s in group.slots[:1] for b in s.blocks
        )  # fmt: skip
        assert units < group.units and out
        step = 8 / min(8, group.width)
        if group.units > step:
            assert abs(units - 0.3 * group.units) <= max(step / 2, 0.5) or units == 0


@pytest.mark.parametrize("name", QUICK)
def test_it_compiles_to_what_it_computes(name: str) -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    small = leptonc.compress(_made(name), x, leptonc.Prune(0.3))
    with torch.no_grad():
        want = small(x)
    got = leptonc.compile(small, x, cache=False)(x)
    assert float((got - want).abs().max()) <= 1e-4 * float(want.abs().max())
