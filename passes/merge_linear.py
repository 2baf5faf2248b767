"""``merge-linear``: fewer, larger products.

Linear layers that read the same value become one, with their weights joined; each result is a slice
(which moves no data). A linear layer or 1x1 convolution right after another one, with nothing
between, becomes one where that takes fewer operations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Conv, Linear, Matmul
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.shape import Concat, Reshape, Slice
from leptonc.ir.types import DType
from leptonc.meaning import stacked
from leptonc.passes.fusing.bias import const_in
from leptonc.passes.fusing.contract import is_activation
from leptonc.passes.fusing.rebuild import Arithmetic, Rebuild, sizes
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Trace, named, readers_text, value_text


@dataclass(frozen=True)
class MergeLinear(Pass):
    """Merge parallel and consecutive linear layers with constant weights."""

    NAME: ClassVar[str] = "merge-linear"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with merged layers; ``fn`` itself when there are none."""
        return _parallel(_consecutive(fn, trace), trace)


def _weights(op: Op, fn: Function) -> tuple[Const, Const | None] | None:
    """Return the constant weight and bias of a contraction, or None if they are no constants."""
    found = [const_in(v, fn) for v in op.operands[1:]]
    w = found[0]
    if w is None or any(c is None for c in found):
        return None
    return w, (found[1] if len(found) > 1 else None)


# ----- parallel -----------------------------------------------------------------------------------


def _parallel(fn: Function, trace: Trace) -> Function:
    groups: dict[tuple[Value, DType], list[Op]] = {}
    for op in fn.ops:
        if isinstance(op.kind, Linear) and _weights(op, fn) is not None:
            groups.setdefault((op.operands[0], op.result.type.dtype), []).append(op)
    _tell_computed(fn, trace)
    merged: dict[int, list[Op]] = {}  # by id of the first
    for ops in groups.values():
        if len(ops) > 1 and _worth_merging(ops, fn, trace):
            merged[id(ops[0])] = ops
    if not merged:
        return fn
    gone = {id(op) for ops in merged.values() for op in ops}
    new = Rebuild(fn)
    for op in fn.ops:
        if id(op) in merged:
            _emit_merged(merged[id(op)], new)
            count, x = len(merged[id(op)]), value_text(op.operands[0])
            trace.applied(op, f"{count} linear layers on {x} become one")
        elif id(op) not in gone:
            new.keep(op)
    return new.finish()


def _tell_computed(fn: Function, trace: Trace) -> None:
    """Say which linear layers have neighbours, but weights that the model computes."""
    for op in fn.ops:
        if not isinstance(op.kind, Linear) or _weights(op, fn) is not None:
            continue
        if sum(isinstance(u.kind, Linear) for u in fn.users[op.operands[0]]) > 1:
            trace.missed(op, "not merged with its neighbours: its weight or bias is no constant")


def _worth_merging(ops: list[Op], fn: Function, trace: Trace) -> bool:
    """Return whether the merged layer saves more than the epilogues that can no longer fuse."""
    alone = [op for op in ops if not _has_epilogue(op, fn)]
    if alone:
        return True
    for op in ops:
        trace.missed(op, "not merged with its neighbours: each has an activation or add to fuse")
    return False


def _has_epilogue(op: Op, fn: Function) -> bool:
    users = fn.users[op.result]
    if len(users) != 1 or fn.use_count[op.result] != 1:
        return False
    return is_activation(users[0].kind) or isinstance(users[0].kind, Add)


def _emit_merged(ops: list[Op], new: Rebuild) -> None:
    fn, first = new.fn, ops[0]
    parts = [w for op in ops if (w := _weights(op, fn)) is not None]
    w, bias = _joined(parts, first.result.type.dtype)
    operands = [new.now[first.operands[0]], new.constant(w, first.origin, "weights")]
    if bias is not None:
        operands.append(new.constant(bias, first.origin, "biases"))
    (type_,) = Linear().infer(tuple(v.type for v in operands))
    hint = "_".join(op.result.hint for op in ops) if all(op.result.hint for op in ops) else ""
    whole = new.emit(Linear(), *operands, result=Value(type_, hint), origin=first.origin)
    at = 0
    for op, (part, _) in zip(ops, parts, strict=True):
        n = sizes(part)[0]
        axis = op.result.type.rank - 1
        new.emit(Slice(axis, at, at + n), whole, result=op.result, origin=op.origin)
        at += n


def _joined(parts: list[tuple[Const, Const | None]], dtype: DType) -> tuple[Const, Const | None]:
    """Return the weights and biases one below the other; a missing bias is zero."""
    weights, b = [w for w, _ in parts], Arithmetic("joined")
    if all(w.type.dtype is dtype for w in weights):
        weight = stacked(weights)  # nothing is rounded
    else:
        (weight,) = b.rounded(dtype, b(Concat(0), *map(b.load, weights)))
    if all(bias is None for _, bias in parts):
        return weight, None
    b = Arithmetic("joined")
    biases = (
        b(Full((sizes(w)[0],), 0.0, DType.F64)) if bias is None else b.load(bias)
        for w, bias in parts
    )
    (bias,) = b.rounded(dtype, b(Concat(0), *biases))
    return weight, bias


# ----- consecutive --------------------------------------------------------------------------------


def _consecutive(fn: Function, trace: Trace) -> Function:
    new = Rebuild(fn)
    for op in fn.ops:
        first = new.maker(op.operands[0]) if isinstance(op.kind, (Linear, Conv)) else None
        if first is None or type(first.kind) is not type(op.kind) or trace.spent:
            new.keep(op)
            continue
        reason = _misfit(first, op, new)
        if reason is not None:
            trace.missed(op, f"not merged with {named(first)}: {reason}")
            new.keep(op)
            continue
        _emit_composed(first, op, new)
        trace.applied(op, f"composed with {named(first)}")
    return new.finish()


def _misfit(first: Op, second: Op, new: Rebuild) -> str | None:
    """Return why ``second`` after ``first`` stays, or None."""
    if isinstance(second.kind, Conv) and not _pointwise(second):
        return "the second is no 1x1 convolution"
    if isinstance(first.kind, Conv) and first.kind.groups != 1:
        return "the first has groups"
    if _new_weights(first, new) is None or _weights(second, new.fn) is None:
        return "a weight or bias is no constant"
    before, after = _work(first, second)
    if after >= before:
        return f"{after} multiplications a position instead of {before} would save nothing"
    x = second.operands[0]
    if new.fn.use_count[x] != 1:
        others = readers_text(new.fn.users[x], (second,)) or "the caller"
        return f"{value_text(x)} is also read by {others}"
    return None


def _new_weights(op: Op, new: Rebuild) -> tuple[Const, Const | None] | None:
    found = [new.const_in(v) for v in op.operands[1:]]
    if found[0] is None or any(c is None for c in found):
        return None
    return found[0], (found[1] if len(found) > 1 else None)


def _pointwise(op: Op) -> bool:
    assert isinstance(op.kind, Conv)
    kernel = op.operands[1].type.shape[2:]
    return all(same_dim(k, 1) for k in kernel) and not op.kind.padded and op.kind.groups == 1


def _work(first: Op, second: Op) -> tuple[int, int]:
    """Return multiplications per output position of the two, and of the one that replaces them."""
    w1 = [int(d) for d in first.operands[1].type.shape]
    n2 = int(second.operands[1].type.shape[0])
    taps = 1
    for d in w1[1:]:
        taps *= d
    stride = 1
    if isinstance(second.kind, Conv):
        for s in second.kind.stride:
            stride *= s  # the first computes this many positions for one of the second
    return w1[0] * taps * stride + n2 * w1[0], n2 * taps


def _emit_composed(first: Op, second: Op, new: Rebuild) -> None:
    one, two = _new_weights(first, new), _weights(second, new.fn)
    assert one is not None and two is not None
    w, bias = _composed(one, two, second.result.type.dtype)
    kind = first.kind
    if isinstance(kind, Conv):
        assert isinstance(second.kind, Conv)
        stride = tuple(a * b for a, b in zip(kind.stride, second.kind.stride, strict=True))
        kind = replace(kind, stride=stride)
    operands = [first.operands[0], new.constant(w, second.origin)]
    if bias is not None:
        operands.append(new.constant(bias, second.origin))
    new.absorb(first)
    new.emit(kind, *operands, result=second.result, origin=second.origin)


def _composed(
    one: tuple[Const, Const | None], two: tuple[Const, Const | None], dtype: DType
) -> tuple[Const, Const | None]:
    """Return ``w2 w1`` and ``w2 b1 + b2``, from float64."""
    (w1, b1), (w2, b2) = one, two
    b = Arithmetic("composed")
    n1, *rest = sizes(w1)
    n2 = sizes(w2)[0]
    taps = 1
    for d in rest:
        taps *= d
    outer = b.load(w2, n2, n1)
    weight = b(Reshape((n2, *rest)), b(Matmul(), outer, b.load(w1, n1, taps)))
    shift = None if b2 is None else b.load(b2)
    if b1 is not None:
        moved = b(Reshape((n2,)), b(Matmul(), outer, b.load(b1, n1, 1)))
        shift = moved if shift is None else b(Add(), moved, shift)
    if shift is None:
        (made,) = b.rounded(dtype, weight)
        return made, None
    made, bias = b.rounded(dtype, weight, shift)
    return made, bias
