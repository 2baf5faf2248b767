"""Every kind with a rule of its own, on one small network each: pruned equals masked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from strategies.pruning import rounding_bound, run_masked
from torch import Tensor, nn

from leptonc import meaning
from leptonc.capture.frontend import capture
from leptonc.compress.prune.groups import Analysis, analyze
from leptonc.compress.prune.rebuild import without
from leptonc.ir.verify import verify

F = nn.functional
Body = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A convolution, ``body`` on its 8 channels, and a convolution of ``after`` channels."""

    def __init__(self, body: nn.Module | Body, after: int = 8) -> None:
        super().__init__()
        self.a, self.body, self.b = nn.Conv2d(3, 8, 1), body, nn.Conv2d(after, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.body(self.a(x)))


class Memory(nn.Module):
    """Attention to learned tokens: their number is nobody's input, and softmax runs over it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.tokens = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(t).view(t.shape[0], -1, 4, 2).transpose(1, 2)
            for f, t in ((self.q, x), (self.k, self.tokens), (self.v, self.tokens))
        )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.a = nn.Parameter(torch.randn(6, 5, 2)), nn.Linear(2, 3)
        self.register_buffer("at", torch.tensor([0, 3, 1]))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.a(F.linear(self.table[self.at], self.table[0]).relu()[..., :2])
        return x.mean() + bias


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).view(1, 8, 4, 4)


def _over_channels(x: Tensor) -> Tensor:
    y = x.flatten(2)
    return F.scaled_dot_product_attention(y, y, y).view_as(x)


SCALE = torch.randn(8, 1, 1, generator=torch.Generator().manual_seed(3))
CASES: dict[str, Callable[[], nn.Module]] = {
    "grouped": lambda: Between(nn.Conv2d(8, 8, 3, groups=4)),
    "grouped, wider": lambda: Between(nn.Conv2d(8, 12, 3, groups=4), 12),
    "grouped, narrower": lambda: Between(nn.Conv2d(8, 4, 3, groups=2), 4),
    "depthwise": lambda: Between(nn.Conv2d(8, 16, 3, groups=8), 16),
    "transposed": lambda: Between(nn.ConvTranspose2d(8, 6, 2), 6),
    "transposed, grouped": lambda: Between(nn.ConvTranspose2d(8, 12, 2, groups=4), 12),
    "group norm": lambda: Between(nn.GroupNorm(4, 8)),
    "instance norm": lambda: Between(nn.GroupNorm(8, 8)),
    "batch norm": lambda: Between(nn.BatchNorm2d(8)),
    "pools": lambda: Between(nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(2))),
    "resized": lambda: Between(lambda x: F.interpolate(x, size=(7, 7), mode="bilinear")),
    "padded": lambda: Between(lambda x: F.pad(x, (1, 1, 0, 0, 1, 2)), 11),
    "reflected": lambda: Between(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "rolled": lambda: Between(lambda x: x.roll(1, 2).flip(3)),
    "channels rolled": lambda: Between(lambda x: x + x.roll(1, 1)),
    "chunks": lambda: Between(lambda x: x[:, :4] * x[:, 4:].sigmoid(), 4),
    "every other": lambda: Between(lambda x: x[:, ::2], 4),
    "summed": lambda: Between(lambda x: x + x.sum(1, keepdim=True)),
    "largest": lambda: Between(lambda x: x + x.amax(1, keepdim=True)),
    "softmax over channels": lambda: Between(lambda x: x.softmax(1)),
    "softmax over places": lambda: Between(lambda x: x.softmax(2)),
    "running sum": lambda: Between(lambda x: x.cumsum(1)),
    "where": lambda: Between(lambda x: torch.where(x > SCALE, x, SCALE * 2)),
    "expanded": lambda: Between(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 3, 3)),
    "flat and back": lambda: Between(_flat),
    "gram": lambda: Between(lambda x: torch.einsum("bchw,bdhw->bcd", x, x)[..., None]),
    "lower": lambda: Between(lambda x: x.tril()),
    "attention over channels": lambda: Between(_over_channels),
    "memory": Memory,
    "table": Looked,
}


def _first_of_each(analysis: Analysis) -> dict[int, set[int]]:
    seeds: dict[tuple[object, int], list[int]] = {}
    for group in analysis.groups:
        slot = group.slots[0]
        seeds.setdefault(slot.members[0], []).extend(slot.blocks[0])
    return analysis.removed(seeds)  # type: ignore[arg-type]


PINNED = ("channels rolled", "largest", "every other", "softmax over channels", "running sum",
          "gram", "table", "attention over channels")  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pruned_equals_masked(name: str) -> None:
    torch.manual_seed(0)
    net = CASES[name]().double().eval()
    x = torch.randn(1, 6, 8) if name == "memory" else torch.randn(1, 3, 4, 4)
    analysis = analyze(capture(net, x.double()).function)
    assert bool(analysis.groups) != (name in PINNED)
    if name in PINNED:
        return
    gone = _first_of_each(analysis)
    small = without(analysis, gone)
    verify(small)
    want = run_masked(analysis, gone, [x.double()])
    got = meaning.run(small, x.double())
    bound = rounding_bound(analysis, gone, [x.double()])
    assert max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)) <= bound
