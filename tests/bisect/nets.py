"""Two small nets of real shape, and the faults that tests plant below them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Cnn(nn.Module):
    """A stem, three blocks, a classifier with probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(24) for _ in range(3)))
        self.head = nn.Linear(24, 11)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.stem(x)).mean((2, 3))
        return torch.softmax(self.head(y), -1)


class Layer(nn.Module):
    """A pre-norm transformer layer with its attention written out by hand."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.out = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (self.split(f(h)) for f in (self.q, self.k, self.v))
        s = q @ k.transpose(-1, -2) * 0.25
        e = torch.exp(s - s.amax(-1, keepdim=True))
        p = e / e.sum(-1, keepdim=True)
        x = x + self.out((p @ v).transpose(1, 2).reshape(x.shape))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Two layers over learned tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layers = nn.Sequential(*(Layer(32, 2) for _ in range(2)))
        self.head = nn.Linear(32, 7)

    def forward(self, i: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(i)))


def cnn() -> nn.Module:
    """Return a CNN whose running variances are so small that eps matters."""
    torch.manual_seed(0)
    net = Cnn()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.2, 0.2)
            m.running_var.uniform_(1e-5, 1e-4)
            m.weight.data.uniform_(0.005, 0.01)
    return net.eval()


def transformer() -> nn.Module:
    torch.manual_seed(0)
    return Transformer().eval()
