"""Convolutions whose results a 2x2 max-pool alone reads: only the largest of four is written.

The image before the pool is four times the size of the one behind it and is read once. Adding a
bias and clamping keep the order of numbers, so the kernel takes the largest of its sums first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.pointwise import Clamp
from leptonc.ir.kinds.reduce import MaxPool
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType
from leptonc.passes.fusing.bands import is_pointwise

_CLAMPS = (Relu, Clamp)


def is_two_by_two(kind: MaxPool) -> bool:
    """Return whether windows are two by two and lie side by side, what is left over is dropped."""
    plain = kind.kernel == kind.stride == (2, 2) and not any(kind.padding)
    return plain and not kind.ceil and all(d == 1 for d in kind.dilation)


def pools(fn: Function) -> list[Op]:
    """Return the max-pools of what a convolution or its epilogue makes, as far as one can see."""
    return [op for op in fn.ops if isinstance(op.kind, MaxPool) and op.operands[0] in fn.producer]


def peaks(pool: Op, fn: Function, chain_of: Callable[[Op], Sequence[Op]]) -> list[Op] | str:
    """Return the ops to run as one with ``pool``, or why it runs alone; "" if no convolution is.

    ``chain_of`` gives a convolution with its epilogue.
    """
    assert isinstance(pool.kind, MaxPool)
    value = pool.operands[0]
    chain = chain_of(fn.producer[value])
    root, *rest = chain
    if not isinstance(root.kind, Conv) or chain[-1].result is not value:
        return ""
    if root.kind.groups != 1 or is_pointwise(root):
        return "no kernel for convolutions of groups or of single pixels takes the largest"
    if root.result.type.rank != 4 or not is_two_by_two(pool.kind):
        return "only windows of 2x2 side by side are taken in registers"
    if not all(isinstance(op.kind, _CLAMPS) for op in rest):
        return "its epilogue is more than a clamp"
    if fn.use_count[value] != 1:
        return "others read the image before the pool, too"
    if any(v.type.dtype is not DType.F32 for v in (*root.operands, value)):
        return "the largest are taken in float32"
    if not all(isinstance(d, int) for v in (root.operands[0], value) for d in v.type.shape):
        return "the sizes of its image are not known"
    return [*chain, pool]
