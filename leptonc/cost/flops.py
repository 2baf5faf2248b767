"""What an op costs by its shapes alone: floating-point operations, and bytes that must move.

A multiply-add counts two; an elementwise function counts its entry in ``ELEMENTWISE`` per result
element, a rough price in adds (a transcendental about ten). Views and constants are free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from leptonc.ir import kinds
from leptonc.ir.core import Function, Kind, Op, Trait, Value
from leptonc.ir.dims import Dim, as_dim, evaluate, free_symbols, product
from leptonc.ir.kinds import (
    binary,
    collective,
    contract,
    data,
    norm,
    pointwise,
    quantize,
    reduce,
    region,
    shape,
    unary,
)
from leptonc.ir.types import DType


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations and bytes of one run; symbolic where the sizes are."""

    flops: Dim
    bytes: Dim

    def __add__(self, other: Cost) -> Cost:
        return Cost(as_dim(self.flops + other.flops), as_dim(self.bytes + other.bytes))


ZERO = Cost(0, 0)

_TRANSCENDENTAL = 10
# Adds per result element; what is not listed costs one.
ELEMENTWISE: Mapping[type[Kind], int] = {
    pointwise.Cast: 0,
    pointwise.Clamp: 2,
    pointwise.LeakyRelu: 2,
    pointwise.Elu: _TRANSCENDENTAL + 2,
    pointwise.Gelu: _TRANSCENDENTAL + 4,
    pointwise.Softplus: 2 * _TRANSCENDENTAL,
    unary.Silu: _TRANSCENDENTAL + 3,
    unary.Sigmoid: _TRANSCENDENTAL + 2,
    unary.LogSigmoid: 2 * _TRANSCENDENTAL,
    unary.Mish: 3 * _TRANSCENDENTAL,
    unary.HardSwish: 4,
    unary.HardSigmoid: 4,
    binary.Div: 4,
    binary.FloorDiv: 5,
    binary.TruncDiv: 5,
    binary.Remainder: 7,
    binary.Fmod: 7,
    unary.Sqrt: 4,
    unary.Rsqrt: 5,
    unary.Reciprocal: 4,
    **dict.fromkeys((binary.Pow, binary.Atan2), 2 * _TRANSCENDENTAL),
    **dict.fromkeys(
        (unary.Tanh, unary.Exp, unary.Expm1, unary.Exp2, unary.Log, unary.Log1p, unary.Log2,
         unary.Log10, unary.Sin, unary.Cos, unary.Tan, unary.Asin, unary.Acos, unary.Atan,
         unary.Sinh, unary.Cosh, unary.Asinh, unary.Acosh, unary.Atanh, unary.Erf, unary.Erfc),
        _TRANSCENDENTAL,
    ),
}  # fmt: skip


def elementwise_flops(kind: Kind) -> int:
    """Return the operations per result element of an elementwise kind."""
    return ELEMENTWISE.get(type(kind), 1)


# ----- per kind -----------------------------------------------------------------------------------


def _times(*dims: Dim) -> Dim:
    return product(dims)


def _elementwise(op: Op) -> Dim:
    return _times(elementwise_flops(op.kind), op.result.type.numel)


def _free(op: Op) -> Dim:
    del op
    return 0


def _linear(op: Op) -> Dim:
    x, _, *bias = op.operands
    out = op.result.type.numel
    return as_dim(_times(2, out, x.type.shape[-1]) + (out if bias else 0))


def _matmul(op: Op) -> Dim:
    return _times(2, op.result.type.numel, op.operands[0].type.shape[-1])


def _conv(op: Op) -> Dim:
    _, w, *bias = op.operands
    out = op.result.type.numel
    return as_dim(_times(2, out, *w.type.shape[1:]) + (out if bias else 0))


def _int_linear(op: Op) -> Dim:
    return _times(2, op.result.type.numel, op.operands[0].type.shape[-1])


def _int_conv(op: Op) -> Dim:
    return _times(2, op.result.type.numel, *op.operands[1].type.shape[1:])


def _conv_transpose(op: Op) -> Dim:
    x, w, *bias = op.operands
    work = _times(2, x.type.numel, *w.type.shape[1:])
    return as_dim(work + (op.result.type.numel if bias else 0))


def _attention(op: Op) -> Dim:
    q, k, v, *mask = (o.type for o in op.operands if o.type.rank)
    assert isinstance(op.kind, (contract.Attention, quantize.IntAttention))
    scores = _times(*op.result.type.shape[:-1], k.shape[-2])
    per_score = (
        2 * q.shape[-1] + 2 * v.shape[-1] + _TRANSCENDENTAL + 4 + len(mask)
    )  # two products, and a scale, maximum, exponential, sum and division
    whole = _times(scores, as_dim(per_score))
    return whole // 2 if op.kind.causal and isinstance(whole, int) else whole


def _per_input(count: int) -> Callable[[Op], Dim]:
    def flops(op: Op) -> Dim:
        return _times(count, op.operands[0].type.numel)

    return flops


def _per_result(count: int) -> Callable[[Op], Dim]:
    def flops(op: Op) -> Dim:
        return _times(count, op.results[0].type.numel)

    return flops


def _pool(op: Op) -> Dim:
    assert isinstance(op.kind, reduce.Pool)
    return _times(math.prod(op.kind.kernel), op.result.type.numel)


def _interpolate(op: Op) -> Dim:
    assert isinstance(op.kind, data.Interpolate)
    spatial = len(op.kind.size)
    taps = {"linear": 2, "bicubic": 4}.get(op.kind.mode, 0)
    return _times(2 * taps**spatial if taps else 0, op.result.type.numel)


def _recurrent(op: Op) -> Dim:
    """Sum over layers and directions of the two products of each gate, plus the gates."""
    assert isinstance(op.kind, data.Recurrent)
    kind = op.kind
    states = 2 if kind.cell == "lstm" else 1
    per = 4 if kind.bias else 2
    steps, batch = op.operands[0].type.shape[:2]
    weights: Dim = 0
    rows: Dim = 0
    for i in range(1 + states, len(op.operands), per):
        w_ih, w_hh = op.operands[i].type, op.operands[i + 1].type
        weights = as_dim(weights + w_ih.numel + w_hh.numel)
        rows = as_dim(rows + w_ih.shape[0])
    return _times(steps, batch, as_dim(2 * weights + (_TRANSCENDENTAL + 4) * rows))


_norm = _per_input(8)  # mean and variance in two sweeps, then scale and shift

FLOPS: Mapping[type[Kind], Callable[[Op], Dim]] = {
    **{k: _elementwise for k in kinds.ALL if Trait.ELEMENTWISE in k.TRAITS},
    **{k: _free for k in (*shape.KINDS, data.Constant, data.Full, data.Iota)},
    **dict.fromkeys((data.Embedding, data.IndexSelect, data.Gather, data.Triangle), _free),
    **{k: _per_input(1) for k in reduce.KINDS},
    **dict.fromkeys((reduce.MaxPool, reduce.AvgPool), _pool),
    reduce.Var: _per_input(4),
    contract.Linear: _linear,
    contract.Matmul: _matmul,
    contract.Conv: _conv,
    contract.ConvTranspose: _conv_transpose,
    contract.Attention: _attention,
    norm.BatchNorm: _per_result(2),
    norm.LayerNorm: _norm,
    norm.RmsNorm: _per_input(5),
    norm.GroupNorm: _norm,
    norm.Softmax: _per_input(_TRANSCENDENTAL + 4),
    norm.LogSoftmax: _per_input(_TRANSCENDENTAL + 4),
    data.Interpolate: _interpolate,
    data.Recurrent: _recurrent,
    quantize.Quantize: _per_input(4),
    quantize.QuantizeRows: _per_input(4),
    quantize.FakeQuantize: _per_input(4),
    **dict.fromkeys((quantize.Dequantize, quantize.UnpackInt4), _per_result(2)),
    quantize.IntLinear: _int_linear,
    quantize.IntConv: _int_conv,
    quantize.IntAvgPool: _pool,
    quantize.IntAttention: _attention,
    **dict.fromkeys(collective.KINDS, _free),  # time on a link, which ``cluster`` knows
    region.TorchOp: _per_result(1),  # unknown; at least one operation a result element
}


def op_cost(op: Op) -> Cost:
    """Return what one op costs on its own: every operand read and every result written once."""
    if isinstance(op.kind, region.Unit):
        return unit_cost(op)
    return Cost(FLOPS[type(op.kind)](op), _traffic(op))


def effective_flops(op: Op, winograd: float) -> Dim:
    """Return the operations of an op, those of a 3x3 convolution divided by ``winograd``."""
    flops = op_cost(op).flops
    if winograd == 1.0 or not isinstance(op.kind, contract.Conv):
        return flops
    k, x, w = op.kind, op.operands[0].type, op.operands[1].type
    plain = k.groups == 1 and set((*k.stride, *k.dilation)) == {1} and x.dtype is DType.F32
    return as_dim(int(known(flops) / winograd)) if plain and w.shape[2:] == (3, 3) else flops


def unit_cost(op: Op) -> Cost:
    """Return the cost of a unit: its body's operations; operands, constants and results moved."""
    assert isinstance(op.kind, region.Unit)
    body = op.kind.body
    flops: Dim = 0
    constants: Dim = 0
    for o in body.ops:
        flops = as_dim(flops + op_cost(o).flops)
        if isinstance(o.kind, data.Constant):
            constants = as_dim(constants + nbytes(o.results))
    return Cost(flops, as_dim(nbytes(op.operands) + nbytes(op.results) + constants))


def function_cost(fn: Function) -> Cost:
    """Return the sum over the ops of ``fn``."""
    total = ZERO
    for op in fn.ops:
        total = total + op_cost(op)
    return total


def nbytes(values: Iterable[Value]) -> Dim:
    """Return the bytes that ``values`` occupy together, each counted once."""
    total: Dim = 0
    for v in dict.fromkeys(values):
        total = as_dim(total + v.type.dtype.nbytes * v.type.numel)
    return total


# Lookups read as many elements as they return, whatever the size of the table.
_LOOKUPS = (data.Embedding, data.IndexSelect, data.Gather)


def _traffic(op: Op) -> Dim:
    if Trait.VIEW in op.kind.traits or isinstance(op.kind, (data.Constant, data.Full)):
        return 0
    if isinstance(op.kind, _LOOKUPS):
        table, index = op.operands
        read = _times(table.type.dtype.nbytes, op.result.type.numel)
        return as_dim(read + nbytes((index,)) + nbytes(op.results))
    return as_dim(nbytes(op.operands) + nbytes(op.results))


def known(dim: Dim, guess: int = 64) -> int:
    """Return ``dim``, with ``guess`` for every symbolic size."""
    return evaluate(dim, dict.fromkeys(free_symbols((dim,)), guess))
