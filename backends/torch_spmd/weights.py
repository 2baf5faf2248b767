"""torch_spmd > weights: the constants of one rank, of which only its own part is read.

Behind a constant that is cut stands the slice that a rank takes, maybe between two reshapes that
open and close the blocks of the axis. Here these become one constant of the part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.collective import Owned
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.shape import Reshape, Slice

Index = tuple[slice, ...]
Read = Callable[[Const, Index], Tensor]  # the elements of a constant under one index a axis


def read_payload(const: Const, index: Index) -> Tensor:
    """Return a part of a constant whose bytes are in this process."""
    return meaning.tensor_of(const)[index].clone()


def materialize(fn: Function, read: Read) -> Function:
    """Return ``fn``, the function of one rank, with its own part for every constant that is cut.

    Args:
        fn: as ``Spmd.local`` gives it.
        read: reads a part; whole constants that are read whole go through it, too.
    """
    made = dict[Value, Const]()
    for op in fn.ops:
        if isinstance(op.kind, Constant):
            for end, const in _parts_of(fn, op, read):
                made[end] = const
    return _replaced(fn, made)


def _parts_of(fn: Function, op: Op, read: Read) -> list[tuple[Value, Const]]:
    """Return the values that stand for parts of a constant, with these."""
    assert isinstance(op.kind, Constant)
    const, whole = op.kind.const, op.result
    parts, rest = list[tuple[Value, Const]](), whole in fn.returns
    for user in fn.users[whole]:
        found = _cut(fn, user, const, read)
        rest = rest or not found
        parts += found
    if rest:
        full = (slice(None),) * const.type.rank
        parts.append((whole, meaning.const_of(read(const, full))))
    return parts


def _cut(fn: Function, user: Op, const: Const, read: Read) -> list[tuple[Value, Const]]:
    """Return what ``user`` makes of a constant that a rank needs a part of, [] for any other."""
    kind: Any = user.kind
    if isinstance(kind, Slice) and kind.step == 1:
        index = _index(const.type.rank, kind.axis, kind.start, kind.stop)
        return [(user.result, meaning.const_of(read(const, index)))]
    if isinstance(kind, Owned):
        if kind.rank == 0:
            return [(user.result, meaning.const_of(read(const, (slice(None),) * const.type.rank)))]
        shape = tuple(int(d) for d in const.type.shape)  # type: ignore[arg-type]
        zeros = torch.zeros(shape, dtype=meaning.TORCH_DTYPES[const.type.dtype])
        return [(user.result, meaning.const_of(zeros))]
    if isinstance(kind, Reshape):
        return _blocks(fn, user, const, read)
    return []


def _blocks(fn: Function, opened: Op, const: Const, read: Read) -> list[tuple[Value, Const]]:
    """Return the parts of the outer blocks of an axis: reshape, slice, reshape."""
    found = list[tuple[Value, Const]]()
    for cut in fn.users[opened.result]:
        closing = fn.users[cut.result] if isinstance(cut.kind, Slice) else ()
        if len(closing) != 1 or not isinstance(closing[0].kind, Reshape):
            return []
        kind: Any = cut.kind
        axis = kind.axis - 1  # of the constant: the blocks are an axis of their own
        outer = int(opened.result.type.shape[axis])  # type: ignore[arg-type]
        block = int(const.type.shape[axis]) // outer  # type: ignore[arg-type]
        pieces = [
            read(
                const, _index(const.type.rank, axis, i * block + kind.start, i * block + kind.stop)
            )
            for i in range(outer)
        ]
        found.append((closing[0].result, meaning.const_of(torch.cat(pieces, axis))))
    return found


def _index(rank: int, axis: int, start: Any, stop: Any) -> Index:
    own = slice(int(start), int(stop))
    return tuple(own if a == axis else slice(None) for a in range(rank))


def _replaced(fn: Function, made: dict[Value, Const]) -> Function:
    """Return ``fn`` in which the values of ``made`` are constants; what made them is gone."""
    ops = list[Op]()
    for op in fn.ops:
        if len(op.results) == 1 and op.result in made:
            ops.append(Op(Constant(made[op.result]), (), op.results, op.origin))
        else:
            ops.append(op)
    needed, kept = set[Value](fn.returns), list[Op]()
    for op in reversed(ops):
        if any(r in needed for r in op.results) or not _droppable(op):
            kept.append(op)
            needed.update(op.operands)
    return Function(fn.name, fn.params, tuple(reversed(kept)), fn.returns, fn.dims)


def _droppable(op: Op) -> bool:
    return isinstance(op.kind, (Constant, Reshape, Slice, Owned))
