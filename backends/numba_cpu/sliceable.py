"""numba_cpu > sliceable: the unit that computes one part of a unit's leading axis.

A result's slice along axis 0 depends, for most kinds, on the same slice of some operands and on the
whole of others. ``RULES`` says so kind by kind: for each operand whether it is read in slices, and
the kind of the part; a kind that is not in it is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from leptonc.ir.core import Function, Kind, Op, Trait, Value
from leptonc.ir.kinds.contract import Attention, Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant, Embedding, Full, Interpolate, Iota
from leptonc.ir.kinds.norm import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    LogSoftmax,
    RmsNorm,
    Softmax,
)
from leptonc.ir.kinds.reduce import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    ArgReduction,
    AvgPool,
    CumSum,
    MaxPool,
    Reduction,
)
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.shape import (
    Concat,
    Expand,
    Flip,
    Pad,
    Relayout,
    Reshape,
    Roll,
    Slice,
    Transpose,
)
from leptonc.ir.types import TensorType


@dataclass(frozen=True)
class Part:
    """``op`` computes one part of ``whole``; ``sliced`` tells which operands it reads in slices."""

    whole: Op
    op: Op
    sliced: tuple[bool, ...]


@dataclass(frozen=True)
class _Need:
    """Which operands are read in slices, and the kind that computes a part."""

    sliced: tuple[bool, ...]
    kind: Kind


Rule = Callable[[Op, int], "_Need | None"]


def _size(t: TensorType) -> int:
    """Return the leading size, 0 of a scalar."""
    return int(t.shape[0]) if t.rank else 0


def _aligned(op: Op) -> tuple[bool, ...]:
    """Return which operands have the result's leading axis (the others are broadcast along it)."""
    out = op.results[0].type
    return tuple(v.type.rank == out.rank and _size(v.type) == _size(out) for v in op.operands)


def _broadcasting(op: Op, parts: int) -> _Need | None:
    return _Need(_aligned(op), op.kind)


def _first_only(op: Op, parts: int) -> _Need | None:
    return _Need((True, *(False for _ in op.operands[1:])), op.kind)


def _rows_of(op: Op, parts: int) -> _Need | None:
    """Layer norms and linear layers: every axis but the last ones is a row axis."""
    axes = getattr(op.kind, "axes", 1)
    return _first_only(op, parts) if op.operands[0].type.rank > axes else None


def _matmul(op: Op, parts: int) -> _Need | None:
    need = _aligned(op)
    if op.result.type.rank == 2:  # rows of the left operand; the right one is whole
        return _Need((True, False), op.kind)
    return _Need(need, op.kind) if need[0] else None


def _attention(op: Op, parts: int) -> _Need | None:
    """Leave the last two axes, positions, alone; with ``gqa`` the heads before them too."""
    assert isinstance(op.kind, Attention)
    return _broadcasting(op, parts) if op.result.type.rank > 2 + op.kind.gqa else None


def _all(op: Op, parts: int) -> _Need | None:
    return _Need(tuple(True for _ in op.operands), op.kind)


def _off_axis(*names: str) -> Rule:
    """Return the rule of a kind that works along the axes in these attributes: not along axis 0."""

    def rule(op: Op, parts: int) -> _Need | None:
        for name in names:
            axes = getattr(op.kind, name)
            if 0 in (axes if isinstance(axes, tuple) else (axes,)):
                return None
        return _all(op, parts)

    return rule


def _pad(op: Op, parts: int) -> _Need | None:
    assert isinstance(op.kind, Pad)
    return _all(op, parts) if op.kind.low[:1] == op.kind.high[:1] == (0,) else None


def _transpose(op: Op, parts: int) -> _Need | None:
    assert isinstance(op.kind, Transpose)
    return _all(op, parts) if op.kind.perm[:1] == (0,) else None


def _reshape(op: Op, parts: int) -> _Need | None:
    """Equal slices of both shapes hold the same elements, in row-major order."""
    assert isinstance(op.kind, Reshape)
    x, shape = op.operands[0].type, op.kind.shape
    if not x.rank or not shape or _size(x) % parts or int(shape[0]) % parts:
        return None
    return _Need((True,), Reshape((int(shape[0]) // parts, *shape[1:])))


def _expand(op: Op, parts: int) -> _Need | None:
    assert isinstance(op.kind, Expand)
    shape = op.kind.shape
    return _Need(_aligned(op), Expand((int(shape[0]) // parts, *shape[1:]))) if shape else None


def _lookup(op: Op, parts: int) -> _Need | None:
    return _Need((False, True), op.kind)


RULES: Mapping[type[Kind], Rule] = {
    **dict.fromkeys((Conv, ConvTranspose, BatchNorm, GroupNorm, Interpolate), _first_only),
    **dict.fromkeys((MaxPool, AvgPool, AdaptiveAvgPool, AdaptiveMaxPool, Relayout), _all),
    **dict.fromkeys((Linear, LayerNorm, RmsNorm), _rows_of),
    **dict.fromkeys((Softmax, LogSoftmax, CumSum, Concat, Slice), _off_axis("axis")),
    **dict.fromkeys((Flip, Roll), _off_axis("axes")),
    Pad: _pad,
    Transpose: _transpose,
    Reshape: _reshape,
    Expand: _expand,
    Matmul: _matmul,
    Attention: _attention,
    Embedding: _lookup,
}


def rule_of(op: Op) -> Rule | None:
    """Return the rule of an op, None if it is never cut."""
    found = RULES.get(type(op.kind))
    if found is not None:
        return found
    if isinstance(op.kind, Reduction):
        return _off_axis("axes")
    if isinstance(op.kind, ArgReduction):
        return _off_axis("axis")
    return _broadcasting if Trait.ELEMENTWISE in op.kind.traits else None


def part_of(op: Op, parts: int) -> Part | None:
    """Return the unit that computes one of ``parts`` equal parts of ``op``; None if there is none.

    Every result must be cut, every size be known and divisible.
    """
    if not isinstance(op.kind, Unit):
        return None
    body = op.kind.body
    cut = _Cut(parts)
    for o in body.ops:
        if not cut.add(o):
            return None
    if not all(v in cut.part for v in body.returns):
        return None
    params = tuple(cut.part.get(p, p) for p in body.params)
    returns = tuple(cut.part[v] for v in body.returns)
    made = Function(body.name, params, tuple(cut.ops), returns, body.dims)
    sliced = tuple(p in cut.part for p in body.params)
    operands = tuple(
        _smaller(v, parts) if s else v for v, s in zip(op.operands, sliced, strict=True)
    )
    results = tuple(_smaller(v, parts) for v in op.results)
    return Part(op, Op(replace(op.kind, body=made), operands, results, op.origin), sliced)


def _smaller(value: Value, parts: int) -> Value:
    t = value.type
    return Value(replace(t, shape=(_size(t) // parts, *t.shape[1:])), value.hint)


class _Cut:
    """A body cut so far: the part of each value that is cut, the values that are read whole."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.part: dict[Value, Value] = {}
        self.whole: set[Value] = set()
        self.free: dict[Value, Op] = {}  # fills, cut or whole as their readers ask
        self.ops: list[Op] = []

    def add(self, op: Op) -> bool:
        """Append the part of ``op``; False if it has none."""
        if isinstance(op.kind, Full):
            self.free[op.result] = op
            return True
        if isinstance(op.kind, (Constant, Iota)):
            return self._as_it_is(op)
        rule = rule_of(op)
        need = rule(op, self.parts) if rule is not None else None
        if need is None:
            return not any(v in self.part for v in op.operands) and self._known(op)
        if not any(need.sliced):
            return self._as_it_is(op)
        if any(not r.type.rank or _size(r.type) % self.parts for r in op.results):
            return False
        # An op on whole values only stays whole: its result does not depend on the batch.
        inner = [v for v in op.operands if v in self.whole]
        if len(inner) == len(op.operands):
            return self._as_it_is(op)
        operands: list[Value] = []
        for v, sliced in zip(op.operands, need.sliced, strict=True):
            if not (self._take(v) if sliced else self._leave(v)):
                return False
            operands.append(self.part[v] if sliced else v)
        results = tuple(_smaller(r, self.parts) for r in op.results)
        self.part.update(zip(op.results, results, strict=True))
        self.ops.append(Op(need.kind, tuple(operands), results, op.origin))
        return True

    def _known(self, op: Op) -> bool:
        """Keep an op without a rule if it reads whole values made here."""
        return all(v in self.whole for v in op.operands) and self._as_it_is(op)

    def _as_it_is(self, op: Op) -> bool:
        if not all(self._leave(v) for v in op.operands):
            return False
        self.ops.append(op)
        self.whole.update(op.results)
        return True

    def _take(self, v: Value) -> bool:
        """Let ``v`` be read in slices."""
        if v in self.part:
            return True
        if v in self.whole or not v.type.rank or _size(v.type) % self.parts:
            return False
        self.part[v] = _smaller(v, self.parts)
        fill = self.free.pop(v, None)
        if fill is not None:
            assert isinstance(fill.kind, Full)
            shape = self.part[v].type.shape
            kind = replace(fill.kind, shape=shape)
            self.ops.append(Op(kind, (), (self.part[v],), fill.origin))
        return True

    def _leave(self, v: Value) -> bool:
        """Let ``v`` be read whole."""
        if v in self.part:
            return False
        fill = self.free.pop(v, None)
        if fill is not None:
            self.ops.append(fill)
        self.whole.add(v)
        return True
