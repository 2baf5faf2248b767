"""What each kind asks of its operands' physical order, and in which order it makes its results.

A policy is a function from an op and what is known around it to a ``Demand``. One table says which
kind has which; a kind that is not in it takes and makes row-major values only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from leptonc.ir.core import Kind, Op, Trait
from leptonc.ir.kinds.contract import Attention, Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant, Full, Interpolate, Iota, Triangle
from leptonc.ir.kinds.norm import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    LogSoftmax,
    RmsNorm,
    Softmax,
)
from leptonc.ir.kinds.quantize import (
    Dequantize,
    FakeQuantize,
    IntAttention,
    IntAvgPool,
    IntConv,
    IntLinear,
    Quantize,
)
from leptonc.ir.kinds.reduce import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    ArgReduction,
    AvgPool,
    CumSum,
    MaxPool,
    Pool,
    Reduction,
)
from leptonc.ir.kinds.shape import Concat, Expand, Flip, Pad, Reshape, Roll, Slice, Transpose
from leptonc.ir.types import TensorType
from leptonc.passes.fusing.axes import (
    Order,
    channels_last,
    gathered_order,
    order_of,
    permuted_order,
    reduced_order,
    reshaped_order,
)

FEW_CHANNELS = 8  # an image of up to so many is copied to padded lines before its convolution

Need: TypeAlias = "Order | None"  # an operand's order; None takes what comes


@dataclass(frozen=True)
class Demand:
    """Orders an op needs its operands in, and those it makes its results in."""

    needs: tuple[Need, ...]
    results: tuple[Order, ...]


class Sight(Protocol):
    """What a policy may look at."""

    def order(self, index: int) -> Order:
        """Return the order of operand ``index`` as it stands."""
        ...

    def is_source(self, index: int) -> bool:
        """Return whether operand ``index`` is a constant."""
        ...

    def move_bytes(self, index: int, order: Order) -> int:
        """Return the bytes to move to have operand ``index`` in ``order``."""
        ...

    def wish_bytes(self, order: Order) -> int:
        """Return the bytes a later op would move if result 0 came in ``order``."""
        ...

    def readers(self) -> tuple[Op, ...]:
        """Return the ops that read result 0."""
        ...


@dataclass(frozen=True, eq=False)
class Policy:
    """One way to choose; ``passes_on`` tells that the readers' wishes are the operands' too."""

    choose: Callable[[Op, Sight], Demand]
    passes_on: bool = False

    def __call__(self, op: Op, sight: Sight) -> Demand:
        """Return the demand of ``op``."""
        return self.choose(op, sight)


def _plain(rank: int) -> Order:
    return tuple(range(rank))


def _row_major(op: Op, sight: Sight) -> Demand:
    del sight
    return Demand(
        tuple(_plain(v.type.rank) for v in op.operands),
        tuple(_plain(r.type.rank) for r in op.results),
    )


def _as_it_is(op: Op, sight: Sight) -> Demand:
    """Leave a constant as its reader asked for it when it was placed, row-major before."""
    del sight
    return Demand((), tuple(order_of(r.type) for r in op.results))


def _channels_last(op: Op, sight: Sight) -> Demand:
    del sight
    x, *rest = op.operands
    order = channels_last(x.type.rank)
    return Demand((order, *(_plain(v.type.rank) for v in rest)), tuple(order for _ in op.results))


def _image_conv(op: Op, sight: Sight) -> Demand:
    """Take the image in any order: its own step copies it to padded lines anyway."""
    del sight
    rank = op.operands[0].type.rank
    rest = tuple(_plain(v.type.rank) for v in op.operands[1:])
    return Demand((None, *rest), (channels_last(rank),))


def reads_any_order(op: Op) -> bool:
    """Return whether ``op`` is a convolution of few channels, dense along its lines."""
    kind = op.kind
    if not isinstance(kind, Conv) or kind.groups != 1 or op.operands[0].type.rank != 4:
        return False
    channels, width = op.operands[0].type.shape[1], op.operands[1].type.shape[-1]
    few = isinstance(channels, int) and channels <= FEW_CHANNELS
    return few and isinstance(width, int) and width > 1 and kind.dilation[-1] == 1


def _is_full(t: TensorType, like: TensorType) -> bool:
    return t.shape == like.shape


def _follow(op: Op, sight: Sight) -> Demand:
    """Elementwise and its like: full operands in one order, the cheapest; others as they come."""
    out = op.results[0].type
    rank = out.rank
    by_size = isinstance(op.kind, Concat)  # its operands are smaller than the result, and all count
    full = [
        i for i, v in enumerate(op.operands)
        if v.type.rank == rank and (by_size or _is_full(v.type, out))
    ]  # fmt: skip
    ranked = [i for i in full if not sight.is_source(i)] or [
        i for i, v in enumerate(op.operands) if v.type.rank == rank and not sight.is_source(i)
    ]
    candidates = list(dict.fromkeys(sight.order(i) for i in ranked)) or [_plain(rank)]
    best = candidates[0]
    if len(candidates) > 1:
        best = min(
            candidates,
            key=lambda o: sum(sight.move_bytes(i, o) for i in full) + sight.wish_bytes(o),
        )
    needs = tuple(best if i in full else None for i in range(len(op.operands)))
    return Demand(needs, (best,))


def _same_axes(op: Op, sight: Sight) -> Demand:
    """One operand, a result of the same rank in the same order."""
    order = sight.order(0)
    return Demand(tuple(None for _ in op.operands), tuple(order for _ in op.results))


def _reduce(op: Op, sight: Sight) -> Demand:
    kind = op.kind
    order = sight.order(0)
    if isinstance(kind, Reduction):
        axes = kind.axes
    else:
        assert isinstance(kind, ArgReduction)
        axes = (kind.axis,)
    keep = op.result.type.rank == len(order)
    return Demand((None,), (order if keep else reduced_order(order, axes),))


def _transpose(op: Op, sight: Sight) -> Demand:
    assert isinstance(op.kind, Transpose)
    return Demand((None,), (permuted_order(sight.order(0), op.kind.perm),))


def _reshape(op: Op, sight: Sight) -> Demand:
    x, to = op.operands[0].type, op.result.type
    order = reshaped_order(x.shape, sight.order(0), to.shape)
    if order is not None:
        return Demand((None,), (order,))
    need = gathered_order(x.shape, sight.order(0), to.shape)
    order = reshaped_order(x.shape, need, to.shape)
    return Demand((need,), (_plain(to.rank) if order is None else order,))


def _expand(op: Op, sight: Sight) -> Demand:
    x, to = op.operands[0].type, op.result.type
    new = to.rank - x.rank
    return Demand((None,), ((*range(new), *(a + new for a in sight.order(0))),))


def _innermost(order: Order, shape: tuple[object, ...], axes: int) -> bool:
    """Return whether the last ``axes`` axes lie innermost, in order (axes of size 1 aside)."""
    rank = len(order)
    wide = [a for a in order if shape[a] != 1]
    want = [a for a in range(rank - axes, rank) if shape[a] != 1]
    return not want or wide[-len(want) :] == want


def _rows(op: Op, sight: Sight) -> Demand:
    """Work on the last axes (linear, layer norm): the axes before them may lie in any order."""
    x = op.operands[0].type
    order, rank = sight.order(0), x.rank
    axes = getattr(op.kind, "axes", 1)
    rest = tuple(_plain(v.type.rank) for v in op.operands[1:])
    if _innermost(order, x.shape, axes):
        # written with its last axis innermost even where size 1 let it stand elsewhere
        tail = tuple(range(rank - axes, rank))
        kept = (*(a for a in order if a not in tail), *tail)
        return Demand((None, *rest), (kept,))
    return Demand((_plain(rank), *rest), (_plain(rank),))


def _written_for_readers(op: Op, sight: Sight) -> Order:
    """Return the order that makes a transpose of the result row-major, if all readers ask it."""
    rank = op.result.type.rank
    perms = {r.kind.perm if isinstance(r.kind, Transpose) else None for r in sight.readers()}
    if len(perms) == 1 and (perm := perms.pop()) is not None and perm[-1] == rank - 1:
        return perm
    return _plain(rank)


def _matmul(op: Op, sight: Sight) -> Demand:
    needs: list[Need] = []
    for i, v in enumerate(op.operands):
        wide = [a for a in sight.order(i) if v.type.shape[a] != 1]
        strided = not wide or wide[-1] >= v.type.rank - 2
        needs.append(None if strided else _plain(v.type.rank))
    return Demand(tuple(needs), (_written_for_readers(op, sight),))


def _attention(op: Op, sight: Sight) -> Demand:
    needs = tuple(
        None if not v.type.rank or _innermost(sight.order(i), v.type.shape, 1)
        else _plain(v.type.rank)
        for i, v in enumerate(op.operands)
    )  # fmt: skip
    return Demand(needs, (_written_for_readers(op, sight),))


ROW_MAJOR = Policy(_row_major)
AS_IT_IS = Policy(_as_it_is)
CHANNELS_LAST = Policy(_channels_last)
IMAGE_CONV = Policy(_image_conv)
FOLLOW = Policy(_follow, passes_on=True)
SAME_AXES = Policy(_same_axes, passes_on=True)
REDUCE = Policy(_reduce)
TRANSPOSE = Policy(_transpose)
RESHAPE = Policy(_reshape)
EXPAND = Policy(_expand)
ROWS = Policy(_rows)
MATMUL = Policy(_matmul)
ATTENTION = Policy(_attention)

_TABLE: Mapping[type[Kind], Policy] = {
    **dict.fromkeys((Conv, ConvTranspose, BatchNorm, GroupNorm, Interpolate), CHANNELS_LAST),
    **dict.fromkeys((MaxPool, AvgPool, AdaptiveAvgPool, AdaptiveMaxPool), CHANNELS_LAST),
    **dict.fromkeys((IntConv, IntAvgPool), CHANNELS_LAST),
    IntLinear: ROWS,
    **dict.fromkeys((Quantize, Dequantize, FakeQuantize), SAME_AXES),
    **dict.fromkeys((Concat,), FOLLOW),
    **dict.fromkeys((Pad, Slice, Flip, Roll, Softmax, LogSoftmax, CumSum, Triangle), SAME_AXES),
    **dict.fromkeys((Linear, LayerNorm, RmsNorm), ROWS),
    **dict.fromkeys((Constant, Full, Iota), AS_IT_IS),
    Transpose: TRANSPOSE,
    Reshape: RESHAPE,
    Expand: EXPAND,
    Matmul: MATMUL,
    **dict.fromkeys((Attention, IntAttention), ATTENTION),
}


def policy_of(op: Op) -> Policy:
    """Return the policy of an op. An image kind off images (a pool over ``[c,n]``) is row-major."""
    found = _TABLE.get(type(op.kind))
    if reads_any_order(op):
        return IMAGE_CONV
    if found is CHANNELS_LAST:
        return CHANNELS_LAST if _is_image(op) else ROW_MAJOR
    if found is not None:
        return found
    if isinstance(op.kind, (Reduction, ArgReduction)):
        return REDUCE
    return FOLLOW if Trait.ELEMENTWISE in op.kind.traits and op.operands else ROW_MAJOR


def _is_image(op: Op) -> bool:
    rank = op.operands[0].type.rank
    windows = 0
    if isinstance(op.kind, Pool):
        windows = len(op.kind.kernel)
    elif isinstance(op.kind, AdaptiveAvgPool):
        windows = len(op.kind.output)
    return 3 <= rank <= 5 and (not windows or windows == rank - 2)
