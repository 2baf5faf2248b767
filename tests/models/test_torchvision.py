"""torchvision's networks: compiled, they match eager, and nearly all of their work is native."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import leptonc
from leptonc.bench import vision
from leptonc.show import summary

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)
QUICK = {"resnet18": 224, "mobilenet_v3_small": 224}
REST = {
    "resnet50": 224, "mobilenet_v2": 224, "squeezenet1_1": 224, "shufflenet_v2_x1_0": 224,
    "efficientnet_b0": 224, "densenet121": 224, "googlenet": 224, "vgg11": 224, "alexnet": 224,
    "regnet_y_400mf": 224, "convnext_tiny": 224, "mnasnet1_0": 224, "vit_b_16": 224, "swin_t": 224,
    "maxvit_t": 224, "inception_v3": 299, "segmentation.lraspp_mobilenet_v3_large": 224,
    "segmentation.fcn_resnet50": 224, "segmentation.deeplabv3_resnet50": 224,
}  # fmt: skip
CASES = [pytest.param(n, s, id=n) for n, s in QUICK.items()]
CASES += [pytest.param(n, s, id=n, marks=pytest.mark.slow) for n, s in REST.items()]


def _made(name: str) -> torch.nn.Module:
    """Return the network with drawn weights; what torchvision leaves at zero is drawn too."""
    torch.manual_seed(0)
    models = vision.beside("torchvision.models")
    place, _, maker = name.rpartition(".")
    options = {"weights_backbone": None} if place else {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    model = getattr(getattr(models, place) if place else models, maker)(weights=None, **options)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(0, 0.02)
    return model.eval()


@pytest.mark.parametrize(("name", "size"), CASES)
def test_matches_eager_natively(name: str, size: int) -> None:
    model, x = _made(name), torch.randn(1, 3, size, size)
    net = leptonc.compile(model, x, verify="off", cache=False)
    with torch.no_grad():
        want, got = model(x), net(x)
    want, got = (v["out"] if isinstance(v, dict) else v for v in (want, got))
    error = float((got - want).abs().max() / want.abs().max())
    done = summary.work(net.schedule)
    ops, work = done.ops_native_share, done.flops_native_share
    print(f"{name:40} error {error:.1e} ops native {ops:.1%} work native {work:.1%}")
    assert error <= 1e-4
    assert ops >= 0.90
    assert work >= 0.95
