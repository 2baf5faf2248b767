"""``cse``: one op for all pure ops of one kind and the same operands."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op, Trait, Value
from leptonc.ir.kinds.binary import Maximum, Minimum
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType
from leptonc.meaning import Later, raw_elements
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Trace, named

IMPURE = "it draws random numbers or has an effect"
_SIGNED = (Maximum, Minimum)  # of 0.0 and -0.0 they may keep whichever stands first
_SAMPLES = 16  # elements of a constant that are looked at


@dataclass(frozen=True)
class Cse(Pass):
    """Merge equal pure ops, operands in any order where that keeps every bit.

    Attributes compare by their bits (``Kind.key``): ``0.0`` and ``-0.0`` stay apart. Ops that are
    not pure are never merged: two draws of a random op are two draws.
    """

    NAME: ClassVar[str] = "cse"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with every repetition replaced by the first occurrence."""
        seen: dict[Hashable, Op] = {}
        new: dict[Value, Value] = {}
        kept: list[Op] = []
        constants = 0
        for op in fn.ops:
            if new and not new.keys().isdisjoint(op.operands):
                operands = tuple(new.get(v, v) for v in op.operands)
                op = Op(op.kind, operands, op.results, op.origin)
            if trace.spent:
                kept.append(op)
                continue
            first = seen.setdefault(_key(op), op)
            if first is op or _types(first) != _types(op):
                kept.append(op)
                continue
            if Trait.PURE not in op.kind.traits:
                trace.missed(op, f"computed again, though it repeats {named(first)}: {IMPURE}")
                kept.append(op)
                continue
            new.update(zip(op.results, first.results, strict=True))
            if isinstance(op.kind, Constant):
                constants += 1
            else:
                trace.applied(op, f"computed once, with {named(first)}")
        if not new:
            return fn
        if constants:
            trace.applied(fn.name, f"kept {constants} constants once that are equal to others")
        returns = tuple(new.get(v, v) for v in fn.returns)
        return Function(fn.name, fn.params, tuple(kept), returns, fn.dims)


def _key(op: Op) -> Hashable:
    """Return what equal ops share. Constants are told apart by a sample before they are hashed."""
    if isinstance(op.kind, Constant):
        return op.kind, _sample(op.kind.const)
    ids = [id(v) for v in op.operands]
    if Trait.COMMUTATIVE in op.kind.traits and not isinstance(op.kind, _SIGNED):
        ids.sort()
    return op.kind, tuple(ids)


def _types(op: Op) -> list[object]:
    return [r.type for r in op.results]


def _sample(const: Const) -> bytes:
    """Return some bytes of the content, so that differing constants are seldom hashed whole."""
    if not const.type.is_static or const.type.dtype is DType.OTHER:
        return b""
    if isinstance(const.payload, Later):
        return b""  # what lies in a file is named by its place: no byte need be read
    array = raw_elements(const)
    return array.flat[:: max(1, array.size // _SAMPLES)].tobytes()
