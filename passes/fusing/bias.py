"""A constant per-channel vector added to a contraction becomes (part of) its bias."""

from __future__ import annotations

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.dims import Dim, same_dim
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.shape import Reshape
from leptonc.ir.types import TensorType
from leptonc.rewrite.trace import Trace, named, readers_text, value_text

_BIASED = (Linear, Conv, ConvTranspose)


def fold_bias(fn: Function, trace: Trace) -> Function:
    """Return ``fn`` with ``root(x, w[, b]) + v`` as ``root(x, w, b + v)``; ``fn`` if there is none.

    The sum ``b + v`` is rounded once from float64; the result is equal up to the order of sums.
    """
    folded: dict[int, Op] = {}  # id of the add -> its root
    for op in fn.ops:
        root = _root_of(op, fn, trace)
        if root is not None:
            folded[id(op)] = root
    if not folded:
        return fn
    gone = {id(root) for root in folded.values()}
    ops: list[Op] = []
    for op in fn.ops:
        if id(op) in folded:
            ops.extend(_with_bias(op, folded[id(op)], fn))
            name = named(folded[id(op)])
            trace.applied(op, f"the added constant joins the bias of {name}")
        elif id(op) not in gone:
            ops.append(op)
    return Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims)


def channel_axis(root: Op) -> int:
    """Return the axis of a contraction's result that its bias runs along."""
    return root.result.type.rank - 1 if isinstance(root.kind, Linear) else 1


def const_in(v: Value, fn: Function) -> Const | None:
    """Return the constant that ``v`` is, if it is one."""
    maker = fn.producer.get(v)
    return maker.kind.const if maker is not None and isinstance(maker.kind, Constant) else None


def _root_of(add: Op, fn: Function, trace: Trace) -> Op | None:
    """Return the contraction whose bias can take the constant that ``add`` adds."""
    if not isinstance(add.kind, Add):
        return None
    for v, vector in (add.operands, add.operands[::-1]):
        root = fn.producer.get(v)
        if root is None or not isinstance(root.kind, _BIASED) or const_in(vector, fn) is None:
            continue
        if not is_channel_vector(vector.type, root) or add.result.type != v.type:
            continue
        if fn.use_count[v] != 1:
            more = readers_text(fn.users[v], (add,)) or "the caller"
            trace.missed(add, f"no bias of {named(root)}: {value_text(v)} is also read by {more}")
            continue
        if len(root.operands) == 3 and const_in(root.operands[2], fn) is None:
            trace.missed(add, f"no bias of {named(root)}: the bias it has is no constant")
            continue
        return root
    return None


def is_channel_vector(t: TensorType, root: Op) -> bool:
    """Return whether ``t`` broadcasts along nothing but the channels that ``root`` makes."""
    out = root.result.type
    axis = channel_axis(root) - (out.rank - t.rank)
    return (
        t.dtype is out.dtype
        and 0 <= axis < t.rank <= out.rank
        and same_dim(t.shape[axis], out.shape[channel_axis(root)])
        and all(same_dim(d, 1) for i, d in enumerate(t.shape) if i != axis)
    )


def _with_bias(add: Op, root: Op, fn: Function) -> tuple[Op, Op]:
    a, b = add.operands
    vector = const_in(b if fn.producer.get(a) is root else a, fn)
    old = const_in(root.operands[2], fn) if len(root.operands) == 3 else None
    assert vector is not None
    n = root.result.type.shape[channel_axis(root)]
    const = _sum(vector, old, n)
    bias = Value(const.type, "bias")
    made = Op(Constant(const), (), (bias,), root.origin)
    x, w, *_ = root.operands
    return made, Op(root.kind, (x, w, bias), add.results, root.origin)


def _sum(vector: Const, old: Const | None, n: Dim) -> Const:
    b = Builder("bias")
    total = b(Reshape((n,)), b(Constant(vector)))
    if old is not None:
        total = b(Add(), b(Constant(old)), total)
    (const,) = meaning.fold(b.finish(total), "f64")
    return const
