"""compress > prune > reshape: which axes of a reshape stay what they are, are split or merged.

Where channels are split (heads of attention, a channel shuffle) or merged (flatten), one of the
axes can be pruned; which one is a :class:`Choice`, settled when all relations are known.
"""

from __future__ import annotations

from leptonc.compress.prune.relations import Choice, Relations
from leptonc.ir.core import Op, Value
from leptonc.ir.dims import same_dim


def relate_reshape(op: Op, at: Relations) -> None:
    """Say which axes are the same, and leave a choice for each run that is split or merged."""
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
        numbers = [[at.axis(v, i) for i in axes] for v, axes in ((x, ins), (out, outs))]
        before, after = (tuple(int(n) for n in run) for run in sizes)
        a, b = (tuple(n for n in run if n is not None) for run in numbers)  # none is of size 1
        at.choices.append(Choice(a, b, before, after))


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


__all__ = ["relate_reshape", "segments"]
