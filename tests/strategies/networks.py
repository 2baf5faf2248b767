"""Small networks of every usual shape, with an example of what they are given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leptonc.bench.encoder import Encoder

Example = tuple[nn.Module, tuple[Tensor, ...]]


class Residual(nn.Module):
    """Two convolutions with norms and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        same = stride == 1 and before == after
        self.around = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.around(x))


class Inverted(nn.Module):
    """Wide, depthwise, a gate on the channels, narrow, as MobileNet v3 does."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(width, wide, 1)
        self.depth = nn.Conv2d(wide, wide, 3, 1, 1, groups=wide)
        self.norm = nn.GroupNorm(4, wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 6, 1), nn.Conv2d(6, wide, 1)
        self.down = nn.Conv2d(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norm(self.depth(F.hardswish(self.up(x)))))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.down(y * gate)


class Decoder(nn.Module):
    """Tokens, layers with fewer heads of keys than of queries, rotary positions, tied head."""

    def __init__(self, vocabulary: int, width: int, heads: int, groups: int, layers: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads, groups) for _ in range(layers))
        self.norm = nn.RMSNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.token.weight)


class Layer(nn.Module):
    """Attention of shared keys and a gated perceptron."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.each = heads, groups, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, groups * self.each, bias=False)
        self.value = nn.Linear(width, groups * self.each, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        y = self.norm1(x)
        q, k, v = (
            f(y).reshape(n, t, h, self.each).transpose(1, 2)
            for f, h in ((self.query, self.heads), (self.key, self.groups),
                         (self.value, self.groups))
        )  # fmt: skip
        a = F.scaled_dot_product_attention(
            self._rotated(q), self._rotated(k), v, is_causal=True, enable_gqa=True
        )
        x = x + self.out(a.transpose(1, 2).reshape(n, t, d))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))

    def _rotated(self, x: Tensor) -> Tensor:
        half = self.each // 2
        at = torch.arange(x.shape[2], dtype=torch.float32)
        angles = at[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
        turn = torch.cat((angles, angles), -1)
        left, right = x[..., :half], x[..., half:]
        return x * turn.cos() + torch.cat((-right, left), -1) * turn.sin()


class Packed(nn.Module):
    """Queries, keys and values of one product, split as GPT-2 and ViT do."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        packed = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(n, t, d))


class Attended(nn.Module):
    """``nn.MultiheadAttention``, which packs its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(20, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Sequence(nn.Module):
    """An LSTM, the last state of which is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, 2, batch_first=True), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def _resnet() -> Example:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
    body = nn.Sequential(Residual(8, 8, 1), Residual(8, 12, 2), Residual(12, 12, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    return nn.Sequential(stem, body, head), (torch.randn(2, 3, 32, 32),)


def _mobilenet() -> Example:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Inverted(8, 24), Inverted(8, 24))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten()), (torch.randn(1, 3, 16, 16),)


def _encoder() -> Example:
    ids = torch.randint(0, 30000, (2, 7))
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    return Encoder(2, 20, 5), (ids, mask)


def _layer() -> Example:
    layer = nn.TransformerEncoderLayer(20, 5, 30, batch_first=True, norm_first=True)
    return layer, (torch.randn(2, 7, 20),)


def _primes() -> Example:
    sizes = (13, 7, 11, 5)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers), (torch.randn(3, 13),)


def _upsampled() -> Example:
    net = nn.Sequential(
        nn.Conv2d(4, 10, 3, 2, 1), nn.GroupNorm(5, 10), nn.SiLU(),
        nn.ConvTranspose2d(10, 6, 4, 2, 1), nn.InstanceNorm2d(6, affine=True), nn.GELU(),
        nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 1),
    )  # fmt: skip
    return net, (torch.randn(1, 4, 12, 12),)


NETWORKS: Mapping[str, Callable[[], Example]] = {
    "resnet": _resnet,
    "mobilenet": _mobilenet,
    "encoder": _encoder,
    "decoder": lambda: (Decoder(101, 24, 6, 2, 2), (torch.randint(0, 101, (2, 5)),)),
    "packed": lambda: (Packed(20, 5), (torch.randn(2, 7, 20),)),
    "attention": lambda: (Attended(), (torch.randn(2, 7, 20),)),
    "transformer": _layer,
    "lstm": lambda: (Sequence(), (torch.randn(4, 5, 6),)),
    "primes": _primes,
    "upsampled": _upsampled,
}
