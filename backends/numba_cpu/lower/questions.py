"""numba_cpu > lower > questions: what an op asks before it is lowered, from its types alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leptonc.backends.numba_cpu.lower.choices import Question
from leptonc.backends.numba_cpu.lower.conv_choice import (
    Algorithm,
    ConvShape,
    choose,
    costs,
    held_bytes,
)
from leptonc.cost.flops import nbytes
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.region import Unit
from leptonc.runtime.caches import Caches

NEAREST, FARTHEST = 2**20, 2**27  # bytes: what is nearer, or farther, makes no difference


@dataclass(frozen=True)
class Reuse:
    """How long weights wait for their next use.

    Attributes:
        distance: bytes that the network reads before it comes back to the same weights, its reuse
            distance: a power of two from ``NEAREST`` to ``FARTHEST``.
        near: whether so much stays in the caches from call to call.
    """

    distance: int
    near: bool


FAR = Reuse(FARTHEST, near=False)

def reuse(fn: Function, precision: str, caches: Caches) -> Reuse:
    """Return how far apart two calls of a static network use the same weights.

    Convolutions count with the weights of the algorithm that is best where weights are far.
    """
    bodies = [fn, *(op.kind.body for op in fn.ops if isinstance(op.kind, Unit))]
    held = [op.result for body in bodies for op in body.ops if isinstance(op.kind, Constant)]
    total = int(nbytes(held))
    for body in bodies:
        for shape in _shapes(body):
            algorithm = choose(shape, precision)
            if algorithm is not Algorithm.DEPTHWISE:
                total += held_bytes(shape, algorithm) - held_bytes(shape, Algorithm.IGEMM)
    distance = min(max(1 << (total - 1).bit_length(), NEAREST), FARTHEST)
    return Reuse(distance, distance <= caches.l3)


def conv(shape: ConvShape, precision: str, reuse: Reuse) -> Question:
    """Return the question of a convolution with constant weights."""
    found = {a.value: cost for a, cost in costs(shape, precision, reuse.near).items()}
    return Question(f"conv {_conv_text(shape)}: {', '.join(sorted(found))}", found)


def asked(body: Function, precision: str, reuse: Reuse) -> Iterator[Question]:
    """Yield the questions of a unit's body."""
    for shape in _shapes(body):
        yield conv(shape, precision, reuse)


def _shapes(body: Function) -> Iterator[ConvShape]:
    """Yield the sizes of the convolutions with constant weights."""
    for op in body.ops:
        if isinstance(op.kind, Conv):
            weight = body.producer.get(op.operands[1])
            if weight is not None and isinstance(weight.kind, Constant):
                yield conv_shape(op)


def conv_shape(op: Op) -> ConvShape:
    """Return the sizes of a convolution whose dimensions are all numbers."""
    k = op.kind
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
