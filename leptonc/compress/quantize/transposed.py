"""compress > quantize > transposed: transposed convolutions as convolutions, one for each phase.

Of a transposed convolution with stride ``s``, every ``s``-th output is a plain convolution with the
taps that reach it. As such it is quantized like any other: the kernels of codes, rounding column by
column, training and the correction of biases serve it, and no product by the zeros that a spread
input would hold is computed. The outputs of the phases are interleaved, as codes where codes
follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leptonc.compress.quantize import units
from leptonc.compress.quantize.edits import constant
from leptonc.compress.quantize.units import Tell
from leptonc.compress.recipe import Edit
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.contract import Conv, ConvTranspose
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.shape import Concat, Reshape, Slice, Transpose
from leptonc.ir.types import DType
from leptonc.meaning import tensor_of
from leptonc.rewrite.driver import drop_dead


@dataclass(frozen=True)
class Axis:
    """One axis of one phase: taps by their places in the kernel (None: a zero), padding."""

    taps: tuple[int | None, ...]
    before: int
    after: int


def plan(fn: Function, tell: Tell) -> list[Edit]:
    """Return edits that put transposed convolutions in phases; ``tell`` gets those that stay."""
    made: list[Edit] = []
    for op in fn.ops:
        if not isinstance(op.kind, ConvTranspose):
            continue
        where, reason = op.origin.module or op.operands[1].hint, _misfit(fn, op)
        if reason:
            tell(op, f"not quantized: {reason}")
        else:
            what = f"{len(list(_phases(op)))} phases, each a convolution"
            made.append(Edit(where, what, partial(_made, name=op.operands[1].hint)))
    return made


def needed(phases: Sequence[Edit], made: Sequence[Edit]) -> list[Edit]:
    """Return those edits of ``phases`` that make a unit which an edit of ``made`` quantizes."""
    coded = [edit.where for edit in made]
    return [
        edit for edit in phases
        if any(w == edit.where or w.startswith(f"{edit.where}_phase") for w in coded)
    ]  # fmt: skip


def _misfit(fn: Function, op: Op) -> str | None:
    (x, w, *_), kind = op.operands, op.kind
    assert isinstance(kind, ConvTranspose)
    maker = fn.producer.get(w)
    if maker is None or not isinstance(maker.kind, Constant):
        return "its weight is no constant"
    if DType.F32 is not w.type.dtype or not w.hint or fn.use_count[w] != 1:
        return "its weight is not float32, or shared, or has no name of its own"
    if any(d != 1 for d in kind.dilation):
        return "it is transposed and dilated"
    sizes = (*x.type.shape[1:], *op.result.type.shape[2:])
    return None if all(isinstance(d, int) for d in sizes) else "it is of dynamic size"


def _axis(size: int, out: int, kernel: int, stride: int, padding: int, phase: int) -> Axis:
    """Return one phase along one axis: outputs ``q * stride + phase``, as many as fit.

    Output ``q`` sums input ``q + (phase + padding - tap) / stride`` over the taps that divide.
    """
    count = -(-out // stride)
    shifts = {
        (phase + padding - tap) // stride: tap
        for tap in range(kernel)
        if (phase + padding - tap) % stride == 0
    }
    low = min([0, *shifts])
    high = max([low, size - count, *shifts])
    taps = tuple(shifts.get(shift) for shift in range(low, high + 1))
    return Axis(taps, -low, count + high - size)


def _phases(op: Op) -> Iterator[tuple[Axis, ...]]:
    """Yield the axes of every phase, the last axis running fastest."""
    kind = op.kind
    assert isinstance(kind, ConvTranspose)
    sizes, outs = op.operands[0].type.shape[2:], op.result.type.shape[2:]
    kernel = op.operands[1].type.shape[2:]
    for phase in itertools.product(*map(range, kind.stride)):
        yield tuple(
            _axis(int(n), int(o), int(k), s, p, r)
            for n, o, k, s, p, r in zip(
                sizes, outs, kernel, kind.stride, kind.padding, phase, strict=True
            )
        )


def _weight(w: Tensor, groups: int, axes: Sequence[Axis]) -> Tensor:
    """Return the weight of a phase, ``f32[n,c/groups,*taps]``, from ``f32[c,n/groups,*kernel]``."""
    c, n = w.shape[:2]
    w = w.reshape(groups, c // groups, n, *w.shape[2:]).transpose(1, 2)
    w = w.reshape(groups * n, c // groups, *w.shape[3:])
    for i, axis in enumerate(axes, start=2):
        zero = torch.zeros_like(w.select(i, 0))
        parts = [zero if tap is None else w.select(i, tap) for tap in axis.taps]
        w = torch.stack(parts, i)
    return w


def _made(fn: Function, name: str) -> Function:
    """Return ``fn`` with the transposed convolution of this weight in phases, else ``fn``."""
    ready = units.prepared(fn)
    found = (
        op for op in ready.ops
        if isinstance(op.kind, ConvTranspose) and op.operands[1].hint == name
        and _misfit(ready, op) is None
    )  # fmt: skip
    op = next(found, None)
    if op is None:
        return fn
    b = Builder(ready.name, origin=op.origin)
    b.producer.update(ready.producer)
    parts = [_phase(b, op, i, axes) for i, axes in enumerate(_phases(op))]
    _interleaved(b, op, parts)
    *new, last = b.ops
    new.append(Op(last.kind, last.operands, op.results, op.origin))
    ops = [o for at in ready.ops for o in (new if at is op else [at])]
    return drop_dead(Function(ready.name, ready.params, tuple(ops), ready.returns, ready.dims))


def _phase(b: Builder, op: Op, index: int, axes: Sequence[Axis]) -> Value:
    """Emit one phase and return it."""
    kind, (x, w, *bias) = op.kind, op.operands
    assert isinstance(kind, ConvTranspose)
    name, ones = f"{w.hint}_phase{index}", (1,) * len(axes)
    source, own = b.producer[w].kind, list(bias)
    assert isinstance(source, Constant)
    held = _weight(tensor_of(source.const), kind.groups, axes)
    for v in bias:
        maker = b.producer.get(v)
        if maker is not None and isinstance(maker.kind, Constant):
            own = [constant(b, tensor_of(maker.kind.const), f"{v.hint}_phase{index}")]
    before, after = tuple(a.before for a in axes), tuple(a.after for a in axes)
    conv = Conv(ones, before, ones, kind.groups, () if after == before else after)
    return b(conv, x, constant(b, held, name), *own)


def _interleaved(b: Builder, op: Op, parts: Sequence[Value]) -> None:
    """Emit what puts the outputs of the phases side by side; the last op makes the result."""
    kind, out = op.kind, op.result.type.shape
    assert isinstance(kind, ConvTranspose)
    batch, n, *counts = parts[0].type.shape
    rank = len(counts)
    made = b(Concat(1), *parts) if len(parts) > 1 else parts[0]
    made = b(Reshape((batch, *kind.stride, n, *counts)), made)
    pairs = ((2 + rank + i, 1 + i) for i in range(rank))
    made = b(Transpose((0, 1 + rank, *itertools.chain(*pairs))), made)
    wide = [int(c) * s for c, s in zip(counts, kind.stride, strict=True)]
    made = b(Reshape((batch, n, *wide)), made)
    for axis, (have, want) in enumerate(zip(wide, out[2:], strict=True), start=2):
        if have != want:
            made = b(Slice(axis, 0, int(want), 1), made)
