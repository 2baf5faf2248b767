"""Nets that are saved: their sorts of arguments, results, weights and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import leptonc
from leptonc.compress import Prune, Quantize, Store, compress


@dataclasses.dataclass
class Out:
    """A result that torch does not know."""

    scores: Tensor
    hidden: Tensor | None = None


@dataclasses.dataclass
class Known:
    """A result that torch knows."""

    scores: Tensor
    hidden: Tensor | None = None


class Two(NamedTuple):
    """A named result."""

    first: Tensor
    second: Tensor


pytree.register_dataclass(Known, serialized_type_name="tests.saved.Known")


class Conv(nn.Module):
    """Weights above and below what a compiled net keeps, folded and plain."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.c, self.l = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 200)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.b(self.a(x)).relu()
        y = self.c(y) + y
        return {"out": self.l(y.mean((2, 3))), "maps": [y]}


class Tied(nn.Module):
    """An embedding whose table is the last layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(300, 24), nn.Linear(24, 300, bias=False)
        self.last.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.table(ids))


class Opaque(nn.Module):
    """Ops that run through torch, with a complex constant."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(8, 8)
        self.register_buffer("turn", torch.polar(torch.ones(8), torch.arange(8.0)))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.special.bessel_j0(self.l(x))
        return torch.view_as_real(torch.fft.fft(y) * self.turn)


class Returns(nn.Module):
    """Returns its result in a class of the user's."""

    def __init__(self, make: Callable[..., Any]) -> None:
        super().__init__()
        self.make, self.l = make, nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        return self.make(self.l(x), x * 2)


class Arguments(nn.Module):
    """Arguments by name, nested, absent; inputs and numbers among the results."""

    def forward(self, x: Tensor, more: dict[str, Any], flag: bool = False, no: Any = None) -> Any:
        y = x * more["scale"] + more["all"][0]
        return (y.relu() if flag else y), x, 3.5, None


class Random(nn.Module):
    """A result that is another one each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))


def mixed() -> nn.Module:
    return sequential().bfloat16()


X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
IDS = torch.arange(12).reshape(2, 6)
SMALL = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
NAMED = {"x": SMALL, "more": {"scale": SMALL[:1], "all": [SMALL]}, "flag": True}

Made = tuple[Callable[[], nn.Module], Any, dict[str, Any]]
NETS: dict[str, Made] = {
    "conv": (Conv, IMAGE, {}),
    "tied": (Tied, IDS, {}),
    "opaque": (Opaque, X[:, :8], {}),
    "tuple": (lambda: Returns(Two), SMALL, {}),
    "known": (lambda: Returns(Known), SMALL, {}),
    "dataclass": (lambda: Returns(Out), SMALL, {}),
    "arguments": (Arguments, NAMED, {}),
    "bf16": (mixed, X.bfloat16(), {}),
    "lstm": (lambda: nn.LSTM(6, 7), SMALL[None], {}),
    "attention": (lambda: nn.TransformerEncoderLayer(16, 2, 32), SMALL[:, :4].repeat(2, 4), {}),
    "dynamic": (sequential, X, {"dynamic": {"input": {0: leptonc.Dim("b", max=32)}}}),
    "plain sums": (sequential, X, {"precision": "strict", "threads": 1}),
    "unfused": (sequential, X, {"pipeline": "O0", "verify": "unit"}),
    **{
        name: (lambda recipes=recipes: compress(sequential().eval(), X, *recipes, data=[X]), X, {})
        for name, recipes in {
            "int8": (Quantize(),),
            "dynamic int8": (Quantize(scheme="dynamic"),),
            "w4": (Quantize(weights=4, group=32, scheme="dynamic"),),
            "sparse": (Prune(sparsity=0.9),),
            "16 bits": (Store("bf16"),),
        }.items()
    },
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, leptonc.CompiledModel, Any]:
    """Return a model, seeded, its compiled net and the example that it was compiled for."""
    make, example, options = NETS[name]
    torch.manual_seed(0)
    model = make().eval()
    return model, leptonc.compile(model, example, **options), example


def call(net: Any, example: Any) -> Any:
    with torch.no_grad():
        return net(**example) if isinstance(example, dict) else net(example)


def leaves(result: Any) -> list[Any]:
    """Return the parts of a result, whatever class holds them."""
    if dataclasses.is_dataclass(result):
        return [v for f in dataclasses.fields(result) if (v := getattr(result, f.name)) is not None]
    return pytree.tree_leaves(result)


def same(a: Any, b: Any) -> bool:
    """Return whether two results hold the same bits."""
    pairs = list(zip(leaves(a), leaves(b), strict=True))
    return bool(pairs) and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs
    )
