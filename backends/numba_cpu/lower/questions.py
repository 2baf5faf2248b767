"""numba_cpu > lower > questions: what an op asks before it is lowered, from its types alone."""

from __future__ import annotations

from collections.abc import Iterator

from leptonc.backends.numba_cpu.lower.choices import Question
from leptonc.backends.numba_cpu.lower.conv_choice import ConvShape, costs
from leptonc.cost.flops import nbytes
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.region import Unit
from leptonc.runtime.caches import Caches

EXPANDED = 4  # times the bytes of weights, at most, where Winograd packs them


def weights_stay(fn: Function, caches: Caches) -> bool:
    """Return whether all weights of a network stay in the caches from call to call."""
    bodies = [fn, *(op.kind.body for op in fn.ops if isinstance(op.kind, Unit))]
    held = [op.result for body in bodies for op in body.ops if isinstance(op.kind, Constant)]
    return EXPANDED * int(nbytes(held)) <= caches.l3


def conv(shape: ConvShape, precision: str, near: bool) -> Question:
    """Return the question of a convolution with constant weights; ``near``: see :func:`costs`."""
    found = {a.value: cost for a, cost in costs(shape, precision, near).items()}
    return Question(f"conv {_conv_text(shape)}: {', '.join(sorted(found))}", found)


def asked(body: Function, precision: str, near: bool) -> Iterator[Question]:
    """Yield the questions of a unit's body."""
    for op in body.ops:
        if isinstance(op.kind, Conv):
            weight = body.producer.get(op.operands[1])
            if weight is not None and isinstance(weight.kind, Constant):
                yield conv(conv_shape(op), precision, near)


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
