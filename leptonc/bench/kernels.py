"""The suite of single units: products, convolutions, attention and what stands between them.

A name says the sizes: ``product_504x512x513`` has 504 rows, a depth of 512 and 513 columns;
``conv3_64_128_56_s2`` is a 3x3 convolution of 64 channels into 128 on 56x56 pixels with stride 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[[], nn.Module]
Shapes = Sequence[tuple[int, ...]]

# Rows, depth, columns. 504 and 84 are whole tiles of rows at 8 and at 16 lanes, 505 and 85 are not.
PRODUCTS = (
    (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048),
    (128, 768, 768), (128, 768, 3072), (128, 3072, 768),
    (384, 768, 768), (384, 768, 3072), (384, 3072, 768), (197, 768, 768), (333, 777, 555),
    (504, 512, 512), (505, 512, 512), (504, 513, 512), (504, 512, 513),
    (84, 256, 256), (85, 256, 256), (84, 256, 257),
    (16, 768, 768), (1, 768, 3072), (1, 25088, 4096),
)  # fmt: skip
# Kernel, channels in, channels out, pixels in a row, stride, groups.
CONVS = (
    (3, 64, 64, 56, 1, 1), (3, 128, 128, 28, 1, 1), (3, 256, 256, 14, 1, 1), (3, 512, 512, 7, 1, 1),
    (3, 64, 128, 112, 1, 1), (3, 256, 256, 56, 1, 1), (3, 512, 512, 28, 1, 1),
    (7, 3, 64, 224, 2, 1), (3, 64, 128, 56, 2, 1), (3, 256, 512, 14, 2, 1),
    (1, 64, 256, 56, 1, 1), (1, 256, 64, 56, 1, 1), (1, 1024, 256, 14, 1, 1),
    (1, 512, 2048, 7, 1, 1), (1, 256, 512, 56, 2, 1), (1, 96, 24, 56, 1, 1),
    (3, 144, 144, 56, 1, 144), (3, 144, 144, 56, 2, 144), (3, 384, 384, 14, 1, 384),
    (5, 240, 240, 28, 1, 240), (7, 96, 96, 56, 1, 96),
)  # fmt: skip
ELEMENTWISE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "erf": torch.erf,
    "sin": torch.sin,
    "softplus": F.softplus,
    "mish": F.mish,
}
_MANY = (1, 512, 768)  # values of an elementwise unit: 1.5 MiB


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention: query heads, heads of keys and values, size of a head, tokens."""

    query: int
    shared: int
    size: int
    tokens: int
    causal: bool = False
    padded: bool = False


ATTENTION: Mapping[str, Heads] = {
    "attention_12x64_128": Heads(12, 12, 64, 128),
    "attention_12x64_384": Heads(12, 12, 64, 384),
    "attention_12x64_384_causal": Heads(12, 12, 64, 384, causal=True),
    "attention_12x64_384_padded": Heads(12, 12, 64, 384, padded=True),
    "attention_12x64_384_gqa4": Heads(12, 4, 64, 384),
    "attention_12x32_128": Heads(12, 12, 32, 128),
    "attention_8x128_384": Heads(8, 8, 128, 384),
}


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of ``x``, any shape."""
        return self.fn(x)


class Attention(nn.Module):
    """Scaled dot-product attention; ``padded`` hides the last quarter of the keys."""

    seen: Tensor | None

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.heads = heads
        seen = torch.arange(heads.tokens) < heads.tokens * 3 // 4
        self.register_buffer("seen", seen[None, None, None] if heads.padded else None)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return f32[n,heads,t,size] for q of that shape, k and v with the shared heads."""
        h = self.heads
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.seen, is_causal=h.causal, enable_gqa=h.query != h.shared
        )


class Layer(nn.Module):
    """The states of an LSTM layer over a sequence."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states f32[n,t,size] of ``x``: f32[n,t,size]."""
        return self.lstm(x)[0]


def units() -> Iterator[tuple[str, Make, Shapes]]:
    """Yield name, maker and the shapes of the inputs, the batch of 1 first, of every unit."""
    for m, k, n in PRODUCTS:
        yield f"product_{m}x{k}x{n}", functools.partial(nn.Linear, k, n, bias=False), ((1, m, k),)
    for kernel, c, k, size, stride, groups in CONVS:
        conv = functools.partial(
            nn.Conv2d, c, k, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        kind = "depthwise" if groups > 1 else "conv"
        yield f"{kind}{kernel}_{c}_{k}_{size}_s{stride}", conv, ((1, c, size, size),)
    for name, h in ATTENTION.items():
        shared = (1, h.shared, h.tokens, h.size)
        shapes = ((1, h.query, h.tokens, h.size), shared, shared)
        yield name, functools.partial(Attention, h), shapes
    for name, fn in ELEMENTWISE.items():
        yield f"{name}_512x768", functools.partial(Function, fn), (_MANY,)
    softmax = functools.partial(nn.Softmax, dim=-1)
    yield "softmax_1536x128", softmax, ((1, 1536, 128),)
    yield "softmax_4608x384", softmax, ((1, 4608, 384),)
    yield "layer_norm_384x768", functools.partial(nn.LayerNorm, 768), ((1, 384, 768),)
    yield "max_pool3_64_112_s2", functools.partial(nn.MaxPool2d, 3, 2, 1), ((1, 64, 112, 112),)
    yield "mean_512_28", functools.partial(nn.AdaptiveAvgPool2d, 1), ((1, 512, 28, 28),)
    yield "lstm_256_32", functools.partial(Layer, 256), ((1, 32, 256),)
    yield "call_overhead", functools.partial(Function, torch.relu), ((1, 1),)
