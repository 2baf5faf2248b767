"""Flattening a channels-last image for linear layers: the weights change order, not the image."""

from __future__ import annotations

import math

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.dims import Shape, same_dim
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.shape import Reshape, Transpose
from leptonc.passes.fusing.axes import Order, channels_last, reshaped_order
from leptonc.passes.fusing.bias import const_in
from leptonc.rewrite.trace import named

LARGEST = 16 << 20  # bytes of a weight from which the copy of one image is no matter


def by_weights(op: Op, fn: Function, order: Order) -> bool:
    """Return whether the reshape ``op`` can leave the image in ``order``: its readers' work.

    It flattens each channels-last image of a batch, which would take a copy, and nothing but linear
    layers with constant weights reads the result.
    """
    return flattens(op, order) and refusal(op, fn) is None


def flattens(op: Op, order: Order) -> bool:
    """Return whether ``op`` flattens each channels-last image of a batch, which takes a copy."""
    if not isinstance(op.kind, Reshape):
        return False
    x, to = op.operands[0].type, op.result.type
    if to.rank != 2 or not 3 <= x.rank <= 5:
        return False
    if not same_dim(x.shape[0], to.shape[0]) or not all(isinstance(d, int) for d in x.shape[1:]):
        return False
    return order == channels_last(x.rank) and reshaped_order(x.shape, order, to.shape) is None


def refusal(op: Op, fn: Function) -> str | None:
    """Return why what reads the flattened image cannot take it in another order, or None."""
    if op.result in fn.returns:
        return "the caller reads it"
    found = (_misfit(reader, op.result, fn) for reader in fn.users[op.result])
    return next((why for why in found if why is not None), None)


def _misfit(op: Op, x: Value, fn: Function) -> str | None:
    if not isinstance(op.kind, Linear) or x in op.operands[1:]:
        return f"{named(op)} reads it, which is no linear layer of it"
    weight = const_in(op.operands[1], fn)
    if weight is None:
        return f"the weight of {named(op)} is no constant"
    nbytes = math.prod(int(d) for d in weight.type.shape) * weight.type.dtype.nbytes
    if nbytes > LARGEST:
        return f"beside the {nbytes >> 20} MiB of weights of {named(op)} the copy is no matter"
    return None


def channels_inside(weight: Const, image: Shape) -> Const:
    """Return ``weight: [n, c * h * w]`` as ``[n, h * w * c]`` for an image ``[b, c, h, w]``."""
    n, k = (int(d) for d in weight.type.shape)
    b = Builder("channels_inside")
    parts = b(Reshape((n, *image[1:])), b(Constant(weight)))
    made = b(Reshape((n, k)), b(Transpose(channels_last(len(image))), parts))
    return meaning.fold(b.finish(made))[0]
