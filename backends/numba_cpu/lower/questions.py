"""numba_cpu > lower > questions: what an op asks before it is lowered, from its types alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from leptonc.backends.numba_cpu.kernels import fixed_rows
from leptonc.backends.numba_cpu.kernels import sparse as sparse_kernels
from leptonc.backends.numba_cpu.kernels.int8_dot import DOT
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower.choices import CLOSE, LIGHT, Question
from leptonc.backends.numba_cpu.lower.conv_choice import (
    Algorithm,
    ConvShape,
    conv_close,
    costs,
    costs_fit,
    held_bytes,
    rows_of,
)
from leptonc.backends.numba_cpu.lower.int8_choice import CODES_CLOSE, int_costs
from leptonc.backends.numba_cpu.lower.product_cost import (
    LEAST_GAIN,
    bf16x3_cycles,
    igemm_cycles,
    strassen_columns,
    strassen_cycles,
    strassen_is_near,
)
from leptonc.cost.flops import nbytes
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import IntConv
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import DType
from leptonc.meaning import nonzero_share, peak_to_mean, row_reach, unevenness
from leptonc.runtime.caches import Caches

NEAREST, FARTHEST = 2**20, 2**27  # bytes: what is nearer, or farther, makes no difference
#: A network that reads no more than ``SMALL`` bytes is small beside the process that it runs in.
#: Its weights are weighed only where they may overflow the second-level cache of a core.
SMALL, SMALL_LIGHT = 2**21, 2**19


@dataclass(frozen=True)
class Reuse:
    """How long weights wait for their next use.

    Attributes:
        distance: bytes that the network reads before it comes back to the same weights, its reuse
            distance: a power of two from ``NEAREST`` to ``FARTHEST``.
        near: whether so much stays in the caches from call to call.
        roomy: whether the program holds no more bytes than the model even if each convolution has
            the largest weights that it may be fastest with: then bytes do not count.
    """

    distance: int
    near: bool
    roomy: bool = False


FAR = Reuse(FARTHEST, near=False)


def reuse(fn: Function, precision: str, caches: Caches) -> Reuse:
    """Return how far apart two calls of a static network use the same weights.

    Convolutions count with the weights of the algorithm that is best where weights are far.
    """
    bodies = [fn, *(op.kind.body for op in fn.ops if isinstance(op.kind, Unit))]
    held = [op.result for body in bodies for op in body.ops if isinstance(op.kind, Constant)]
    plain = total = most = int(nbytes(held))
    for shape in (s for body in bodies for s in _shapes(body)):
        found = costs(shape, precision)
        if Algorithm.DEPTHWISE not in found:
            size = {a: held_bytes(shape, a) - held_bytes(shape, Algorithm.IGEMM) for a in found}
            best = min(found, key=lambda a: found[a])
            total += size[best]
            near = (conv_close() or CLOSE) * found[best]
            most += max(n for a, n in size.items() if found[a] <= near)
    distance = min(max(1 << (total - 1).bit_length(), NEAREST), FARTHEST)
    made = Reuse(distance, distance <= caches.l3)
    saved = sum(_saved(body, precision, made) for body in bodies)
    return replace(made, roomy=most - saved <= plain)


def _saved(body: Function, precision: str, reuse: Reuse) -> int:
    """Return the bytes that linear layers of few rows do not hold (:mod:`fixed_rows`)."""
    total = 0
    for op in body.ops:
        weight = body.producer.get(op.operands[1]) if isinstance(op.kind, Linear) else None
        if weight is not None and isinstance(weight.kind, Constant):
            found = few_rows(op, weight.kind.const, precision, reuse)
            small = found is not None and found.ranked[0] == FIXED
            n, depth = (int(d) for d in op.operands[1].type.shape)
            total += 4 * n * depth - fixed_rows.packed_bytes(n, depth) if small else 0
    return total


def conv(
    shape: ConvShape, precision: str, reuse: Reuse, weight: Const | None = None, threads: int = 1
) -> Question:
    """Return the question of a convolution with constant weights, on so many threads.

    ``weight``: None, or that of a 1x1 convolution that may run by :mod:`strassen`.
    """
    found = costs(shape, precision, reuse.near)
    sides = rows_of(shape)
    if weight is not None and sides is not None and precision != "strict":
        cycles = _strassen(*sides, weight, threads)
        if cycles < math.inf and Algorithm.BF16X3 not in found:
            found[Algorithm.STRASSEN] = cycles
    by_name = {a.value: cost for a, cost in found.items()}
    weighed = [] if reuse.roomy else [a for a in found if a is not Algorithm.DEPTHWISE]
    held = {a.value: held_bytes(shape, a) for a in weighed}
    text = f"conv {_conv_text(shape)}: {', '.join(sorted(by_name))}"
    close, best = conv_close(), min(found, key=lambda a: found[a])
    if Algorithm.STRASSEN in found and sides is not None:
        close = _strassen_close(*sides, threads)
    if best is Algorithm.BF16X3:  # beside another process it may be slower than vectors
        close = max(close or CLOSE, 1.01 * found[Algorithm.IGEMM] / found[best])
    light = SMALL_LIGHT if reuse.distance <= SMALL else LIGHT
    return Question(text, by_name, close, held, light, _risk(by_name))


def _risk(found: Collection[str]) -> dict[str, float]:
    """Return what tile registers risk: two threads of a core share one set of multipliers."""
    return {BF16X3: LEAST_GAIN} if BF16X3 in found else {}


def int_conv(op: Op, weight: Const, precision: str) -> Question | None:
    """Return the question of a convolution of codes, if there is more than one way."""
    costs = int_costs(conv_shape(op), row_reach(weight), precision)
    found = {a.value: cost for a, cost in costs.items()}
    text = f"int conv {_conv_text(conv_shape(op))}: {', '.join(sorted(found))}"
    return Question(text, found, CODES_CLOSE.get(DOT)) if len(found) > 1 else None


def asked(body: Function, precision: str, reuse: Reuse, threads: int = 1) -> Iterator[Question]:
    """Yield the questions of a unit's body, which runs on so many threads."""
    for op in body.ops:
        weight = body.producer.get(op.operands[1]) if len(op.operands) > 1 else None
        if weight is None or not isinstance(weight.kind, Constant):
            continue
        for found in (
            sparse(op, weight.kind.const, precision),
            linear(op, weight.kind.const, precision, threads),
        ):
            if found is not None:
                yield found
        found = few_rows(op, weight.kind.const, precision, reuse)
        if found is not None:
            yield found
        if isinstance(op.kind, Conv):
            yield conv(conv_shape(op), precision, reuse, weight.kind.const, threads)
        elif isinstance(op.kind, IntConv):
            found = int_conv(op, weight.kind.const, precision)
            if found is not None:
                yield found


# Cycles of a core for a multiply-add of LANES * 4 rows, and to turn an element of a block over.
SPARSE_ELEMENT, TURN = 5.0, 1.0
MOST_DENSE = 0.4  # of the elements: more are never faster left out
DENSE, SPARSE = "dense", "sparse"


def sparse(op: Op, weight: Const, precision: str) -> Question | None:
    """Return whether to leave out the zeros of a linear layer or a 1x1 convolution, if that is one.

    Left out, they do not meet infinities: with ``precision="strict"`` none are.
    """
    k = op.kind
    if precision == "strict" or not isinstance(k, (Linear, Conv)) or not _is_rows(op):
        return None
    if op.operands[0].type.dtype is not DType.F32:
        return None
    share = nonzero_share(weight, MOST_DENSE)
    if share > MOST_DENSE:
        return None
    n, depth = int(weight.type.shape[0]), int(weight.type.shape[1])
    rows = int(op.result.type.numel) // max(n, 1)
    blocks = -(-rows // sparse_kernels.ROWS)
    listed = blocks * (n * depth * share * SPARSE_ELEMENT + (n + depth) * TURN * LANES)
    dense = igemm_cycles(rows, depth, n)
    text = f"{rows} rows of {depth} to {n}, {share:.2f} of the weights: {DENSE}, {SPARSE}"
    return Question(text, {DENSE: dense, SPARSE: listed}, close=math.inf)  # always timed


MOST_UNEVEN = 6.0  # times the largest weight of the column that one is paired with
PLAIN, STRASSEN, BF16X3 = "plain", "strassen", "bf16x3"
#: The multiple of the better estimate up to which Strassen's algorithm and a plain product are
#: timed, where costs fit: they are within a few percent.
STRASSEN_CLOSE = 1.03


def linear(op: Op, weight: Const, precision: str, threads: int) -> Question | None:
    """Return how to compute a linear layer on so many threads, if there is more than one way.

    By :mod:`bf16x3` where tile registers pay, which is always timed: another process on the same
    core takes more of them than of vectors. Else by :mod:`strassen`, if that can. An infinity makes
    NaN of other numbers by both, by one rounding errors are larger, too: neither with
    ``precision="strict"``.
    """
    if precision == "strict" or not isinstance(op.kind, Linear):
        return None
    if op.operands[0].type.dtype is not DType.F32:
        return None
    n, depth = (int(d) for d in op.operands[1].type.shape)
    rows = int(op.result.type.numel) // max(n, 1)
    found = {PLAIN: igemm_cycles(rows, depth, n)}
    by_parts = bf16x3_cycles(rows, 1, depth, n, precision)
    if by_parts < math.inf:
        found[BF16X3] = by_parts
    elif (cycles := _strassen(rows, depth, n, weight, threads)) < math.inf:
        found[STRASSEN] = cycles
    text = f"{rows} rows of {depth} to {n}: {', '.join(found)}"
    close = math.inf if BF16X3 in found else _strassen_close(rows, depth, n, threads)
    return Question(text, found, close, risk=_risk(found)) if len(found) > 1 else None


LEAST_BYTES = 256 << 10  # of float32 weights
#: Bytes that the network reads between two uses of its weights: of less, they may wait in a cache
#: of the core, which gives floats faster than 20 or 24 bits become floats.
LEAST_DISTANCE = 4 << 20
FIXED_GAIN, FIXED_LOSS = 0.8, 1.5  # of the time with floats, from far and from a core's own caches
FIXED = "fixed"


def few_rows(op: Op, weight: Const, precision: str, reuse: Reuse) -> Question | None:
    """Return whether a linear layer of few rows keeps its weights in 24 or 20 bits.

    By :mod:`fixed_rows`. They are rounded, and none of them may be infinite: not with
    ``precision="strict"``. It is a matter of what lies in which cache, in which the estimate is
    right: never timed.
    """
    if precision == "strict" or not isinstance(op.kind, Linear):
        return None
    n, depth = (int(d) for d in op.operands[1].type.shape)
    rows = int(op.result.type.numel) // max(n, 1)
    if {op.operands[0].type.dtype, weight.type.dtype} != {DType.F32}:
        return None
    if not 0 < rows <= fixed_rows.ROWS or depth < fixed_rows.BLOCK:
        return None
    if 4 * n * depth < LEAST_BYTES:
        return None
    if peak_to_mean(weight) > fixed_rows.MOST_PEAK:
        return None
    plain = igemm_cycles(rows, depth, n)
    part = FIXED_GAIN if reuse.distance >= LEAST_DISTANCE else FIXED_LOSS
    text = f"{rows} rows of {depth} to {n}: {PLAIN}, {FIXED}"
    return Question(text, {PLAIN: plain, FIXED: part * plain}, close=1.0)


def _strassen(rows: int, depth: int, columns: int, weight: Const, threads: int) -> float:
    """Return the cycles of :mod:`strassen`; infinity where it gains nothing or errs much.

    Where a column has larger weights than the one that it is paired with, as the last layers of
    blocks do that hold the outliers of trained transformers, so are the errors of the other: in
    all-MiniLM-L6-v2, layers that are uneven by 8 to 33 made the largest error of the network ten
    times what it was. Of random weights and of most trained layers, columns are even within 6.
    """
    cycles = strassen_cycles(rows, depth, columns, threads)
    return cycles if cycles < math.inf and unevenness(weight) <= MOST_UNEVEN else math.inf


def _strassen_close(rows: int, depth: int, columns: int, threads: int) -> float | None:
    near = strassen_is_near(rows, depth, strassen_columns(columns), threads)
    return STRASSEN_CLOSE if costs_fit() and near else None


def _is_rows(op: Op) -> bool:
    """Return whether the op is a product of rows: linear, or a 1x1 convolution of every pixel."""
    k = op.kind
    if not isinstance(k, Conv):
        return True
    plain = set(k.stride) == {1} and not k.padded and k.groups == 1
    return plain and all(d == 1 for d in op.operands[1].type.shape[2:])


def _shapes(body: Function) -> Iterator[ConvShape]:
    """Yield the sizes of the convolutions with constant weights."""
    for op in body.ops:
        if isinstance(op.kind, Conv):
            weight = body.producer.get(op.operands[1])
            if weight is not None and isinstance(weight.kind, Constant):
                yield conv_shape(op)


def conv_shape(op: Op) -> ConvShape:
    """Return the sizes of a convolution whose dimensions are all numbers."""
    k = op.kind.plain if isinstance(op.kind, IntConv) else op.kind
    assert isinstance(k, Conv)
    x, w, out = (tuple(map(int, v.type.shape)) for v in (*op.operands[:2], op.result))
    return ConvShape(
        x[0], x[1], x[2:], w[0], w[2:], k.stride, k.padding, k.dilation, k.groups, out[2:], k.after
    )


def _conv_text(s: ConvShape) -> str:
    """Return the sizes as text, without what is usual."""
    parts = [
        f"{s.batch}x{s.channels}x{_by(s.size)} to {s.out_channels}x{_by(s.out)}",
        f"kernel {_by(s.kernel)}",
        f"pad {_by(s.padding)}" if any((*s.padding, *s.after)) else "",
        f"to {_by(s.after)}" if s.after not in ((), s.padding) else "",
        f"stride {_by(s.stride)}" if set(s.stride) != {1} else "",
        f"dilation {_by(s.dilation)}" if set(s.dilation) != {1} else "",
        f"groups {s.groups}" if s.groups > 1 else "",
    ]
    return " ".join(p for p in parts if p)


def _by(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))
