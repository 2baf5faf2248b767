"""Groups of the dependency analysis against Torch-Pruning's, an independent implementation."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from leptonc.bench import vision
from leptonc.capture.frontend import capture
from leptonc.compress.prune import groups_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_pruning") is None
    or importlib.util.find_spec("torchvision") is None,
    reason="torch-pruning or torchvision is not installed",
)
Found = set[tuple[int, frozenset[str], frozenset[str]]]  # units, layers cut in outputs, in inputs
LAYERS = (nn.Conv2d, nn.Linear)


def _theirs(net: nn.Module, x: torch.Tensor) -> Found:
    """Return the groups, less those that prune the network's result (they leave that to the user)."""
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(net, x)
    names = {m: n for n, m in net.named_modules()}
    found: Found = set()
    for group in graph.get_all_groups(root_module_types=list(LAYERS)):
        sides: tuple[set[str], set[str]] = (set(), set())
        for dependency, _ in group:
            module = dependency.target.module
            if isinstance(module, LAYERS) and module in names:
                out = graph.is_out_channel_pruning_fn(dependency.handler)
                sides[0 if out else 1].add(names[module])
        if sides[1]:
            found.add((len(group[0].idxs), frozenset(sides[0]), frozenset(sides[1])))
    return found


def _ours(net: nn.Module, x: torch.Tensor) -> Found:
    """Return the groups; a depthwise convolution counts as cut in its outputs alone, as theirs."""
    depthwise = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}

    def modules(weights: tuple[str, ...]) -> frozenset[str]:
        return frozenset(w.removesuffix(".weight") for w in weights)

    return {
        (g.units, modules(g.layers), modules(g.readers) - depthwise)
        for g in groups_of(capture(net, x).function, through_norms=True)
    }


SLOW = ("densenet121", "vgg11_bn")
NETS = [
    pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else [], id=n)
    for n in ("resnet18", "mobilenet_v2", "densenet121", "vgg11_bn")
]


@pytest.mark.parametrize("name", NETS)
def test_groups_are_the_same(name: str) -> None:
    net, x = vision.make(name).eval(), torch.randn(1, 3, 224, 224)
    ours = _ours(net, x)
    assert ours == _theirs(net, x) and len(ours) >= 10


def test_groups_of_a_vision_transformer_are_the_same_outside_attention() -> None:
    # Torch-Pruning takes nn.MultiheadAttention as one layer: its projections have no names there.
    models = vision.beside("torchvision.models")
    net = models.VisionTransformer(32, 16, 2, 4, 32, 48, num_classes=7).eval()
    x = torch.randn(1, 3, 32, 32)

    def outside(found: Found) -> Found:
        kept = {(n, *(frozenset(m for m in side if "self_attention" not in m) for side in sides))
                for n, *sides in found}  # fmt: skip
        return {g for g in kept if g[1]}

    ours = outside(_ours(net, x))
    assert ours == outside(_theirs(net, x)) and len(ours) == 3
