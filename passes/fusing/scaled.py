"""Images scaled channel by channel before a 1x1 convolution: the product can scale its weight.

A squeeze-and-excitation block (Hu et al., "Squeeze-and-Excitation Networks", 2018) multiplies every
channel of an image with a gate and projects the result: ``sum_k w[n, k] * (g[k] * x[k])``. Scaling
``w`` instead moves a weight, not an image, once per image of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from leptonc.ir.core import Function, Op, Trait, Value
from leptonc.ir.kinds.binary import Mul
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.unary import HardSigmoid, Sigmoid
from leptonc.ir.types import DType
from leptonc.passes.fusing.bands import is_pointwise

GATES = (Sigmoid, HardSigmoid)  # at most 1: no product of a weight and a gate overflows
_MARGIN = 8  # times as many pixels as columns: a weight may have to come from far away


def scalings(fn: Function) -> list[tuple[Op, Op]]:
    """Return ``(scaling, convolution)`` for every 1x1 convolution of an image times a gate."""
    found: list[tuple[Op, Op]] = []
    for op in fn.ops:
        maker = fn.producer.get(op.operands[0]) if op.operands else None
        if maker is not None and isinstance(maker.kind, Mul) and is_pointwise(op):
            found.append((maker, op))
    return found


def image_and_gate(scaling: Op) -> tuple[Value, Value] | None:
    """Return the image and the factor of each of its channels, None if ``scaling`` has no such."""
    a, b = scaling.operands
    for x, gate in ((a, b), (b, a)):
        one_each = (*x.type.shape[:2], *[1] * (x.type.rank - 2))
        if x.type.shape == scaling.result.type.shape and gate.type.shape == one_each:
            return x, gate
    return None


def scaled(
    scaling: Op,
    conv: Op,
    fn: Function,
    taken: Collection[int],
    chain_of: Callable[[Op], Sequence[Op]],
) -> list[Op] | str:
    """Return the ops to run as a product with a scaled weight, or why that is not done.

    Args:
        scaling: the product of an image and a gate.
        conv: the 1x1 convolution that reads it.
        fn: the function of both.
        taken: ids of the ops that are in a group.
        chain_of: gives a convolution with its epilogue.
    """
    chain, parts = chain_of(conv), image_and_gate(scaling)
    if parts is None or not _known(scaling, conv):
        return "it is no image of known size times one factor for each channel"
    image, gate = (fn.producer.get(v) for v in parts)
    weight = fn.producer.get(conv.operands[1])
    if gate is None or not isinstance(gate.kind, GATES):
        return "its factor is no gate: scaling the weight instead might overflow"
    if weight is None or not isinstance(weight.kind, Constant):
        return "the weight of the convolution behind it is computed"
    if any(v.type.dtype is not DType.F32 for v in (*conv.operands, conv.result, *parts)):
        return "weights are scaled in float32"
    if chain[0] is not conv:
        return "the convolution behind it runs in bands"
    if fn.use_count[scaling.result] != 1:
        return "others read the scaled image, too"
    if image is not None and Trait.ELEMENTWISE in image.kind.traits and id(image) not in taken:
        return "it runs with the elementwise op before it"
    pixels, columns = _pixels(conv), int(conv.result.type.shape[1])
    if pixels < _MARGIN * columns:
        return f"an image of {pixels} pixels is too small beside a weight of {columns} columns"
    return [scaling, *chain]


def _known(scaling: Op, conv: Op) -> bool:
    values = (scaling.result, conv.result)
    return all(isinstance(d, int) for v in values for d in v.type.shape)


def _pixels(conv: Op) -> int:
    height, width = conv.result.type.shape[2:]
    return int(height) * int(width)
