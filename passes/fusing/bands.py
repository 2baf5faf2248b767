"""Depthwise convolutions with the convolutions before and behind, to run band by band.

Inverted residuals (Sandler et al., "MobileNetV2", 2018) widen an image, filter its channels one by
one and narrow it again. The wide images are far larger than what goes in and comes out: run for a
few lines after another, they never leave the cache. The first convolution of a network widens, too:
an image of a few channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.types import DType
from leptonc.passes.fusing.policy import FEW_CHANNELS
from leptonc.runtime.caches import read_caches

CACHE_BYTES = read_caches().l2  # images that fit in it lose nothing there
_SHARE = 3  # part of the cache that a band may take, about
_WIDEST = 1 << 19  # bytes of a few lines of an image that bands can hold

Chain = Sequence[Op]


def windows(fn: Function) -> list[Op]:
    """Return the depthwise convolutions of two-dimensional images in ``fn``."""
    return [op for op in fn.ops if isinstance(op.kind, Conv) and _is_depthwise(op)]


def _is_depthwise(op: Op) -> bool:
    kind, x, out = op.kind, op.operands[0].type, op.result.type
    assert isinstance(kind, Conv)
    return x.rank == 4 and kind.groups == x.shape[1] == out.shape[1] and kind.groups > 1


def around(window: Op, fn: Function, chain_of: Callable[[Op], Chain]) -> list[Chain] | str:
    """Return the chains ``[expand,] depthwise [, project]`` to run in bands, or why there are none.

    ``chain_of`` gives a convolution with its epilogue. What lies between two chains is read by
    nothing else.
    """
    middle = chain_of(window)
    if not all(isinstance(d, int) for op in (middle[0], middle[-1]) for d in _shape(op)):
        return "the sizes of its images are not known: no bands"
    kind = window.kind
    assert isinstance(kind, Conv)
    if window.result.type.dtype is not DType.F32 or kind.dilation[0] != 1:
        return "bands are for float32 without dilation"
    before, after = _before(window, fn, chain_of), _after(middle, fn)
    between = 0
    chains: list[Chain] = [middle]
    if before is not None:
        between += _nbytes(window.operands[0])
        chains.insert(0, before)
    if after is not None:
        between += _nbytes(middle[-1].result)
        chains.append(chain_of(after))
    if len(chains) == 1:
        return "no 1x1 or first convolution next to it that it alone reads or feeds"
    if between <= CACHE_BYTES:
        return f"the {between >> 10} KiB between it and its neighbours stay in the cache anyway"
    weights = sum(_nbytes(c[0].operands[1]) for c in chains if c is not middle)
    if between <= 2 * CACHE_BYTES and _SHARE * weights > CACHE_BYTES:
        return f"every band would read {weights >> 10} KiB of weights, to save little"
    if _lines_bytes(window) > _WIDEST:
        return "a few lines of its image are larger than a cache"
    return chains


def _shape(op: Op) -> Sequence[object]:
    return (*op.operands[0].type.shape, *op.result.type.shape)


def _nbytes(value: Value) -> int:
    return 4 * math.prod(int(d) for d in value.type.shape)


def _lines_bytes(window: Op) -> int:
    """Return the bytes of the lines that one line of the result reads, with it."""
    _, channels, _, in_w = (int(d) for d in window.operands[0].type.shape)
    lines = int(window.operands[1].type.shape[2])
    return 4 * channels * (lines * in_w + int(window.result.type.shape[3]))


def is_pointwise(op: Op) -> bool:
    """Return whether ``op`` is a 1x1 convolution of every pixel of two-dimensional images."""
    kind = op.kind
    if not isinstance(kind, Conv) or op.result.type.rank != 4:
        return False
    ones = (*kind.stride, *(int(d) for d in op.operands[1].type.shape[2:]))
    padded = any(kind.padding) or any(kind.after or ())
    return kind.groups == 1 and not padded and all(n == 1 for n in ones)


def _is_first(op: Op) -> bool:
    """Return whether ``op`` is a convolution of two-dimensional images of few channels."""
    kind = op.kind
    if not isinstance(kind, Conv) or op.result.type.rank != 4:
        return False
    return kind.groups == 1 and int(op.operands[1].type.shape[1]) <= FEW_CHANNELS


def _before(window: Op, fn: Function, chain_of: Callable[[Op], Chain]) -> Chain | None:
    """Return the chain of the 1x1 or first convolution whose result only ``window`` reads."""
    maker = fn.producer.get(window.operands[0])
    if maker is None or fn.use_count[window.operands[0]] != 1:
        return None
    chain = chain_of(maker)
    widens = is_pointwise(chain[0]) or _is_first(chain[0])
    return chain if widens and chain[-1] is maker else None


def _after(middle: Chain, fn: Function) -> Op | None:
    """Return the 1x1 convolution that alone reads what ``middle`` makes."""
    value = middle[-1].result
    users = fn.users[value]
    if fn.use_count[value] != 1 or len(users) != 1 or not is_pointwise(users[0]):
        return None
    return users[0] if users[0].operands[0] is value else None
