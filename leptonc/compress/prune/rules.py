"""compress > prune > rules: by kind, which axes of operands and results go together.

One rule a kind; a kind without one pins all that it touches. What a rule lets through keeps the
meaning of a masked program: the program with the removed indices gone computes what the whole one
does when every value is zero there (norms over pruned channels only with ``through_norms``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leptonc.compress.prune.relations import Choice, Relations
from leptonc.ir.core import Kind, Op, Trait, Value
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds import contract, data, norm, pointwise, reduce, shape

Rule = Callable[[Op, Relations], None]


def _rank(v: Value) -> int:
    return len(v.type.shape)


def aligned(a: Value, b: Value, at: Relations, last: int = 0) -> None:
    """Broadcast: axes of ``a`` are those of ``b`` counted from the end, less ``last`` of them."""
    for i in range(last + 1, min(_rank(a), _rank(b)) + 1):
        at.same(a, -i, b, -i)


def _elementwise(op: Op, at: Relations) -> None:
    for x in op.operands:
        aligned(x, op.result, at)


def _keep_leading(op: Op, at: Relations, rest: int, why: str) -> None:
    """All but the last ``rest`` axes stay what they are; those are pinned on both sides."""
    (x, *_), out = op.operands, op.result
    for i in range(_rank(x)):
        if i < _rank(x) - rest:
            at.same(x, i, out, i)
        else:
            at.pin(x, i, why)
            at.pin(out, i, why)


def _spatial(op: Op, at: Relations) -> None:
    _keep_leading(op, at, _rank(op.operands[0]) - 2, f"spatial axis of {op.kind.NAME}")


def _pool(op: Op, at: Relations) -> None:
    kind = op.kind
    n = len(kind.kernel) if isinstance(kind, reduce.Pool) else len(kind.attributes["output"])
    _keep_leading(op, at, n, f"window axis of {kind.NAME}")


def _linear(op: Op, at: Relations) -> None:
    (x, w, *bias), out = op.operands, op.result
    at.same(x, -1, w, 1)
    for v in (w, *bias):
        at.same(v, 0, out, -1)
    for i in range(_rank(x) - 1):
        at.same(x, i, out, i)


def _matmul(op: Op, at: Relations) -> None:
    (x, y), out = op.operands, op.result
    at.same(x, -1, y, -2)
    at.same(x, -2, out, -2)
    at.same(y, -1, out, -1)
    aligned(x, out, at, last=2)
    aligned(y, out, at, last=2)


def _groupwise(op: Op, groups: int, at: Relations) -> None:
    """Channels of one group go together, before and after: whole groups are removed."""
    x, out = op.operands[0], op.result
    takes, makes = (int(v.type.shape[1]) // groups for v in (x, out))
    pairs = [(i, 0) for i in range(takes)] + [(0, j) for j in range(1, makes)]
    pairs = [(g * takes + i, g * makes + j) for g in range(groups) for i, j in pairs]
    at.link(x, 1, [i for i, _ in pairs], out, 1, [j for _, j in pairs])


def _conv(op: Op, at: Relations) -> None:
    (x, w, *bias), out = op.operands, op.result
    transposed = isinstance(op.kind, contract.ConvTranspose)
    groups, (takes, makes) = op.kind.attributes["groups"], (0, 1) if transposed else (1, 0)
    if groups == 1:
        at.same(x, 1, w, takes)
        at.same(w, makes, out, 1)
    else:
        _groupwise(op, groups, at)
        at.same(w, 0, x if transposed else out, 1)
        at.pin(w, 1, "channels inside a group of a grouped convolution")
    for b in bias:
        at.same(b, 0, out, 1)
    for i in range(2, _rank(w)):
        at.pin(w, i, "taps of a convolution")
    _spatial_of(op, at)


def _spatial_of(op: Op, at: Relations) -> None:
    at.same(op.operands[0], 0, op.result, 0)
    for v in (op.operands[0], op.result):
        for i in range(2, _rank(v)):
            at.pin(v, i, f"spatial axis of {op.kind.NAME}")


def _attention(op: Op, at: Relations) -> None:
    assert isinstance(op.kind, contract.Attention)
    (q, k, v, *mask), out = op.operands, op.result
    at.same(q, -1, k, -1)
    at.same(v, -1, out, -1)
    at.same(q, -2, out, -2)
    at.same(k, -2, v, -2)
    at.pin(k, -2, "positions that attention's softmax runs over")
    for m in mask:
        aligned(m, out, at, last=2)
        at.same(m, -1, k, -2)
        if _rank(m) > 1:
            at.same(m, -2, out, -2)
    aligned(q, out, at, last=2)
    grouped = op.kind.gqa and _rank(q) > 2
    for x in (k, v):
        if grouped:
            heads, shared = int(q.type.shape[-3]), int(x.type.shape[-3])
            at.link(q, -3, range(heads), x, -3, [h * shared // heads for h in range(heads)])
        aligned(x, out, at, last=3 if grouped else 2)


def _batch_norm(op: Op, at: Relations) -> None:
    x, *stats = op.operands
    for v in stats:
        at.same(v, 0, x, 1)
    for i in range(_rank(x)):
        at.same(x, i, op.result, i)


def _group_norm(op: Op, at: Relations) -> None:
    assert isinstance(op.kind, norm.GroupNorm)
    _batch_norm(op, at)
    _groupwise(op, op.kind.groups, at)
    for i in range(2, _rank(op.result)):
        at.pin(op.result, i, "axis that group_norm runs over")


def _embedding(op: Op, at: Relations) -> None:
    (w, i), out = op.operands, op.result
    at.pin(w, 0, "rows of an embedding, which inputs name")
    at.same(w, 1, out, -1)
    for a in range(_rank(i)):
        at.same(i, a, out, a)


def _index_select(op: Op, at: Relations) -> None:
    assert isinstance(op.kind, data.IndexSelect)
    (x, i), out, axis = op.operands, op.result, op.kind.axis
    at.pin(x, axis, "indices of index_select name its entries")
    for a in range(_rank(x)):
        if a != axis:
            at.same(x, a, out, a if a < axis else a + _rank(i) - 1)
    for a in range(_rank(i)):
        at.same(i, a, out, axis + a)


def _transpose(op: Op, at: Relations) -> None:
    assert isinstance(op.kind, shape.Transpose)
    for i, p in enumerate(op.kind.perm):
        at.same(op.operands[0], p, op.result, i)


def _moved(op: Op, at: Relations, axis: int, to: Mapping[int, int], why: str) -> None:
    """One axis is moved index by index, the others are what they were; new indices stay."""
    x, out = op.operands[0], op.result
    for i in range(_rank(x)):
        if i != axis:
            at.same(x, i, out, i)
    at.link(x, axis, list(to), out, axis, list(to.values()))
    fresh = set(range(int(out.type.shape[axis]))) - set(to.values())
    at.pin(out, axis, why, sorted(fresh))


def _slice(op: Op, at: Relations) -> None:
    kind, x = op.kind, op.operands[0]
    assert isinstance(kind, shape.Slice)
    size = x.type.shape[kind.axis]
    known = isinstance(size, int) and isinstance(kind.start, int) and isinstance(kind.stop, int)
    if not known or (kind.step != 1 and size != op.result.type.shape[kind.axis]):
        at.pin(x, kind.axis, "a slice with steps or of symbolic size")
        at.pin(op.result, kind.axis, "a slice with steps or of symbolic size")
        known = False
    if known:
        to = {int(i): n for n, i in enumerate(range(int(kind.start), int(kind.stop), kind.step))}
        _moved(op, at, kind.axis, to, "")
        return
    for i in range(_rank(x)):
        if i != kind.axis:
            at.same(x, i, op.result, i)


def _flip(op: Op, at: Relations) -> None:
    assert isinstance(op.kind, shape.Flip | shape.Roll)
    for i in range(_rank(op.result)):
        if i in op.kind.axes:
            at.pin(op.operands[0], i, f"axis that {op.kind.NAME} moves")
            at.pin(op.result, i, f"axis that {op.kind.NAME} moves")
        else:
            at.same(op.operands[0], i, op.result, i)


def _concat(op: Op, at: Relations) -> None:
    assert isinstance(op.kind, shape.Concat)
    out, axis, start = op.result, op.kind.axis, 0
    static = all(isinstance(x.type.shape[axis], int) for x in op.operands)
    for x in op.operands:
        for i in range(_rank(x)):
            if i != axis:
                at.same(x, i, out, i)
        if not static:
            at.pin(x, axis, "concat of a symbolic size")
            continue
        n = int(x.type.shape[axis])
        at.link(x, axis, range(n), out, axis, range(start, start + n))
        start += n


def _pad(op: Op, at: Relations) -> None:
    kind, (x,), out = op.kind, op.operands, op.result
    assert isinstance(kind, shape.Pad)
    for i, (low, high) in enumerate(zip(kind.low, kind.high, strict=True)):
        if not low and not high:
            at.same(x, i, out, i)
        elif kind.mode != "constant" or not isinstance(x.type.shape[i], int) or min(low, high) < 0:
            at.pin(x, i, "axis that pad extends")
            at.pin(out, i, "axis that pad extends")
        else:
            n = int(x.type.shape[i])
            at.link(x, i, range(n), out, i, range(low, low + n))
            fresh = [*range(low), *range(low + n, low + n + high)]
            at.pin(out, i, "padding", fresh)


def _reduction(op: Op, at: Relations) -> None:
    kind, x = op.kind, op.operands[0]
    gone = set(kind.attributes.get("axes", ())) or {kind.attributes.get("axis", -1)}
    keepdim, out = kind.attributes["keepdim"], 0
    for i in range(_rank(x)):
        if i in gone:
            if not isinstance(kind, reduce.Sum):  # a sum is the same without zeros
                at.pin(x, i, f"axis that {kind.NAME} reduces")
            out += keepdim
        else:
            at.same(x, i, op.result, out)
            out += 1


def _along(op: Op, at: Relations) -> None:
    axis = op.kind.attributes["axis"]
    for i in range(_rank(op.result)):
        at.same(op.operands[0], i, op.result, i)
    at.pin(op.result, axis, f"axis that {op.kind.NAME} runs over")


def _triangle(op: Op, at: Relations) -> None:
    _keep_leading(op, at, 2, "axis of a triangle")


def _reshape(op: Op, at: Relations) -> None:
    (x,), out = op.operands, op.result
    for ins, outs in segments(x, out):
        if len(ins) == len(outs) == 1:
            at.same(x, ins[0], out, outs[0])
            continue
        sizes = [[v.type.shape[i] for i in axes] for v, axes in ((x, ins), (out, outs))]
        if not ins or not outs or not all(isinstance(n, int) for run in sizes for n in run):
            for v, axes in ((x, ins), (out, outs)):
                for i in axes:
                    at.pin(v, i, "reshape of symbolic sizes")
            continue
        at.choices.append(
            Choice(
                tuple(a for i in ins if (a := at.axis(x, i)) is not None),
                tuple(a for i in outs if (a := at.axis(out, i)) is not None),
                _places([int(n) for n in sizes[0]]), _places([int(n) for n in sizes[1]]),
                f"reshape from {list(x.type.shape)} to {list(out.type.shape)}",
            )
        )  # fmt: skip


def segments(x: Value, out: Value) -> list[tuple[list[int], list[int]]]:
    """Return runs of axes (sizes of 1 left out) of the same number of elements, as short as is.

    Sizes that can not be told apart (symbols) end in one last run.
    """
    a = [i for i, n in enumerate(x.type.shape) if n != 1]
    b = [i for i, n in enumerate(out.type.shape) if n != 1]
    found: list[tuple[list[int], list[int]]] = []
    while a and b and same_dim(x.type.shape[a[0]], out.type.shape[b[0]]):
        found.append(([a.pop(0)], [b.pop(0)]))
    tail: list[tuple[list[int], list[int]]] = []
    while a and b and same_dim(x.type.shape[a[-1]], out.type.shape[b[-1]]):
        tail.append(([a.pop()], [b.pop()]))
    sizes = [x.type.shape[i] for i in a] + [out.type.shape[i] for i in b]
    if not all(isinstance(n, int) for n in sizes):
        return [*found, (a, b), *reversed(tail)]
    while a or b:
        found.append(_run(x, a, out, b))
    return [*found, *reversed(tail)]


def _run(x: Value, a: list[int], out: Value, b: list[int]) -> tuple[list[int], list[int]]:
    """Take the shortest run of equal products off the front of ``a`` and ``b``."""
    ins, outs, before, after = list[int](), list[int](), 1, 1
    while before != after or not ins:
        if (before <= after and a) or not b:
            before *= int(x.type.shape[a[0]])
            ins.append(a.pop(0))
        else:
            after *= int(out.type.shape[b[0]])
            outs.append(b.pop(0))
    return ins, outs


def _places(sizes: Sequence[int]) -> tuple[list[int], ...]:
    """Return by axis the index of every element of a row-major array of ``sizes``."""
    total, found, inner = math.prod(sizes), list[list[int]](), math.prod(sizes)
    for n in sizes:
        inner //= n
        found.append([e // inner % n for e in range(total)])
    return tuple(found)


def _free(op: Op, at: Relations) -> None:
    """Say nothing: a constant or a filled array can be made smaller."""


def _normed(op: Op, at: Relations, through: bool) -> None:
    """Layer and rms norm: their last axes are pinned unless their channels may be pruned."""
    axes = op.kind.attributes["axes"]
    _elementwise(op, at)
    for i in range(1, axes + 1):
        if not through or axes > 1:
            at.pin(op.result, -i, f"channels that {op.kind.NAME} runs over (see through_norms)")


RULES: Mapping[type[Kind], Rule] = {
    contract.Linear: _linear,
    contract.Matmul: _matmul,
    contract.Conv: _conv,
    contract.ConvTranspose: _conv,
    contract.Attention: _attention,
    norm.BatchNorm: _batch_norm,
    norm.GroupNorm: _group_norm,
    norm.Softmax: _along,
    norm.LogSoftmax: _along,
    data.Constant: _free,
    data.Full: _free,
    data.Embedding: _embedding,
    data.IndexSelect: _index_select,
    data.Triangle: _triangle,
    data.Interpolate: _spatial,
    shape.Reshape: _reshape,
    shape.Transpose: _transpose,
    shape.Expand: _elementwise,
    shape.Slice: _slice,
    shape.Flip: _flip,
    shape.Roll: _flip,
    shape.Concat: _concat,
    shape.Pad: _pad,
    shape.Relayout: _elementwise,
    reduce.CumSum: _along,
    **dict.fromkeys((reduce.MaxPool, reduce.AvgPool), _pool),
    **dict.fromkeys((reduce.AdaptiveAvgPool, reduce.AdaptiveMaxPool), _pool),
    **dict.fromkeys((reduce.Sum, reduce.Mean, reduce.Prod, reduce.Amax, reduce.Amin), _reduction),
    **dict.fromkeys((reduce.All, reduce.Any, reduce.Var), _reduction),
    **dict.fromkeys((reduce.ArgMax, reduce.ArgMin), _reduction),
    pointwise.Where: _elementwise,
}


@dataclass(frozen=True)
class Rules:
    """The table with its one option: whether channels that a norm runs over may go."""

    through_norms: bool = False

    def relate(self, op: Op, at: Relations) -> None:
        """Say what ``op`` does to the axes of its operands and results."""
        kind = op.kind
        if isinstance(kind, norm.LayerNorm | norm.RmsNorm):
            _normed(op, at, self.through_norms)
        elif type(kind) in RULES:
            RULES[type(kind)](op, at)
        elif Trait.ELEMENTWISE in kind.traits and len(op.results) == 1:
            _elementwise(op, at)
        else:
            at.pin_all((*op.operands, *op.results), f"{kind.NAME} has no rule for pruning")


__all__ = ["RULES", "Rules", "segments"]
