"""Small networks for pass tests: hand-made blocks, and random ones whose sums are exact.

Weights are small whole numbers, so that float sums are exact in any order and results compare bit
for bit, whatever a pass reorders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import torch
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.ir.core import Builder, Function, Op, Origin, Value
from leptonc.ir.dims import DimRange, parse_dim
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Attention, Conv, Linear
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.norm import BatchNorm, LayerNorm
from leptonc.ir.kinds.pointwise import Clamp, LeakyRelu
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, Amax, MaxPool
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.shape import Concat, Pad, Reshape, Slice, Transpose
from leptonc.ir.kinds.unary import Abs, Neg, Relu, Sigmoid, Silu
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify

F32 = DType.F32


class Net(Builder):
    """A builder that makes layers with their weights."""

    def __init__(self, name: str = "net", seed: int = 0) -> None:
        super().__init__(name)
        self.random = torch.Generator().manual_seed(seed)

    def input(self, *shape: int | str, hint: str = "x") -> Value:
        dims = tuple(parse_dim(d) if isinstance(d, str) else d for d in shape)
        names = {d for d in shape if isinstance(d, str)} - {d.name for d in self.dims}
        self.dims = (*self.dims, *(DimRange(n, 1, 64) for n in sorted(names)))
        return self.param(TensorType(F32, dims), hint)

    def weight(self, *shape: int, low: int = -2, high: int = 3) -> Value:
        t = torch.randint(low, high, shape, generator=self.random).float()
        return self(Constant(meaning.const_of(t)))

    def real(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Value:
        t = torch.rand(shape, generator=self.random) * (high - low) + low
        return self(Constant(meaning.const_of(t)))

    def conv(
        self, x: Value, n: int, k: int = 3, *, stride: int = 1, pad: int | None = None,
        groups: int = 1, bias: bool = True, module: str = "",
    ) -> Value:  # fmt: skip
        rank = x.type.rank - 2
        w = self.weight(n, int(x.type.shape[1]) // groups, *(k,) * rank)
        kind = Conv((stride,) * rank, (k // 2 if pad is None else pad,) * rank, (1,) * rank, groups)
        more = (self.weight(n),) if bias else ()
        return self(kind, x, w, *more, origin=Origin(module))

    def linear(self, x: Value, n: int, *, bias: bool = True, module: str = "") -> Value:
        w = self.weight(n, int(x.type.shape[-1]))
        return self(Linear(), x, w, *((self.weight(n),) if bias else ()), origin=Origin(module))

    def norm(self, x: Value) -> Value:
        """Return a batch norm whose scale and shift are not whole numbers."""
        c = int(x.type.shape[1])
        stats = (self.real(c), self.real(c, low=0.3, high=2.0), self.real(c, low=0.5), self.real(c))
        return self(BatchNorm(1e-5), x, *stats)


def resnet() -> Function:
    """Return a stem, a plain block, a block with a downsampling branch, and a classifier."""
    b = Net("resnet")
    y = b(Relu(), b.conv(b.input(1, 3, 16, 16), 4, module="conv1"))
    y = b(MaxPool((3, 3), (2, 2), (1, 1)), y)
    for i, stride in enumerate((1, 2)):
        x, n = y, 4 * stride
        y = b(Relu(), b.conv(x, n, stride=stride, module=f"layer{i}.conv1"))
        y = b.conv(y, n, module=f"layer{i}.conv2")
        if stride == 2:
            x = b.conv(x, n, 1, stride=2, module=f"layer{i}.downsample")
        y = b(Relu(), b(Add(), y, x))
    y = b(Reshape((1, 8)), b(AdaptiveAvgPool((1, 1)), y))
    return b.finish(b.linear(y, 5, module="fc"))


def squeeze_excite() -> Function:
    """Return an inverted residual: conv, gate from a pooled branch, projection, residual."""
    b = Net("squeeze_excite")
    x = b.input(2, 4, 8, 8)
    y = b(Silu(), b.conv(x, 8, module="expand"))
    s = b(AdaptiveAvgPool((1, 1)), y)
    s = b(Silu(), b.conv(s, 2, 1, module="se.reduce"))
    s = b(Sigmoid(), b.conv(s, 8, 1, module="se.expand"))
    y = b.conv(b(Mul(), y, s), 4, 1, module="project")
    return b.finish(b(Add(), y, x))


def transformer(batch: int | str = 2) -> Function:
    """Return one pre-norm transformer block over ``f32[batch,6,8]``, two heads."""
    b = Net("transformer")
    x = b.input(batch, 6, 8)
    n = x.type.shape[0]
    h = b(LayerNorm(1, 1e-5), x, b.weight(8), b.weight(8))
    qkv = [
        b(Transpose((0, 2, 1, 3)), b(Reshape((n, 6, 2, 4)), b.linear(h, 8, module=f"attn.{p}")))
        for p in ("q", "k", "v")
    ]
    a = b(Transpose((0, 2, 1, 3)), b(Attention(0.5), *qkv))
    x = b(Add(), x, b.linear(b(Reshape((n, 6, 8)), a), 8, module="attn.out"))
    h = b(LayerNorm(1, 1e-5), x, b.weight(8), b.weight(8))
    h = b(Silu(), b.linear(h, 16, module="mlp.0"))
    return b.finish(b(Add(), b.linear(h, 8, module="mlp.2"), x))


BLOCKS: tuple[Callable[[], Function], ...] = (resnet, squeeze_excite, transformer)

# ----- random networks ----------------------------------------------------------------------------

_POINTWISE = (Relu(), Neg(), Abs(), Clamp(-3.0, 5.0), LeakyRelu(0.5))


@st.composite
def networks(draw: st.DrawFn, max_layers: int = 8) -> Function:
    """Draw a net over images: convolutions, pools, sums, gates, concats, and a few reshapes."""
    b = Net("drawn", draw(st.integers(0, 99)))
    pool = [b.input(draw(st.integers(1, 2)), 2, 4, 4)]
    for _ in range(draw(st.integers(1, max_layers))):
        x = draw(st.sampled_from(pool))
        layer = draw(st.sampled_from(_LAYERS))
        pool.append(layer(draw, b, x, pool))
    extra = draw(st.lists(st.sampled_from(pool), max_size=2))
    return b.finish(pool[-1], *extra)


def _conv(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    k = draw(st.sampled_from((1, 3)))
    y = b.conv(x, draw(st.sampled_from((2, 4))), k, bias=draw(st.booleans()))
    if draw(st.booleans()):
        y = b(Add(), y, b.weight(int(y.type.shape[1]), 1, 1))
    return y


def _pointwise(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    return b(draw(st.sampled_from(_POINTWISE)), x)


def _pair(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    other = draw(st.sampled_from([v for v in pool if v.type == x.type]))
    operands = (x, other) if draw(st.booleans()) else (other, x)
    return b(draw(st.sampled_from((Add(), Mul()))), *operands)


def _scaled(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    if draw(st.booleans()):
        return b(Mul(), x, b(Full((), 2.0, F32)))
    gate = b(Amax((2, 3), True), x)
    return b(Mul(), x, b(Relu(), gate))


def _pool(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    return b(MaxPool((3, 3), (1, 1), (1, 1)), x)


def _concat(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    c = int(x.type.shape[1])
    other = draw(st.sampled_from([v for v in pool if v.type == x.type]))
    y = b(Concat(1), x, other)
    start = draw(st.integers(0, c))
    return b(Slice(1, start, start + c), y)


def _pad(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    y = b(Pad((0, 0, 1, 0), (0, 0, 0, 1)), x)
    return b(Slice(3, 1, 5), b(Slice(2, 0, 4), y))


def _tokens(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    """Go to tokens and back, as vision transformers do."""
    n, c = x.type.shape[:2]
    t = b(Transpose((0, 2, 1)), b(Reshape((n, c, 16)), x))
    if draw(st.booleans()):
        t = b.linear(t, int(c))
    return b(Reshape((n, c, 4, 4)), b(Transpose((0, 2, 1)), t))


def _flat(draw: st.DrawFn, b: Net, x: Value, pool: list[Value]) -> Value:
    n, c = x.type.shape[:2]
    size = int(c) * 16
    return b(Reshape((n, c, 4, 4)), b.linear(b(Reshape((n, size)), x), size, bias=False))


_LAYERS = (_conv, _conv, _conv, _pointwise, _pointwise, _pair, _pair, _scaled, _pool, _concat, _pad,
           _tokens, _flat)  # fmt: skip

# ----- checks -------------------------------------------------------------------------------------


def inputs(fn: Function, seed: int = 0, batch: int = 3) -> tuple[torch.Tensor, ...]:
    """Return whole-number inputs; symbolic sizes are ``batch``."""
    g = torch.Generator().manual_seed(seed)
    shapes = ([d if isinstance(d, int) else batch for d in p.type.shape] for p in fn.params)
    return tuple(torch.randint(-3, 4, s, generator=g).float() for s in shapes)


def assert_same_bits(before: Function, after: Function, *args: torch.Tensor) -> None:
    """Assert that two functions return the same bits (NaNs aside, which have many)."""
    args = args or inputs(before)
    verify(after)
    for w, g in zip(meaning.run(before, *args), meaning.run(after, *args), strict=True):
        assert w.dtype == g.dtype and w.shape == g.shape
        torch.testing.assert_close(g, w, rtol=0, atol=0, equal_nan=True)


def working_ops(fn: Function) -> Iterator[Op]:
    """Yield every op but constants, those of units' bodies instead of the units."""
    for op in fn.ops:
        if isinstance(op.kind, Unit):
            yield from working_ops(op.kind.body)
        elif not isinstance(op.kind, (Constant, Full)):
            yield op


def tally(fn: Function) -> Counter[object]:
    """Return how often each kind (with attributes) occurs, constants not counted."""
    return Counter(op.kind for op in working_ops(fn))


def units(fn: Function) -> list[tuple[str, str]]:
    """Return pattern and name of every unit, in order."""
    return [(op.kind.pattern, op.kind.name) for op in fn.ops if isinstance(op.kind, Unit)]
