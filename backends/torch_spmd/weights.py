"""torch_spmd > weights: the constants of one rank, of which only its own part is ever read.

Behind a constant that is cut stands the slice that a rank takes, maybe between two reshapes that
open and close the blocks of the axis. ``parted`` makes of these one constant of the part, which
lies where the whole constant does, a mapped file. The units that need it are built knowing where
(``placed``), and read it once all of them stand. What a unit makes of it is all that the rank
holds, and of the other parts nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.pack import PACE, Fetch, at_hand
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.dims import Dim
from leptonc.ir.kinds.collective import Owned
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.shape import Reshape, Slice
from leptonc.ir.types import TensorType

Index = tuple[slice, ...]
Read = Callable[[Const, Index], Tensor]  # the elements of a constant under one slice an axis


@dataclass(frozen=True)
class Stored:
    """How a rank gets at the constants of the program.

    Attributes:
        read: gives elements as a tensor of its own.
        look: gives them where they lie; nobody may write to them.
        rest: gives back the memory that looking took; one may go on looking.
        fetch: gives elements that ``look`` gave in memory that the next call reuses.
    """

    read: Read
    look: Read
    rest: Callable[[], None]
    fetch: Fetch = at_hand


@dataclass(frozen=True, eq=False)
class Part:
    """What a rank has of a constant: pieces of it, joined along an axis; payload of a ``Const``.

    ``pieces`` is empty for zeros of the whole size.
    """

    whole: Const
    pieces: tuple[Index, ...]
    axis: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """What equal parts have in common."""
        return (self.whole.digest, self.axis, str(self.pieces))

    def digest(self, payload: object) -> str:
        """Return a hash of where the part lies: its bytes need not be read for that."""
        return hashlib.sha256(repr((self.key, self.whole.type)).encode()).hexdigest()

    def read(self, read: Read) -> Tensor:
        """Return the part; ``read`` says whether it is a tensor of its own."""
        if not self.pieces:
            return _zeros(self.whole.type)
        parts = [read(self.whole, index) for index in self.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)


def _zeros(type_: TensorType) -> Tensor:
    """Return zeros without a kernel of torch's: its pages would lie beside the weights."""
    dtype, shape = meaning.TORCH_DTYPES[type_.dtype], _ints(type_.shape)
    if not int(type_.numel):
        return torch.empty(shape, dtype=dtype)
    raw = np.zeros(int(type_.numel) * type_.dtype.nbytes, np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def parted(fn: Function) -> Function:
    """Return ``fn``, the function of one rank as ``Spmd.local`` gives it, with parts to be read."""
    made = dict[Value, Const]()
    for op in fn.ops:
        if isinstance(op.kind, Constant):
            made.update(_parts_of(fn, op))
    return _replaced(fn, made)


def placed(fn: Function, stored: Stored) -> Function:
    """Return ``fn`` whose parts are read where somebody looks at them, and none of them before."""
    made = dict[Value, Const]()
    for op in fn.ops:
        if isinstance(op.kind, Constant) and isinstance(op.kind.const.payload, Part):
            made[op.result] = _placed(op.kind.const, op.kind.const.payload, stored)
    return _replaced(fn, made)


def _placed(const: Const, part: Part, stored: Stored) -> Const:
    nbytes = int(const.type.numel) * const.type.dtype.nbytes
    read = partial(part.read, stored.read if nbytes <= PACE else stored.look)
    if nbytes > PACE and len(part.pieces) == 1:
        view = read()  # of the file, none of it read; several pieces would have to be joined
        read = partial(_given, view)
    placed = Const(const.type, meaning.Later(read), part.digest)
    meaning.set_nonzero_share(placed, meaning.nonzero_share(part.whole))
    return placed


def _given(view: Tensor) -> Tensor:
    return view


def tensor_of(const: Const, read: Read) -> Tensor:
    """Return the tensor of a constant or of the part that stands for one."""
    payload = const.payload
    return payload.read(read) if isinstance(payload, Part) else meaning.tensor_of(const)


def _parts_of(fn: Function, op: Op) -> list[tuple[Value, Const]]:
    """Return the values that stand for parts of a constant, with these."""
    assert isinstance(op.kind, Constant)
    const, whole = op.kind.const, op.result
    parts, rest = list[tuple[Value, Const]](), whole in fn.returns
    for user in fn.users[whole]:
        found = _cut(fn, user, const)
        rest = rest or not found
        parts += found
    if rest:
        parts.append((whole, _const(whole, Part(const, (_everything(const),)))))
    return parts


def _cut(fn: Function, user: Op, const: Const) -> list[tuple[Value, Const]]:
    """Return what ``user`` makes of a constant that a rank needs a part of, [] for any other."""
    kind: Any = user.kind
    if isinstance(kind, Slice) and kind.step == 1:
        index = _index(const.type.rank, kind.axis, kind.start, kind.stop)
        return [(user.result, _const(user.result, Part(const, (index,))))]
    if isinstance(kind, Owned):
        pieces = (_everything(const),) if kind.rank == 0 else ()
        return [(user.result, _const(user.result, Part(const, pieces)))]
    return _blocks(fn, user, const) if isinstance(kind, Reshape) else []


def _blocks(fn: Function, opened: Op, const: Const) -> list[tuple[Value, Const]]:
    """Return the parts of the outer blocks of an axis: reshape, slice, reshape."""
    found = list[tuple[Value, Const]]()
    for cut in fn.users[opened.result]:
        closing = fn.users[cut.result] if isinstance(cut.kind, Slice) else ()
        if len(closing) != 1 or not isinstance(closing[0].kind, Reshape):
            return []
        kind: Any = cut.kind
        axis = kind.axis - 1  # of the constant: the blocks are an axis of their own
        (outer,), (size,) = (
            _ints(opened.result.type.shape[axis : axis + 1]), _ints(const.type.shape[axis:][:1])
        )  # fmt: skip
        block, rank = size // outer, const.type.rank
        pieces = tuple(
            _index(rank, axis, i * block + kind.start, i * block + kind.stop) for i in range(outer)
        )
        end = closing[0].result
        found.append((end, _const(end, Part(const, pieces, axis))))
    return found


def _const(value: Value, part: Part) -> Const:
    type_ = TensorType(value.type.dtype, value.type.shape)
    return Const(type_, part, _no_digest)


def _no_digest(payload: object) -> str:
    raise TypeError("a part of a constant is read before anybody asks for its hash")


def _everything(const: Const) -> Index:
    return (slice(None),) * const.type.rank


def _index(rank: int, axis: int, start: Any, stop: Any) -> Index:
    own = slice(int(start), int(stop))
    return tuple(own if a == axis else slice(None) for a in range(rank))


def _ints(sizes: tuple[Dim, ...]) -> tuple[int, ...]:
    """Return the sizes of a constant, which are numbers."""
    return tuple(int(n) for n in sizes if isinstance(n, int))


def _replaced(fn: Function, made: dict[Value, Const]) -> Function:
    """Return ``fn`` in which the values of ``made`` are constants; what made them is gone."""
    if not made:
        return fn
    ops = [
        Op(Constant(made[op.result]), (), op.results, op.origin)
        if len(op.results) == 1 and op.result in made
        else op
        for op in fn.ops
    ]
    needed, kept = set[Value](fn.returns), list[Op]()
    for op in reversed(ops):
        if any(r in needed for r in op.results) or not _droppable(op):
            kept.append(op)
            needed.update(op.operands)
    return Function(fn.name, fn.params, tuple(reversed(kept)), fn.returns, fn.dims)


def _droppable(op: Op) -> bool:
    return isinstance(op.kind, (Constant, Reshape, Slice, Owned))
