"""Random networks to prune, and the masked program that a pruned one is held to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.compress.prune.groups import Analysis
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds import binary, contract, data, norm, pointwise, reduce, shape, unary
from leptonc.ir.types import DType, TensorType

Draw = st.DrawFn
_SIDE = 2  # of feature maps: a mean over them divides by a power of two, so it is exact
_WIGGLE = 2.0**-30


def run_masked(
    analysis: Analysis, gone: dict[int, set[int]], args: Sequence[Tensor], wiggle: int | None = None
) -> tuple[Tensor, ...]:
    """Return what the whole program computes where all that is ``gone`` is zero in every value.

    With ``wiggle``, the seed of signs, every float that is computed is off by a relative 2^-30.
    """
    fn, rng = analysis.fn, torch.Generator().manual_seed(wiggle or 0)
    env: dict[Value, Tensor] = dict(zip(fn.params, args, strict=True))
    for op in fn.ops:
        made = meaning.apply(op.kind, *(env[v] for v in op.operands))
        for value, t in zip(op.results, made, strict=True):
            t = t.double() if t.is_floating_point() else t
            if wiggle is not None and t.is_floating_point():
                sign = torch.randint(0, 2, t.shape, generator=rng).double() * 2 - 1
                t = t * (1 + _WIGGLE * sign)
            for axis in range(t.dim()):
                number = analysis.relations.axes.get((value, axis))
                if number is not None and (out := gone.get(analysis.relations.rep(number))):
                    t = t.index_fill(axis, torch.tensor(sorted(out)), 0)
            env[value] = t
    return tuple(env[v] for v in fn.returns)


def rounding_bound(
    analysis: Analysis, gone: dict[int, set[int]], args: Sequence[Tensor]
) -> float:
    """Return how far two orders of the same float64 sums can end up from one another.

    A sum of n products is off by at most a relative n * 2^-53 of the sum of magnitudes (Higham,
    Accuracy and Stability, 3.1). What a relative 2^-30 on every value does to the results is
    measured; to first order the rounding of both programs does 2 n 2^-53 / 2^-30 times that.
    Operands are wiggled before every sum, so sums of mixed signs are covered, too.
    """
    plain = run_masked(analysis, gone, args)
    moved = max(
        float((a - b).abs().max())
        for seed in (1, 2, 3)
        for a, b in zip(plain, run_masked(analysis, gone, args, seed), strict=True)
    )
    return moved * 2 * _longest_sum(analysis.fn) * 2.0**-53 / _WIGGLE


def _longest_sum(fn: Function) -> int:
    """Return an upper bound of the terms in any one sum of ``fn``: taps by channels, or maps."""
    terms = [1]
    for op in fn.ops:
        shapes = [[int(n) for n in v.type.shape] for v in op.operands]
        if isinstance(op.kind, contract.Conv | contract.Linear):
            terms.append(math.prod(shapes[1][1:]))
        elif op.operands:
            terms.append(max((math.prod(s[-2:]) for s in shapes), default=1))
    return max(terms)


@st.composite
def removals(draw: Draw, analysis: Analysis) -> dict[int, set[int]]:
    """Draw units of the groups of a program, never all of one, and return all that goes with them.

    At least one unit goes where there is any group.
    """
    groups = analysis.groups
    forced = draw(st.integers(0, max(len(groups) - 1, 0)))
    seeds: dict[tuple[Value, int], list[int]] = {}
    for n, group in enumerate(groups):
        least = 1 if n == forced else 0
        units = draw(st.sets(st.integers(0, group.units - 1), min_size=least,
                             max_size=group.units - 1))  # fmt: skip
        slot = group.slots[0]
        seeds.setdefault(slot.members[0], []).extend(i for u in units for i in slot.blocks[u])
    return analysis.removed({k: v for k, v in seeds.items() if v})


@dataclass
class Net:
    """A network under construction: the builder, its random weights and how they are drawn."""

    draw: Draw
    b: Builder = field(default_factory=lambda: Builder("drawn"))
    whole: bool = True  # small integers: sums are exact in any order
    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = torch.Generator().manual_seed(self.draw(st.integers(0, 2**31)))

    def tensor(self, *sizes: int) -> Tensor:
        """Return random weights."""
        if self.whole:
            return torch.randint(-2, 3, sizes, generator=self.rng).double()
        return torch.randn(sizes, generator=self.rng, dtype=torch.float64) / math.sqrt(sizes[-1])

    def constant(self, tensor: Tensor, name: str = "") -> Value:
        """Emit a constant of a name of its own."""
        self.seed += 1
        const = meaning.const_of(tensor)
        return self.b(data.Constant(const), hint=f"m{self.seed}.{name or 'weight'}")

    def emit(self, kind: Kind, *operands: Value) -> Value:
        """Emit an op of one result."""
        return self.b(kind, *operands)

    def linear(self, x: Value, n: int, bias: bool = True) -> Value:
        """Emit a linear layer of ``n`` outputs."""
        w = self.constant(self.tensor(n, int(x.type.shape[-1])))
        extra = (self.constant(self.tensor(n), "bias"),) if bias else ()
        return self.emit(contract.Linear(), x, w, *extra)

    def conv(self, x: Value, n: int, taps: int, groups: int = 1) -> Value:
        """Emit a convolution of ``n`` outputs that keeps the size of the map."""
        c = int(x.type.shape[1]) // groups
        w = self.constant(self.tensor(n, c, taps, taps))
        extra = (self.constant(self.tensor(n), "bias"),) if self.draw(st.booleans()) else ()
        pad = (taps // 2,) * 2
        return self.emit(contract.Conv((1, 1), pad, (1, 1), groups), x, w, *extra)


def _channels(x: Value) -> int:
    return int(x.type.shape[1])


def _conv(net: Net, x: Value, pool: list[Value]) -> Value:
    return net.conv(x, net.draw(st.sampled_from((2, 4, 6))), net.draw(st.sampled_from((1, 3))))


def _grouped(net: Net, x: Value, pool: list[Value]) -> Value:
    c = _channels(x)
    groups = net.draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
    return net.conv(x, groups * net.draw(st.integers(1, 2)), 3, groups)


def _batch_norm(net: Net, x: Value, pool: list[Value]) -> Value:
    c = _channels(x)
    var = torch.ones(c, dtype=torch.float64) / 4  # its root is exact
    rest = [net.constant(net.tensor(c), n) for n in ("mean", "scale", "bias")]
    stats = (rest[0], net.constant(var, "var"), *rest[1:])
    return net.emit(norm.BatchNorm(0.0), x, *stats)


def _relu(net: Net, x: Value, pool: list[Value]) -> Value:
    return net.emit(unary.Relu(), x)


def _add(net: Net, x: Value, pool: list[Value]) -> Value:
    other = net.draw(st.sampled_from([v for v in pool if v.type == x.type]))
    return net.emit(binary.Add(), x, other)


def _concat(net: Net, x: Value, pool: list[Value]) -> Value:
    return net.emit(shape.Concat(1), x, net.draw(st.sampled_from(pool)))


def _half(net: Net, x: Value, pool: list[Value]) -> Value:
    c = _channels(x)
    start = net.draw(st.integers(0, c - 1))
    return net.emit(shape.Slice(1, start, net.draw(st.integers(start + 1, c))), x)


def _shuffle(net: Net, x: Value, pool: list[Value]) -> Value:
    c, sizes = _channels(x), x.type.shape
    if c % 2:
        return x
    split = net.emit(shape.Reshape((sizes[0], 2, c // 2, *sizes[2:])), x)
    swapped = net.emit(shape.Transpose((0, 2, 1, 3, 4)), split)
    return net.emit(shape.Reshape(sizes), swapped)


def _excite(net: Net, x: Value, pool: list[Value]) -> Value:
    squeezed = net.emit(reduce.AdaptiveAvgPool((1, 1)), x)
    return net.emit(binary.Mul(), x, net.conv(squeezed, _channels(x), 1))


def _max_pool(net: Net, x: Value, pool: list[Value]) -> Value:
    return net.emit(reduce.MaxPool((3, 3), (1, 1), (1, 1)), x)


def _last(net: Net, x: Value, pool: list[Value]) -> Value:
    """Channels last, a linear layer, and back, as in ConvNeXt."""
    moved = net.emit(shape.Transpose((0, 2, 3, 1)), x)
    return net.emit(shape.Transpose((0, 3, 1, 2)), net.linear(moved, 4))


def _pad(net: Net, x: Value, pool: list[Value]) -> Value:
    return net.emit(shape.Pad((0, 1, 0, 0), (0, 1, 0, 0)), x)


_STEPS = (
    _conv, _conv, _conv, _grouped, _batch_norm, _relu, _add, _add, _concat, _half, _shuffle,
    _excite, _max_pool, _last, _pad,
)  # fmt: skip


@st.composite
def cnns(draw: Draw) -> Function:
    """Draw a convolutional network of small integers: every sum in it is exact in float64."""
    net = Net(draw)
    x = net.b.param(TensorType(DType.F64, (2, 3, _SIDE, _SIDE)), "x")
    pool = [net.conv(x, draw(st.sampled_from((2, 4, 6))), 3)]
    for _ in range(draw(st.integers(1, 6))):
        step = draw(st.sampled_from(_STEPS))
        x = pool[-1] if draw(st.integers(0, 3)) else draw(st.sampled_from(pool))
        pool.append(step(net, x, pool))
    x = pool[-1]
    if draw(st.booleans()):
        x = net.emit(reduce.AdaptiveAvgPool((1, 1)), x)
    flat = net.emit(shape.Reshape((2, math.prod(map(int, x.type.shape[1:])))), x)
    return net.b.finish(net.linear(flat, 3))


def _heads(net: Net, x: Value, heads: int, size: int) -> Value:
    b, t, _ = x.type.shape
    split = net.emit(shape.Reshape((b, t, heads, size)), x)
    return net.emit(shape.Transpose((0, 2, 1, 3)), split)


def _attend(net: Net, x: Value, kind: str) -> Value:
    """Attention with projections of its own or one in common, grouped queries, or written out."""
    b, t, width = (int(n) for n in x.type.shape)
    size, shared = 2, net.draw(st.integers(2, 3))
    heads = shared * (2 if kind in ("gqa", "repeat") else 1)
    if kind == "fused":
        every = net.linear(x, 3 * heads * size)
        parts = [net.emit(shape.Slice(2, i * heads * size, (i + 1) * heads * size), every)
                 for i in range(3)]  # fmt: skip
    else:
        parts = [net.linear(x, n * size) for n in (heads, shared, shared)]
    q, k, v = (_heads(net, p, int(p.type.shape[-1]) // size, size) for p in parts)
    if kind == "repeat":
        k, v = (_repeated(net, y, 2) for y in (k, v))
    if kind == "written":
        turned = net.emit(shape.Transpose((0, 1, 3, 2)), k)
        worth = net.emit(norm.Softmax(3), net.emit(contract.Matmul(), q, turned))
        out = net.emit(contract.Matmul(), worth, v)
    else:
        out = net.emit(contract.Attention(0.7, gqa=kind == "gqa"), q, k, v)
    merged = net.emit(shape.Transpose((0, 2, 1, 3)), out)
    return net.linear(net.emit(shape.Reshape((b, t, heads * size)), merged), width)


def _repeated(net: Net, x: Value, times: int) -> Value:
    b, g, t, d = (int(n) for n in x.type.shape)
    five = net.emit(shape.Reshape((b, g, 1, t, d)), x)
    wide = net.emit(shape.Expand((b, g, times, t, d)), five)
    return net.emit(shape.Reshape((b, g * times, t, d)), wide)


def _feed(net: Net, x: Value) -> Value:
    """Two layers, or three with a gate (in one linear or two)."""
    width, hidden = int(x.type.shape[-1]), net.draw(st.integers(2, 5))
    kind = net.draw(st.sampled_from(("gelu", "gate", "halves")))
    if kind == "gelu":
        made = net.emit(pointwise.Gelu(), net.linear(x, hidden))
    elif kind == "gate":
        gate = net.emit(unary.Silu(), net.linear(x, hidden, bias=False))
        made = net.emit(binary.Mul(), gate, net.linear(x, hidden))
    else:
        both = net.linear(x, 2 * hidden)
        a, b = (net.emit(shape.Slice(2, i * hidden, (i + 1) * hidden), both) for i in (0, 1))
        made = net.emit(binary.Mul(), net.emit(unary.Sigmoid(), a), b)
    return net.linear(made, width)


@st.composite
def transformers(draw: Draw) -> Function:
    """Draw a transformer with an embedding that may be tied to the output layer."""
    net, width, words = Net(draw, whole=False), 4, 5
    x = net.b.param(TensorType(DType.I64, (2, 3)), "x")
    table = net.constant(net.tensor(words, width))
    at = net.emit(data.Embedding(), table, x)
    for _ in range(draw(st.integers(1, 2))):
        for part in draw(st.sampled_from((("attend",), ("feed",), ("attend", "feed")))):
            y = _normed(net, at, draw(st.sampled_from(("none", "layer", "rms"))))
            kinds = st.sampled_from(("plain", "fused", "gqa", "repeat", "written"))
            made = _attend(net, y, draw(kinds)) if part == "attend" else _feed(net, y)
            at = net.emit(binary.Add(), at, made)
    tied = draw(st.booleans())
    out = net.emit(contract.Linear(), at, table) if tied else net.linear(at, words)
    return net.b.finish(out)


def _normed(net: Net, x: Value, kind: str) -> Value:
    width = int(x.type.shape[-1])
    weight = net.constant(net.tensor(width))
    if kind == "layer":
        return net.emit(norm.LayerNorm(1, 1e-5, "weight"), x, weight)
    return net.emit(norm.RmsNorm(1, 1e-5), x, weight) if kind == "rms" else x
