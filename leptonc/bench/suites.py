"""The benchmark suites: networks by name, how to make them and what to feed them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leptonc.bench import kernels, vision
from leptonc.bench.encoder import Encoder
from leptonc.errors import LeptoncError

Inputs = Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Net:
    """A network of a suite. ``inputs(batch)`` makes its example; ``needs`` names a package.

    Of a ``single`` unit the benchmark also tells what share of the machine's limits it reaches.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    needs: str = ""
    single: bool = False

    @property
    def available(self) -> bool:
        """Whether the package it comes from is installed."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None


class Cell(nn.Module):
    """One step of an LSTM with its classifier, the state handed in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(64, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores f32[n,10] and the next ``h``, ``c``: f32[n,128] for ``x``: f32[n,64]."""
        h, c = self.cell(x, (h, c))
        return self.head(h), h, c


class Recurrent(nn.Module):
    """A two-layer LSTM over a sequence, and a classifier on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores f32[n,10] of sequences ``x``: f32[n,t,32]."""
        y, _ = self.lstm(x)
        return self.head(y[:, -1])


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def _conv3() -> nn.Module:
    widths = (3, 32, 64, 128)
    blocks: list[nn.Module] = []
    for c, k in itertools.pairwise(widths):
        blocks += [nn.Conv2d(c, k, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 4 * 4, 10))


def _mnist_net() -> nn.Module:
    return importlib.import_module("ccexam.models").MNISTNet(28)


def _normal(*shape: int) -> Inputs:
    """Return a maker of one batch of normal floats of this shape, the same at every call."""

    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        return (torch.randn((batch, *shape), generator=generator),)

    return inputs


def _tokens(length: int) -> Inputs:
    """Return a maker of token ids and an attention mask of ones, each i64[batch,length]."""

    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 30000, (batch, length), generator=generator)
        return ids, torch.ones_like(ids)

    return inputs


class Hidden(nn.Module):
    """A transformers encoder reduced to tensors in and one tensor out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden state f32[n,t,d] of token ids i64[n,t] under a mask i64[n,t]."""
        return self.inner(input_ids=ids, attention_mask=mask).last_hidden_state


def _bert(layers: int, width: int, heads: int) -> nn.Module:
    """BERT of these sizes: transformers' own if it is installed, else ours."""
    if importlib.util.find_spec("transformers") is None:
        return Encoder(layers=layers, width=width, heads=heads)
    transformers = vision.beside("transformers")
    config = transformers.BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    return Hidden(transformers.BertModel(config, add_pooling_layer=False))


def _distilbert() -> nn.Module:
    transformers = vision.beside("transformers")
    return Hidden(transformers.DistilBertModel(transformers.DistilBertConfig()))


def _efficientnet_lite0() -> nn.Module:
    family = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    return family.from_name("efficientnet-lite0")


def _shapes(shapes: kernels.Shapes) -> Inputs:
    """Return a maker of normal floats of these shapes, whose first size is the batch."""

    def inputs(batch: int) -> tuple[Tensor, ...]:
        return tuple(_normal(*shape[1:])(batch)[0] for shape in shapes)

    return inputs


def _vision(name: str, size: int = 224) -> Net:
    make = functools.partial(vision.make, name)
    return Net(name, make, _normal(3, size, size), needs="torchvision")


def _state(batch: int) -> tuple[Tensor, ...]:
    """Return the input f32[n,64] and the state f32[n,128], twice, of one step of an LSTM."""
    return tuple(_normal(k)(batch)[0] for k in (64, 128, 128))


_ENCODERS: Mapping[str, tuple[Callable[[], nn.Module], str]] = {
    "minilm": (functools.partial(_bert, 6, 384, 12), ""),
    "bert_base": (functools.partial(_bert, 12, 768, 12), ""),
    "distilbert": (_distilbert, "transformers"),
}


def _encoders() -> tuple[Net, ...]:
    """Return each text encoder at three lengths."""
    return tuple(
        Net(f"{name}_{t}", make, _tokens(t), needs)
        for name, (make, needs) in _ENCODERS.items()
        for t in (16, 128, 384)
    )


SUITES: Mapping[str, tuple[Net, ...]] = {
    "tiny": (
        Net("mlp", _mlp, _normal(64)),
        Net("conv3", _conv3, _normal(3, 32, 32)),
        Net("lstm_cell", Cell, _state),
        Net("mnist_net", _mnist_net, _normal(1, 28, 28), needs="ccexam"),
    ),
    "cnn": (
        *map(_vision, ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0")),
        Net("efficientnet_lite0", _efficientnet_lite0, _normal(3, 224, 224),
            needs="efficientnet_lite_pytorch"),
        *map(_vision, ("vgg16", "densenet121")),
        _vision("inception_v3", 299),
        _vision("convnext_tiny"),
    ),
    "encoder": (*_encoders(), _vision("vit_b_16")),
    # What else people run; no target is set for these.
    "zoo": (
        Net("lstm", Recurrent, _normal(16, 32)),
        *map(_vision, ("mobilenet_v3_large", "mobilenet_v3_small", "squeezenet1_1",
                       "shufflenet_v2_x1_0", "googlenet", "vgg11", "alexnet", "regnet_y_400mf",
                       "mnasnet1_0", "swin_t", "maxvit_t")),
    ),
    "kernels": tuple(
        Net(name, make, _shapes(shapes), single=True) for name, make, shapes in kernels.units()
    ),
}  # fmt: skip


def pick(suites: Sequence[str], only: Sequence[str] | None = None) -> list[Net]:
    """Return the networks of ``suites`` in order, only the named ones if ``only`` is given.

    Raises:
        LeptoncError: a suite or a network that does not exist.
    """
    for name in suites:
        if name not in SUITES:
            raise LeptoncError(f"unknown suite {name!r}; there are: {', '.join(SUITES)}")
    nets = [n for s in dict.fromkeys(suites) for n in SUITES[s]]
    if only is None:
        return nets
    known = [n.name for n in nets]
    for name in only:
        if name not in known:
            raise LeptoncError(
                f"no network {name!r} in {', '.join(suites)}; there are: {', '.join(known)}"
            )
    return [n for n in nets if n.name in only]


def build(net: Net) -> nn.Module:
    """Return the network with seeded weights, in evaluation mode, without gradients.

    Weights that start as zeros (the head of torchvision's vit) are drawn too: a net that answers
    zero to everything would agree with any contestant.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = net.make().eval().requires_grad_(False)
        for p in model.parameters():
            if p.ndim > 1 and not bool(p.any()):
                nn.init.normal_(p, std=0.02)
    return model
