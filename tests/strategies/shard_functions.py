"""Random functions whose axes are split, merged, packed and unpacked: what cuts must follow."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds import binary, contract, data, pointwise, reduce, shape, unary
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of

from .operands import Draw
from .sharding import whole_numbers

_WIDTHS = (8, 12, 16, 24)
_MOST = 4096  # elements of a value


class _Packed(Builder):
    """A builder with a pool of values, and steps that add to it."""

    def __init__(self, draw: Draw) -> None:
        super().__init__("packed")
        self.draw = draw
        rows, wide = self.among(2, 8, 9), self.among(*_WIDTHS)
        self.pool = [self.param(TensorType(DType.F32, (rows, wide)), "x")]

    def among(self, *options):
        return self.draw(st.sampled_from(options))

    def weight(self, *dims: int) -> Value:
        """Return a constant or a parameter of ones, zeros and minus ones."""
        type_ = TensorType(DType.F32, dims)
        if self.draw(st.booleans()):
            return self.param(type_, f"p{len(self.params)}")
        numbers = whole_numbers(type_, self.draw(st.integers(0, 99)), -1, 1)
        return self(data.Constant(const_of(numbers)), hint="w")

    def step(self) -> None:
        x = self.pool[-1 - self.draw(st.integers(0, min(2, len(self.pool) - 1)))]
        shape_ = tuple(map(int, x.type.shape))
        make = self.among(*_STEPS)
        self.pool.extend(v for v in make(self, x, shape_) if v.type.numel <= _MOST)


def _linear(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    n = b.among(*_WIDTHS)
    bias = [b.weight(n)] * b.draw(st.integers(0, 1))
    return [b(contract.Linear(), x, b.weight(n, s[-1]), *bias)] if s else []


def _split(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    axis = b.draw(st.integers(0, max(len(s) - 1, 0)))
    factors = [f for f in (2, 3, 4, 8) if s and s[axis] % f == 0]
    if not factors or len(s) > 3:
        return []
    f = b.among(*factors)
    pair = b.among((f, s[axis] // f), (s[axis] // f, f))
    return [b(shape.Reshape((*s[:axis], *pair, *s[axis + 1 :])), x)]


def _merge(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    if len(s) < 2:
        return []
    axis = b.draw(st.integers(0, len(s) - 2))
    return [b(shape.Reshape((*s[:axis], s[axis] * s[axis + 1], *s[axis + 2 :])), x)]


def _regroup(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    """Reshape to anything of two axes."""
    total = math.prod(s)
    fits = [k for k in range(1, total + 1) if total % k == 0]
    k = b.among(*fits)
    return [b(shape.Reshape((k, total // k)), x)]


def _transpose(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    return [b(shape.Transpose(tuple(b.draw(st.permutations(range(len(s)))))), x)]


def _unpack(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    """Slice an axis into equal blocks."""
    axis = b.draw(st.integers(0, max(len(s) - 1, 0)))
    counts = [c for c in (2, 3) if s and s[axis] % c == 0 and s[axis] > c]
    if not counts:
        return []
    count = b.among(*counts)
    each = s[axis] // count
    return [b(shape.Slice(axis, i * each, (i + 1) * each), x) for i in range(count)]


def _pack(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    same = [v for v in b.pool if v.type == x.type][-3:]
    axis = b.draw(st.integers(0, max(len(s) - 1, 0)))
    return [b(shape.Concat(axis), *same)] if s else []


def _both(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    other = b.among(*[v for v in b.pool if v.type == x.type])
    return [b(b.among(binary.Add(), binary.Sub(), binary.Maximum(), binary.Mul()), x, other)]


def _scaled(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    kind = b.among(binary.Add(), binary.Mul())
    return [b(kind, x, b.weight(s[-1]))] if s else []


def _unary(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    return [b(b.among(unary.Relu(), unary.Neg(), pointwise.Clamp(-9.0, 9.0)), x)]


def _reduce(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    if not s:
        return []
    kind: type[Kind] = b.among(reduce.Sum, reduce.Amax, reduce.Sum)
    axis, keep = b.draw(st.integers(0, len(s) - 1)), b.draw(st.booleans())
    small = b(kind((axis,), keep), x)  # type: ignore[call-arg]
    return [small, *([b(shape.Expand(s), small)] if keep else [])]


def _product(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    """``x @ x^T`` over the last two axes."""
    if len(s) < 2:
        return []
    perm = (*range(len(s) - 2), len(s) - 1, len(s) - 2)
    return [b(contract.Matmul(), x, b(shape.Transpose(perm), x))]


def _channels(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    """Convolve along the last of three axes, in groups or not."""
    if len(s) != 3 or s[1] > 24:
        return []
    groups = b.among(*[g for g in (1, 2, 4, 8, s[1]) if s[1] % g == 0])
    n = groups * b.among(1, 2)
    w = b.weight(n, s[1] // groups, 1)
    return [b(contract.Conv((1,), (0,), (1,), groups), x, w)]


def _lookup(b: _Packed, x: Value, s: tuple[int, ...]) -> list[Value]:
    """Take rows of a table, for numbers counted modulo its length."""
    rows = b.among(8, 10)
    index = b(data.Iota(rows, rows - 1, -1))
    found = b(data.Embedding(), b.weight(rows, b.among(*_WIDTHS)), index)
    return [found]


_STEPS = (
    _linear, _linear, _linear, _split, _split, _merge, _merge, _regroup, _transpose, _transpose,
    _unpack, _unpack, _pack, _pack, _both, _both, _scaled, _unary, _reduce, _product, _channels,
    _channels, _lookup,
)  # fmt: skip


@st.composite
def packed(draw: st.DrawFn, most: int = 12) -> Function:
    """Draw a function of whole numbers of up to ``most`` steps; it returns up to two values."""
    b = _Packed(draw)
    for _ in range(draw(st.integers(2, most))):
        b.step()
    return b.finish(b.pool[-1], *draw(st.lists(st.sampled_from(b.pool), max_size=1)))
