"""Matching one pattern at one op, with backtracking over operand orders and alternatives."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from leptonc.ir.core import Op, Trait, Value
from leptonc.ir.kinds.data import Full
from leptonc.rewrite.pattern import Either, Lit, Many, Node, Opt, Pattern, Var
from leptonc.rewrite.rule import Match

_Then: TypeAlias = "Callable[[], bool]"


def match(pattern: Node, op: Op, producer: Mapping[Value, Op]) -> Match | None:
    """Return what ``pattern`` captures when rooted at ``op`` (of one result), or None."""
    m = _Matcher(producer)
    if not m.node(pattern, op, _done):
        return None
    return Match(op, m.values, m.ops, m.lists, tuple(m.matched), tuple(m.guarded))


def _done() -> bool:
    return True


class _Matcher:
    """One attempt: ``then`` is what must still match after the pattern at hand (continuation)."""

    __slots__ = ("guarded", "lists", "matched", "ops", "producer", "values")

    def __init__(self, producer: Mapping[Value, Op]) -> None:
        self.producer = producer
        self.values: dict[str, Value] = {}
        self.ops: dict[str, Op] = {}
        self.lists: dict[str, tuple[Value, ...]] = {}
        self.matched: list[Op] = []
        self.guarded: list[Op] = []

    def value(self, p: Pattern, v: Value, then: _Then) -> bool:
        """Match ``p`` at value ``v``, then the rest."""
        if isinstance(p, Var):
            if p.where is not None and not p.where(v.type):
                return False
            return self.bind(p.name, v, None, then)
        if isinstance(p, Node):
            op = self.producer.get(v)
            return op is not None and len(op.results) == 1 and self.node(p, op, then)
        if isinstance(p, Lit):
            op = self.producer.get(v)
            if op is None or not isinstance(op.kind, Full) or not _is_lit(p, op.kind):
                return False
            return self.bind(p.name, v, op, then)
        if isinstance(p, Either):
            return any(self.value(q, v, then) for q in p.options)
        raise TypeError(f"{type(p).__name__} stands where one operand is meant")

    def node(self, p: Node, op: Op, then: _Then) -> bool:
        """Match ``p`` at ``op``, then the rest."""
        if type(op.kind) not in p.kinds:
            return False
        if p.where is not None and not p.where(op.kind):
            return False
        self.matched.append(op)
        if p.once:
            self.guarded.append(op)
        (result,) = op.results
        if self.bind(p.name, result, op, lambda: self.orders(p, op, then)):
            return True
        self.matched.pop()
        if p.once:
            self.guarded.pop()
        return False

    def orders(self, p: Node, op: Op, then: _Then) -> bool:
        """Match the operands in order and, where the kind commutes, in the other order."""
        if self.operands(p.args, op.operands, then):
            return True
        if len(op.operands) != 2 or Trait.COMMUTATIVE not in op.kind.traits:
            return False
        return self.operands(p.args, op.operands[::-1], then)

    def operands(self, ps: Sequence[Pattern], vs: Sequence[Value], then: _Then) -> bool:
        """Match a row of patterns against a row of operands, then the rest."""
        if not ps:
            return not vs and then()
        p = ps[0]
        if isinstance(p, Many):
            return bool(vs) and self.bind_list(p.name, tuple(vs), then)
        if isinstance(p, Opt):
            if not vs:
                return self.operands(ps[1:], vs, then)
            p = p.pattern
        if not vs:
            return False
        return self.value(p, vs[0], lambda: self.operands(ps[1:], vs[1:], then))

    def bind(self, name: str, v: Value, op: Op | None, then: _Then) -> bool:
        """Bind ``name`` while the rest is tried; undo it when the rest fails."""
        if not name:
            return then()
        if (known := self.values.get(name)) is not None:
            return known is v and then()
        self.values[name] = v
        if op is not None:
            self.ops[name] = op
        if then():
            return True
        del self.values[name]
        self.ops.pop(name, None)
        return False

    def bind_list(self, name: str, vs: tuple[Value, ...], then: _Then) -> bool:
        """Bind the operands that a ``Many`` takes."""
        self.lists[name] = vs
        if then():
            return True
        del self.lists[name]
        return False


def _is_lit(p: Lit, kind: Full) -> bool:
    value = kind.value
    if not isinstance(value, (bool, int, float)):
        return False  # a symbolic size
    if p.value is None:
        return True
    if p.rtol:
        return math.isclose(value, p.value, rel_tol=p.rtol)
    return _same_number(float(value), float(p.value))


def _same_number(a: float, b: float) -> bool:
    return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
