"""Functions shaped as real networks are: convolutional, attention and recurrent ones.

Their weights are fractions (a drawn seed), their batch or length may be symbolic, their widths are
odd or cross a vector's width, and patterns come both as one op and written out, as exporters do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.dims import Dim, DimRange, symbol
from leptonc.ir.kinds.binary import Add, Div, Mul, Sub
from leptonc.ir.kinds.contract import Attention, Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant, Embedding, Full, Interpolate, Recurrent
from leptonc.ir.kinds.norm import BatchNorm, GroupNorm, LayerNorm, RmsNorm, Softmax
from leptonc.ir.kinds.pointwise import Clamp, Elu, Gelu, LeakyRelu
from leptonc.ir.kinds.reduce import (
    AdaptiveAvgPool,
    Amax,
    AvgPool,
    CumSum,
    MaxPool,
    Mean,
    Sum,
    Var,
)
from leptonc.ir.kinds.shape import Concat, Expand, Flip, Pad, Reshape, Roll, Slice, Transpose
from leptonc.ir.kinds.unary import Abs, Exp, Neg, Relu, Sigmoid, Silu, Sqrt, Tanh
from leptonc.ir.types import DType, TensorType

from .operands import Draw

ACTIVATIONS: tuple[Kind, ...] = (
    Relu(), Silu(), Clamp(0.0, 6.0), Gelu(), Gelu(tanh=True), Sigmoid(), Tanh(), LeakyRelu(0.1),
    Elu(), Abs(),
)  # fmt: skip
WIDTHS = (2, 3, 5, 16, 17)  # channels: odd ones, a vector's width, one beyond it
ROWS = 9  # of an embedding table; drawn indices stay below
Layer = Callable[["Net", Value], Value]


class Net(Builder):
    """A builder of layers with drawn weights."""

    def __init__(self, draw: Draw, name: str) -> None:
        super().__init__(name)
        self.draw = draw
        self.random = torch.Generator().manual_seed(draw(st.integers(0, 255)))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def among(self, *options):
        return self.draw(st.sampled_from(options))

    def dim(self, name: str, most: int) -> Dim:
        """Return a drawn size, or a symbol that ranges from 1 to ``most``."""
        if self.flip():
            return self.draw(st.integers(1, most))
        self.dims = (*self.dims, DimRange(name, 1, most))
        return symbol(name)

    def constant(self, t: torch.Tensor) -> Value:
        return self(Constant(meaning.const_of(t)))

    def weight(self, *shape: int) -> Value:
        """Return weights that keep a layer's results about as large as its operands."""
        fan_in = math.prod(shape[1:])
        return self.constant(torch.randn(shape, generator=self.random) / math.sqrt(fan_in))

    def vector(self, n: int, low: float = -1.0, high: float = 1.0) -> Value:
        return self.constant(torch.rand(n, generator=self.random) * (high - low) + low)

    def scalar(self, value: float) -> Value:
        return self(Full((), value, DType.F32))

    def linear(self, x: Value, n: int, bias: bool | None = None) -> Value:
        bias = self.flip() if bias is None else bias
        w = self.weight(n, int(x.type.shape[-1]))
        return self(Linear(), x, w, *((self.vector(n),) if bias else ()))

    def activation(self, x: Value) -> Value:
        return self(self.among(*ACTIVATIONS), x)


# ----- convolutional ------------------------------------------------------------------------------


def _room(x: Value) -> int:
    return min(int(d) for d in x.type.shape[2:])


def _conv(net: Net, x: Value, n: int | None = None, stride: int | None = None) -> Value:
    """Convolve: dense, grouped or depthwise, with zeros on both sides or on one only."""
    c, room = int(x.type.shape[1]), _room(x)
    groups = net.among(1, 1, c) if n in (None, c) else 1
    if n is None:
        n = c if groups > 1 else net.among(*WIDTHS)
    k = net.among(*(k for k in (1, 3, 5) if k <= room))
    stride = net.among(1, 1, 2) if stride is None else stride
    dilation = net.among(1, 1, 2) if k == 3 and room >= 5 else 1
    pad = dilation * (k // 2)
    after = (pad + 1, pad + 1) if net.among(0, 0, 0, 1) and stride == 2 else ()
    kind = Conv((stride,) * 2, (pad,) * 2, (dilation,) * 2, groups, after)
    w = net.weight(n, c // groups, k, k)
    return net(kind, x, w, *((net.vector(n),) if net.flip() else ()))


def _batch_norm(net: Net, x: Value) -> Value:
    c = int(x.type.shape[1])
    stats = (net.vector(c), net.vector(c, 0.3, 2.0), net.vector(c, 0.5, 1.5), net.vector(c))
    return net(BatchNorm(1e-5), x, *stats)


def _conv_block(net: Net, x: Value) -> Value:
    y = _conv(net, x)
    y = _batch_norm(net, y) if net.flip() else y
    return net.activation(y) if net.flip() else y


def _residual(net: Net, x: Value) -> Value:
    c = int(x.type.shape[1])
    y = net(Relu(), _batch_norm(net, _conv(net, x, c, 1)))
    y = net(Add(), _batch_norm(net, _conv(net, y, c, 1)), x)
    return net(Relu(), y) if net.flip() else y


def _gate(net: Net, x: Value) -> Value:
    """Squeeze and excite: scale each channel by a gate computed from all of the image."""
    c = int(x.type.shape[1])
    s = net(AdaptiveAvgPool((1, 1)), x) if net.flip() else net(Mean((2, 3), True), x)
    s = net(Silu(), net(Conv((1, 1), (0, 0), (1, 1)), s, net.weight(2, c, 1, 1)))
    s = net(Conv((1, 1), (0, 0), (1, 1)), s, net.weight(c, 2, 1, 1), net.vector(c))
    return net(Mul(), x, net(Sigmoid(), s))


def _branches(net: Net, x: Value) -> Value:
    parts = [_conv(net, x, net.among(2, 3), 1), _conv(net, x, net.among(2, 3), 1), x]
    return net(Concat(1), *parts[: net.among(2, 3)])


def _pool(net: Net, x: Value) -> Value:
    if _room(x) < 3:
        return net(AdaptiveAvgPool((1, 1)), x)
    k = net.among(2, 3)
    window = ((k, k), (net.among(1, 2),) * 2, (k // 2,) * 2)
    ceil = net.flip()
    if net.flip():
        return net(MaxPool(*window, ceil), x)
    return net(AvgPool(*window, ceil, net.flip()), x)


def _resample(net: Net, x: Value) -> Value:
    size = tuple(2 * int(d) for d in x.type.shape[2:])
    if max(size) > 24:
        return net(AvgPool((2, 2), (2, 2), (0, 0)), x)
    if net.flip():
        mode = net.among("nearest", "linear")
        return net(Interpolate(size, mode), x)
    c = int(x.type.shape[1])
    kind = ConvTranspose((2, 2), (0, 0), (0, 0), (1, 1))
    return net(kind, x, net.weight(c, 3, 2, 2), net.vector(3))


def _shuffle(net: Net, x: Value) -> Value:
    """Move channels or pixels about."""
    n, c, h, w = x.type.shape
    choice = net.among(0, 1, 2, 3)
    if choice == 0 and int(c) % 2 == 0:
        y = net(Transpose((0, 2, 1, 3, 4)), net(Reshape((n, 2, int(c) // 2, h, w)), x))
        return net(Reshape((n, c, h, w)), y)
    if choice == 1:
        return net(Pad((0, 0, 1, 0), (0, 0, 0, 1), "constant", 0.5), x)
    if choice == 2:
        return net(Roll((1, -1), (2, 3)), x)
    return net(Flip((3,)), x)


def _group_norm(net: Net, x: Value) -> Value:
    c = int(x.type.shape[1])
    groups = net.among(*(g for g in (1, 2, c) if c % g == 0))
    return net(GroupNorm(groups, 1e-5), x, net.vector(c), net.vector(c))


_IMAGE_LAYERS: tuple[Layer, ...] = (
    _conv_block, _conv_block, _conv_block, _residual, _gate, _branches, _pool, _resample, _shuffle,
    _group_norm,
)  # fmt: skip


@st.composite
def cnns(draw: st.DrawFn, max_layers: int = 4) -> Function:
    """Draw a convolutional net over ``f32[n,c,h,w]``: stem, drawn layers, maybe a classifier."""
    net = Net(draw, "cnn")
    side = [draw(st.integers(3, 11)) for _ in range(2)]
    n = net.dim("n", 3)
    x = net.param(TensorType(DType.F32, (n, net.among(1, 3, 4), *side)), "image")
    y = _conv_block(net, x)
    for _ in range(draw(st.integers(0, max_layers))):
        y = net.among(*_IMAGE_LAYERS)(net, y)
    head = net.among("none", "pool", "flat")
    c, h, w = (int(d) for d in y.type.shape[1:])
    if head == "pool":
        y = net(Reshape((n, c)), net(AdaptiveAvgPool((1, 1)), y))
    elif head == "flat":
        y = net(Reshape((n, c * h * w)), y)
    if head != "none":
        y = net.linear(y, net.among(1, 5, 10))
        y = net(Softmax(1), y) if net.flip() else y
    return net.finish(y)


# ----- attention ----------------------------------------------------------------------------------


def _norm(net: Net, x: Value) -> Value:
    """Return a layer or RMS norm over the last axis, as one op or written out."""
    d = int(x.type.shape[-1])
    axis = x.type.rank - 1
    if net.flip():
        return net(LayerNorm(1, 1e-5), x, net.vector(d, 0.5, 1.5), net.vector(d))
    if net.flip():
        return net(RmsNorm(1, 1e-6, "weight"), x, net.vector(d, 0.5, 1.5))
    centred = net(Sub(), x, net(Mean((axis,), True), x))
    var = net(Var((axis,), True, 0.0), x)
    y = net(Div(), centred, net(Sqrt(), net(Add(), var, net.scalar(1e-5))))
    return net(Add(), net(Mul(), y, net.vector(d, 0.5, 1.5)), net.vector(d))


def _attend(net: Net, q: Value, k: Value, v: Value, mask: Value | None) -> Value:
    """Return attention over the last two axes, as one op or written out."""
    scale = 1.0 / math.sqrt(int(q.type.shape[-1]))
    if net.flip():
        causal = mask is None and net.flip()
        return net(Attention(scale, causal), q, k, v, *(() if mask is None else (mask,)))
    rank = q.type.rank
    back = net(Transpose((*range(rank - 2), rank - 1, rank - 2)), k)
    scores = net(Mul(), net(Matmul(), q, back), net.scalar(scale))
    scores = scores if mask is None else net(Add(), scores, mask)
    return net(Matmul(), net(Softmax(rank - 1), scores), v)


def _heads(net: Net, x: Value, heads: int) -> Value:
    b, s, d = x.type.shape
    return net(Transpose((0, 2, 1, 3)), net(Reshape((b, s, heads, int(d) // heads)), x))


def _rotated(net: Net, x: Value) -> Value:
    """Rotary positions: ``x * cos + rotate_half(x) * sin`` with drawn angles, one row for all."""
    d = int(x.type.shape[-1])
    half = (net(Slice(3, d // 2, d), x), net(Slice(3, 0, d // 2), x))
    turned = net(Concat(3), net(Neg(), half[0]), half[1])
    return net(Add(), net(Mul(), x, net.vector(d)), net(Mul(), turned, net.vector(d)))


def _self_attention(net: Net, x: Value) -> Value:
    b, s, d = x.type.shape
    heads = net.among(*(h for h in (1, 2) if int(d) % h == 0))
    if net.flip():
        q, k, v = (_heads(net, net.linear(x, int(d)), heads) for _ in range(3))
    else:
        joined = net.linear(x, 3 * int(d))
        cuts = (net(Slice(2, i * int(d), (i + 1) * int(d)), joined) for i in range(3))
        q, k, v = (_heads(net, c, heads) for c in cuts)
    if int(d) // heads % 2 == 0 and net.flip():
        q, k = _rotated(net, q), _rotated(net, k)
    mask = net.vector(1, -1.0, 0.0) if net.flip() else None
    if mask is not None:
        mask = net(Expand((s, s)), net(Reshape((1, 1)), mask))
    y = net(Transpose((0, 2, 1, 3)), _attend(net, q, k, v, mask))
    return net.linear(net(Reshape((b, s, d)), y), int(d))


def _mlp(net: Net, x: Value) -> Value:
    d, wide = int(x.type.shape[-1]), net.among(3, 8, 33)
    if net.flip():
        y = net(Mul(), net(Silu(), net.linear(x, wide)), net.linear(x, wide))
    else:
        y = net.activation(net.linear(x, wide))
    return net.linear(y, d)


def _written_softmax(net: Net, x: Value) -> Value:
    axis = (x.type.rank - 1,)
    e = net(Exp(), net(Sub(), x, net(Amax(axis, True), x)))
    return net(Div(), e, net(Sum(axis, True), e))


@st.composite
def attentions(draw: st.DrawFn, max_blocks: int = 2) -> Function:
    """Draw a transformer over ``f32[b,s,d]`` or over token numbers ``i64[b,s]``."""
    net = Net(draw, "attention")
    b, s, d = net.dim("b", 3), net.dim("s", 5), net.among(2, 4, 6, 16, 18)
    if net.flip():
        x = net.param(TensorType(DType.F32, (b, s, d)), "tokens")
    else:
        ids = net.param(TensorType(DType.I64, (b, s)), "ids")
        x = net(Embedding(), net.weight(ROWS, d), ids)
    for _ in range(draw(st.integers(1, max_blocks))):
        if net.flip():  # norm first
            x = net(Add(), x, _self_attention(net, _norm(net, x)))
            x = net(Add(), x, _mlp(net, _norm(net, x)))
        else:
            x = _norm(net, net(Add(), x, _self_attention(net, x)))
            x = _norm(net, net(Add(), x, _mlp(net, x)))
    head = net.among("none", "mean", "words")
    if head == "mean":
        x = net(Tanh(), net.linear(net(Mean((1,)), x), d))
    elif head == "words":
        x = _written_softmax(net, net.linear(x, ROWS, bias=False))
    return net.finish(x)


# ----- recurrent ----------------------------------------------------------------------------------

_GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


def _whole(net: Net, x: Value, hidden: int) -> tuple[Value, ...]:
    """Return the results of one ``recurrent`` op: any cell, layers, directions, bias."""
    cell = net.among(*_GATES)
    layers, both, bias = net.among(1, 2), net.flip(), net.flip()
    directions, gates = 1 + both, _GATES[cell]
    state = x.type.with_shape((layers * directions, x.type.shape[1], hidden))
    zero = net(Full(state.shape, 0.0, DType.F32))
    states = [zero if net.flip() else net.param(state, "h") for _ in range(1 + (cell == "lstm"))]
    weights: list[Value] = []
    for layer in range(layers):
        wide = int(x.type.shape[2]) if layer == 0 else hidden * directions
        for _ in range(directions):
            weights += [net.weight(gates * hidden, k) for k in (wide, hidden)]
            weights += [net.vector(gates * hidden) for _ in range(2 * bias)]
    return net.emit(Recurrent(cell, layers, both, bias), x, *states, *weights)


def _unrolled(net: Net, x: Value, steps: int, hidden: int) -> Value:
    """Return the last state of a gated cell, step after step, weights shared by all steps."""
    b, k = x.type.shape[1:]
    w, u, bias = net.weight(2 * hidden, int(k)), net.weight(2 * hidden, hidden), net.vector(hidden)
    h = net(Full((b, hidden), 0.0, DType.F32))
    states: list[Value] = []
    for t in range(steps):
        now = net(Reshape((b, k)), net(Slice(0, t, t + 1), x))
        z = net(Add(), net(Linear(), now, w), net(Linear(), h, u))
        gate = net(Sigmoid(), net(Slice(1, 0, hidden), z))
        new = net(Tanh(), net(Add(), net(Slice(1, hidden, 2 * hidden), z), bias))
        h = net(Add(), net(Mul(), gate, new), net(Mul(), net(Sub(), net.scalar(1.0), gate), h))
        states.append(net(Reshape((1, b, hidden)), h))
    return h if net.flip() else net(Concat(0), *states)


@st.composite
def recurrents(draw: st.DrawFn) -> Function:
    """Draw a recurrent net over ``f32[t,b,k]``: one op or unrolled, maybe with a head."""
    net = Net(draw, "recurrent")
    hidden, k = net.among(1, 3, 16, 17), net.among(1, 4, 7)
    if net.flip():
        steps = draw(st.integers(1, 4))
        x = net.param(TensorType(DType.F32, (steps, net.dim("b", 3), k)), "x")
        y = _unrolled(net, x, steps, hidden)
        more: tuple[Value, ...] = ()
    else:
        # One run of the op needs its sizes: the time axis may still be symbolic.
        x = net.param(TensorType(DType.F32, (net.dim("t", 5), net.dim("b", 3), k)), "x")
        y, *states = _whole(net, x, hidden)
        more = tuple(states) if net.flip() else ()
    head = net.among("none", "linear", "sum")
    if head == "linear":
        y = net.activation(net.linear(y, net.among(1, 5)))
    elif head == "sum":
        y = net(CumSum(0), y)
    return net.finish(y, *more)


def models() -> st.SearchStrategy[Function]:
    """Return a strategy of functions of any of the three shapes."""
    return cnns() | attentions() | recurrents()
