"""mutation > models: small models that run the code a fault sits in.

Each is a row of :data:`MODELS`: how to make it, and its inputs. The part that a fault may hit is
a submodule named ``guilty``, so that a self-check that names its unit says that word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[[], nn.Module]


class Call(nn.Module):
    """A module that calls a function, with ``parts`` that the function may use."""

    def __init__(self, fn: Callable[..., object], **parts: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Tensor) -> object:
        """Call the function on itself and the arguments."""
        return self.fn(self, *args)


class Net(nn.Module):
    """A net of one part."""

    def __init__(self, guilty: nn.Module) -> None:
        super().__init__()
        self.guilty = guilty

    def forward(self, *args: Tensor) -> object:
        """Run the part."""
        return self.guilty(*args)


@dataclass(frozen=True)
class Model:
    """How to make a part, its inputs or their shapes, and which sizes may change."""

    make: Make
    shapes: tuple[tuple[int, ...], ...]
    inputs: Callable[[], tuple[Tensor, ...]] | None = None
    dynamic: Callable[[], Mapping[str, Any] | None] = lambda: None

    def build(self, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the net in evaluation mode and its inputs; the same for the same seed."""
        torch.manual_seed(seed)
        net = Net(self.make()).eval()
        _lively(net)
        args = self.inputs() if self.inputs else tuple(torch.randn(s) for s in self.shapes)
        return net, args


def _lively(net: nn.Module) -> None:
    """Give norms statistics, weights and biases that differ from channel to channel."""
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None and part.running_var is not None
            nn.init.normal_(part.running_mean, 0.5)
            nn.init.uniform_(part.running_var, 0.1, 2.0)
        if isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            nn.init.normal_(part.weight, 1.0, 0.5)
            nn.init.normal_(part.bias)


def _pooled(channels: int, window: int) -> nn.Module:
    """Return a convolution to 20 channels, a clamp and a max-pool with a step of two."""
    conv = nn.Conv2d(channels, 20, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(window, 2))


def _of(fn: Callable[..., object], *shapes: tuple[int, ...]) -> Model:
    """Return the model of a function of tensors."""
    return Model(lambda: Call(lambda _, *args: fn(*args)), shapes)


def _net(make: Make, *shapes: tuple[int, ...]) -> Model:
    return Model(make, shapes)


def _with(fn: Callable[..., object], make: Callable[[], dict[str, nn.Module]],
          *shapes: tuple[int, ...]) -> Model:  # fmt: skip
    return Model(lambda: Call(fn, **make()), shapes)


def _rows_may_change() -> Mapping[str, Any]:
    from leptonc import Dim  # late: a worker loads leptonc from the tree of each fault

    return {"args": ({0: Dim("rows", min=1, max=64)},)}


def _softmax_two_axes(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(1, keepdim=True))
    return e / e.sum(2, keepdim=True)


def _hand_norm(x: Tensor, unbiased: bool) -> Tensor:
    d = x - x.mean(-1, keepdim=True)
    var = x.var(-1, unbiased=True, keepdim=True) if unbiased else (d * d).mean(-1, keepdim=True)
    return d / torch.sqrt(var + 0.1)


def _hand_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


def _filled_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) * 0.3
    far = (torch.arange(6)[:, None] + torch.arange(6)[None]) % 3 == 1
    return torch.softmax(scores.masked_fill(far, -1e38), -1) @ v


def _band_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    keep = torch.tril(torch.ones(6, 6, dtype=torch.bool), 1) & ~torch.tril(
        torch.ones(6, 6, dtype=torch.bool), -2
    )
    band = torch.ones(6, 6, dtype=torch.bool).tril(-1) | keep
    wide = band & (torch.arange(6)[None] - torch.arange(6)[:, None] <= 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=wide)


def _masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=3 * q * k)


def _grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def _residual_around(self: Call, x: Tensor) -> Tensor:
    y = self.get_submodule("one")(x)
    z = self.get_submodule("two")(torch.relu(y))
    w = self.get_submodule("three")(torch.relu(z))
    return torch.relu(w + y) * torch.sigmoid(z) + x


def _two_widths(self: Call, x: Tensor) -> Tensor:
    """Return a sum whose parts of two widths leave gaps of other sizes behind."""
    a, b = (torch.tanh(self.get_submodule(n)(x)).cumsum(0) for n in ("one", "two"))
    return a.sum(-1, keepdim=True) + b.sum(-1, keepdim=True)


def _cycle(x: Tensor) -> Tensor:
    e = x.exp()
    return e / e.sum(0, keepdim=True) + 1


def _conv_bn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6, eps=0.1))


def _three_linears(self: Call, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(self.get_submodule(n)(x) for n in ("q", "k", "v"))


def _bn_two_readers(self: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.get_submodule("conv")(x)
    return self.get_submodule("bn")(y), y * 2


def _same_ends(self: Call, x: Tensor) -> Tensor:
    scale = torch.tensor([2.0, 1.0, 3.0, 2.0])
    return x * (scale * 2)


def _concat_of_convs(self: Call, x: Tensor) -> Tensor:
    y = [self.get_submodule(n)(x) for n in ("one", "two", "three")]
    return self.get_submodule("last")(torch.cat(y, 1))


def _conv_rotated(self: Call, x: Tensor) -> Tensor:
    y = self.get_submodule("conv")(x)
    return torch.relu(y.permute(2, 0, 1, 3)) + 1.0


def _plus(self: Call, x: Tensor, y: Tensor) -> Tensor:
    return self.get_submodule("linear")(x) + y


def _dead_operand(x: Tensor, y: Tensor) -> Tensor:
    torch.tanh(x)  # unused
    return torch.where(x > 0, x - y.exp(), y * 2)


def _convs(*channels: int, size: int = 3) -> dict[str, nn.Module]:
    names = ("one", "two", "three", "last")
    pairs = zip(names, channels, channels[1:], strict=False)
    return {n: nn.Conv2d(a, b, size, padding=size // 2) for n, a, b in pairs}


def _line(kernel: tuple[int, int]) -> nn.Module:
    y, x = kernel
    return nn.Conv2d(1056, 1056, kernel, padding=(y // 2, x // 2))


def _inverted() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(24, 144, 1), nn.ReLU6(), nn.Conv2d(144, 144, 3, padding=1, groups=144),
        nn.ReLU6(), nn.Conv2d(144, 24, 1),
    )  # fmt: skip


def _negative() -> tuple[Tensor, ...]:
    return (-torch.rand(1, 20, 9, 11) - 0.5,)


def _tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 50, (1, 301)),)


def _image_with_nan() -> tuple[Tensor, ...]:
    """Return an image with a NaN that only the lower line of some windows of a pool sees."""
    x = torch.randn(1, 5, 11, 13)
    x[0, 1, 4, 5] = math.nan
    return (x,)


def _with_nan() -> tuple[Tensor, ...]:
    x = torch.randn(5, 77)
    x[2, 40], x[3, 76] = math.nan, math.nan
    return (x,)


_IMAGE = (1, 4, 10, 12)
_QKV = ((2, 6, 8),) * 3
_HEADS = ((1, 4, 6, 8),) * 3

MODELS: dict[str, Model] = {
    # rules
    "cube": _of(lambda x: torch.pow(x, torch.full((), 3.0)), (3, 7)),
    "eighth": _of(lambda x: x / 8, (3, 7)),
    "sub_neg": _of(lambda x, y: x - (-y), (3, 7), (3, 7)),
    "relu_tanh": _of(lambda x: torch.relu(torch.tanh(x)), (3, 7)),
    "two_transposes": _of(lambda x: x.permute(1, 2, 0).permute(1, 0, 2) + 1, (4, 4, 4)),
    "two_slices": _of(lambda x: x[:, 1:9:2][:, 1:3] * 2, (3, 11)),
    "slice_concat": _of(lambda x, y: torch.cat([x, y], 1)[:, 4:7] * 2, (3, 4), (3, 8)),
    "two_pads": _of(lambda x: F.pad(F.pad(x, (1, 1), value=1.5), (0, 2)) * 2, (3, 4)),
    "two_flips": _of(lambda x: x.flip(0).flip(0, 1) * 2, (3, 4)),
    "where_not": _of(lambda x, y: torch.where(~(x > 0), x, y), (3, 7), (3, 7)),
    "where_where": _of(
        lambda x, y, z: torch.where(x > 0, x, torch.where(x > 0, y, z)), *((3, 7),) * 3
    ),
    "relu_six": _of(lambda x: torch.clamp(torch.relu(4 * x), max=1.0), (3, 7)),
    "truncate": _of(lambda x: (3 * x).to(torch.int32).to(torch.float32), (3, 7)),
    "softmax_two_axes": _of(_softmax_two_axes, (2, 5, 6)),
    "hand_layer_norm": _of(lambda x: _hand_norm(x, False), (3, 8)),
    "hand_norm_unbiased": _of(lambda x: _hand_norm(x, True), (3, 8)),
    "nearly_gelu": _of(lambda x: x * 0.5 * (1 + torch.erf(x * 0.75)), (3, 8)),
    "leaky_above_one": _of(lambda x: torch.where(x > 1, x, x * 0.1), (3, 8)),
    "hand_hard_swish": _of(lambda x: x * (torch.clamp(x + 3, 0, 6) / 6), (3, 8)),
    "hand_attention": _of(_hand_attention, *_QKV),
    "hand_attention_filled": _of(_filled_rows, *_QKV),
    "scaled_query": _of(lambda q, k, v: F.scaled_dot_product_attention(q * 0.5, k, v), *_HEADS),
    "band_mask": _of(_band_mask, *_HEADS),
    "one_sided_pad": _net(
        lambda: nn.Sequential(nn.ZeroPad2d((2, 0, 1, 0)), nn.Conv2d(4, 6, 3)), _IMAGE
    ),
    "pad_of_ones": _net(
        lambda: nn.Sequential(nn.ConstantPad2d(1, 1.0), nn.Conv2d(4, 6, 3)), _IMAGE
    ),
    "conv_pool_padded": _net(
        lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.AvgPool2d(3, 2, 1)), _IMAGE
    ),
    # passes
    "conv_bn": _net(_conv_bn, _IMAGE),
    "bn_conv": _net(
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)), _IMAGE
    ),
    "bn_conv_plain": _net(lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), _IMAGE),
    "bn_two_readers": _with(
        _bn_two_readers, lambda: {"conv": nn.Conv2d(4, 6, 3), "bn": nn.BatchNorm2d(6)}, _IMAGE
    ),
    "bn_alone": _net(lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()), _IMAGE),
    "cycle": _of(_cycle, (3, 7)),
    "same_ends": _with(_same_ends, dict, (3, 4)),
    "both_differences": _of(lambda x, y: (x - y) * 2 + torch.exp(y - x), (3, 7), (3, 7)),
    "two_clamps": _of(lambda x: torch.clamp(x, -1, 0.2) + 2 * torch.clamp(x, -0.3, 1), (3, 7)),
    "three_linears": _with(
        _three_linears,
        lambda: {"q": nn.Linear(8, 6), "k": nn.Linear(8, 6, bias=False), "v": nn.Linear(8, 5)},
        (3, 8),
    ),
    "two_linears": _net(lambda: nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4)), (3, 8)),
    "conv_then_strided": _net(
        lambda: nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1, stride=2)), _IMAGE
    ),
    "conv_flatten_linear": _net(
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(480, 7)),
        _IMAGE,
    ),
    "conv_rotated": _with(_conv_rotated, lambda: {"conv": nn.Conv2d(4, 6, 3)}, _IMAGE),
    "residual_around": _with(_residual_around, lambda: _convs(8, 8, 8, 8), (1, 8, 12, 12)),
    "dead_operand": _of(_dead_operand, (3, 7), (3, 7)),
    # lowering
    "conv_relu_add": _with(
        lambda self, x: torch.relu(self.conv(x)) + x,
        lambda: {"conv": nn.Conv2d(20, 20, 3, padding=1)}, (1, 20, 9, 11),
    ),
    "gated_linear": _with(
        lambda self, x, y: torch.relu(self.linear(x)) * y, lambda: {"linear": nn.Linear(20, 24)},
        (5, 20), (5, 24),
    ),
    "moved_heads": _with(
        lambda self, x, y: self.linear(x.transpose(1, 2).flatten(2)) + y,
        lambda: {"linear": nn.Linear(24, 20)}, (2, 3, 5, 8), (2, 5, 20),
    ),
    "sum_with_transposed": _with(
        lambda self, x: (lambda y: y + y.transpose(0, 1))(self.linear(x.flatten(1))),
        lambda: {"linear": nn.Linear(15, 6)}, (6, 3, 5),
    ),
    "linear_leaky": _net(lambda: nn.Sequential(nn.Linear(20, 24), nn.LeakyReLU(0.3)), (5, 20)),
    "linear_silu": _net(lambda: nn.Sequential(nn.Linear(20, 24), nn.SiLU()), (5, 20)),
    "linear_hardtanh": _net(
        lambda: nn.Sequential(nn.Linear(20, 24), nn.Hardtanh(-0.5, 0.5)), (5, 20)
    ),
    "row_and_residual": _with(_plus, lambda: {"linear": nn.Linear(24, 70)}, (1, 24), (1, 70)),
    "long_and_residual": _with(_plus, lambda: {"linear": nn.Linear(2100, 9)}, (5, 2100), (5, 9)),
    "row_of_few_columns": _net(lambda: nn.Sequential(nn.Linear(2053, 9), nn.ReLU()), (1, 2053)),
    "long_row": _net(lambda: nn.Linear(200053, 9), (1, 200053)),  # enough for two threads
    "wide_row": _net(lambda: nn.Linear(512, 992), (1, 512)),  # an odd number of panels
    "few_rows_of_many": _net(lambda: nn.Linear(1025, 1050), (3, 1025)),  # weights of 24 bits
    "many_rows": _net(lambda: nn.Sequential(nn.Linear(512, 576), nn.ReLU()), (97, 512)),
    "strided_pixels": _net(lambda: nn.Conv2d(256, 256, 1, 2), (1, 256, 21, 25)),
    "most_rows": _net(lambda: nn.Sequential(nn.Linear(512, 576), nn.GELU()), (400, 512)),
    "many_few": _net(lambda: nn.Sequential(nn.Linear(128, 96), nn.ReLU()), (400, 128)),
    "odd_panels": _net(lambda: nn.Sequential(nn.Linear(512, 608), nn.ReLU()), (97, 512)),
    "square_linear": _net(lambda: nn.Linear(24, 24), (5, 24)),
    "linear_of_inputs": _of(lambda x, w: F.linear(x, w), (5, 24), (24, 24)),
    "dilated_conv": _net(lambda: nn.Conv2d(20, 20, 3, padding=2, dilation=2), (1, 20, 9, 11)),
    "dilated_wide_conv": _net(
        lambda: nn.Conv2d(64, 64, 3, padding=2, dilation=2), (1, 64, 28, 28)
    ),
    "line_conv": _net(lambda: nn.Conv2d(32, 40, (1, 7), padding=(0, 3)), (1, 32, 9, 11)),
    "grouped_conv": _net(lambda: nn.Conv2d(32, 32, 3, padding=1, groups=8), (1, 32, 9, 11)),
    "two_wide_groups": _net(lambda: nn.Conv2d(64, 64, 3, padding=1, groups=2), (1, 64, 9, 11)),
    "depthwise_conv": _net(
        lambda: nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32), (1, 32, 9, 13)
    ),
    "transposed_conv": _net(lambda: nn.ConvTranspose2d(20, 20, 4, 2, 1), (1, 20, 7, 9)),
    "layer_norm": _net(lambda: nn.LayerNorm(37, eps=0.1), (3, 5, 37)),
    "rms_norm": _net(lambda: nn.RMSNorm(37), (3, 5, 37)),
    "add_norm": _with(
        lambda self, x, y: self.norm(x + y), lambda: {"norm": nn.LayerNorm(40)}, (7, 40), (7, 40)
    ),
    "softmax_first": _of(lambda x: torch.softmax(x, 1), (2, 5, 9)),
    "softmax_last": _of(lambda x: torch.softmax(x, -1), (3, 37)),
    "softmax_many": _of(lambda x: torch.softmax(x @ x.T, -1), (257, 300)),
    "softmax_dynamic": Model(
        lambda: Call(lambda _, x: torch.softmax(x, 0)), ((16, 6),), dynamic=_rows_may_change
    ),
    "group_norm": _net(lambda: nn.GroupNorm(4, 20), (2, 20, 3, 3)),
    "mean_pool": _net(
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 20, 9, 11)
    ),
    "max_pool": Model(lambda: nn.MaxPool2d(3, 2, 1), (), _negative),
    "image_pool": _net(lambda: _pooled(5, 2), (1, 5, 11, 13)),
    "few_pool": _net(lambda: _pooled(3, 2), (2, 3, 15, 20)),
    "strided_image": _net(lambda: nn.Conv2d(3, 33, 7, 2, 3), (2, 3, 45, 50)),
    "image_pool_of_nan": Model(lambda: _pooled(5, 2), (), _image_with_nan),
    # Weights that no cache holds: more than 32 MiB in all.
    "deep_convs": _net(lambda: nn.Sequential(*_convs(*[528] * 5).values()), (1, 528, 7, 7)),
    "late_images": _net(lambda: nn.Sequential(*_convs(*[528] * 5).values()), (1, 528, 14, 14)),
    "late_convs": _net(lambda: nn.Sequential(*map(_line, ((3, 1), (1, 3)) * 2)), (1, 1056, 4, 8)),
    "late_phases": _net(
        lambda: nn.Sequential(*(nn.Conv2d(528, 528, 3, 2, 1) for _ in range(3))), (1, 528, 48, 40)
    ),
    "cut_residual": _with(
        lambda self, x: F.silu(self.one(x)) + F.relu(self.two(x) + x), lambda: _convs(32, 32, 32),
        (1, 32, 13, 11),
    ),
    "conv_pool": _net(lambda: _pooled(32, 2), (1, 32, 15, 11)),
    "conv_pool_of_three": _net(lambda: _pooled(32, 3), (1, 32, 13, 13)),
    "grouped_attention": _of(_grouped, (1, 4, 6, 8), (1, 2, 6, 8), (1, 2, 6, 8)),
    "masked_attention": _of(_masked, *((1, 4, 40, 40),) * 3),
    "causal_attention": _of(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), *_HEADS
    ),
    "inverse_square": _of(lambda x: (x.abs() + 1) ** -2, (3, 7)),
    "lstm": _with(
        lambda self, x, h, c: self.lstm(x, (h, c))[0],
        lambda: {"lstm": nn.LSTM(12, 20, num_layers=2, bidirectional=True)},
        (5, 2, 12), (4, 2, 20), (4, 2, 20),
    ),
    "gru": _with(lambda self, x: self.gru(x)[0], lambda: {"gru": nn.GRU(12, 20)}, (5, 2, 12)),
    # kernels
    "row_sums": _of(lambda x: x.sum(-1), (5, 77)),
    "row_maxima": Model(lambda: Call(lambda _, x: x.amax(-1)), (), _with_nan),
    "deep_linear": _net(lambda: nn.Sequential(nn.Linear(4096, 24), nn.ReLU()), (9, 4096)),
    "inverted_residual": _net(_inverted, (2, 24, 56, 56)),
    "first_convolution": _net(
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU6(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU6(), nn.Conv2d(32, 16, 1),
        ),
        (2, 3, 224, 224),
    ),
    "embedding": Model(
        lambda: nn.Sequential(nn.Embedding(50, 129), nn.Linear(129, 256)), (), _tokens
    ),
    # planner
    "two_widths": _with(
        _two_widths, lambda: {"one": nn.Linear(64, 384), "two": nn.Linear(64, 256)}, (24, 64)
    ),
    "concat_of_convs": _with(
        _concat_of_convs,
        lambda: {
            **{n: nn.Conv2d(8, 8, 3, padding=1) for n in ("one", "two", "three")},
            "last": nn.Conv2d(24, 8, 1),
        },
        (1, 8, 12, 12),
    ),
    "large_batch": _with(_residual_around, lambda: _convs(32, 32, 32, 32), (8, 32, 32, 32)),
    "large_batch_softmax": _with(
        lambda self, x: self.two(torch.softmax(self.one(x), 0)),
        lambda: {"one": nn.Linear(512, 1024), "two": nn.Linear(1024, 256)}, (8, 64, 512),
    ),
    "large_products": _net(
        lambda: nn.Sequential(
            nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 256)
        ),
        (128, 256),
    ),
}  # fmt: skip
