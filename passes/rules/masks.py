"""Laws of conditions and masks: dead branches, dead masks, constant truths."""

from __future__ import annotations

import math

from leptonc.ir.core import Builder, Value
from leptonc.ir.kinds.binary import BitwiseAnd, BitwiseOr, LogicalAnd, LogicalOr
from leptonc.ir.kinds.contract import Attention
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.pointwise import Where
from leptonc.ir.kinds.unary import BitwiseNot, LogicalNot
from leptonc.ir.types import DType
from leptonc.passes.rules.build import filled, is_bool, keep
from leptonc.rewrite.pattern import Either, Lit, Node, Var
from leptonc.rewrite.rule import Exactness, Match, Rule

BITWISE = Exactness.BITWISE
X, Y, C = Var("x"), Var("y"), Var("c")
_P = Var("x", is_bool)
_AND = (LogicalAnd, BitwiseAnd)
_OR = (LogicalOr, BitwiseOr)
_NOT = Node((LogicalNot, BitwiseNot), (Var("c", is_bool),))


def _swap(m: Match, b: Builder) -> Value:
    return b(Where(), m["c"], m["y"], m["x"])


def _nested(m: Match, b: Builder) -> Value:
    return b(Where(), m["c"], m["x"], m["z"])


def _nested_else(m: Match, b: Builder) -> Value:
    return b(Where(), m["c"], m["x"], m["z"])


def _unmasked(m: Match, b: Builder) -> Value | None:
    """Drop a mask that lets everything through: all true, or all zero."""
    mask = m.kind("mask", Full)
    if not isinstance(mask.value, (bool, int, float)):
        return None
    through = bool(mask.value) if mask.dtype is DType.BOOL else mask.value == 0
    if not through or math.isnan(mask.value):
        return None
    return b(m.kind("f", Attention), m["q"], m["k"], m["v"])


_CXY = {"c": ("bool[2,3]", "bool[3]"), "x": ("f32[2,3]",) * 2, "y": ("f32[2,3]",) * 2,
        "z": ("f32[2,3]",) * 2}  # fmt: skip
_QKV = {"q": ("f32[2,4,8]",) * 2, "k": ("f32[2,5,8]",) * 2, "v": ("f32[2,5,6]",) * 2,
        "f": (Attention(0.5),) * 2,
        "mask": (Full((4, 5), True, DType.BOOL), Full((1, 5), 0.0, DType.F32))}  # fmt: skip

RULES: tuple[Rule, ...] = (
    Rule("where-true", "where(true, x, y) = x", BITWISE, Node(Where, (Lit(1), X, Y)), keep("x"),
         examples=("""
func @f(%x: f32[2,3], %y: f32[3]) {
  %c = full{shape=(), value=True, dtype=bool}() : bool[]
  %r = where(%c, %x, %y) : f32[2,3]
  return %r
}""",)),
    Rule("where-false", "where(false, x, y) = y", BITWISE, Node(Where, (Lit(0), X, Y)), keep("y"),
         examples=("""
func @f(%x: f32[3], %y: f32[2,3]) {
  %c = full{shape=(2,3), value=False, dtype=bool}() : bool[2,3]
  %r = where(%c, %x, %y) : f32[2,3]
  return %r
}""",)),
    Rule("where-same", "where(c, x, x) = x", BITWISE,
         Node(Where, (C, X, X)), keep("x"), hints=_CXY),
    Rule("where-not", "where(not c, x, y) = where(c, y, x)", BITWISE,
         Node(Where, (_NOT, X, Y)), _swap, hints=_CXY),
    Rule("where-where-then", "where(c, where(c, x, y), z) = where(c, x, z)", BITWISE,
         Node(Where, (C, Node(Where, (C, X, Y)), Var("z"))), _nested, hints=_CXY),
    Rule("where-where-else", "where(c, x, where(c, y, z)) = where(c, x, z)", BITWISE,
         Node(Where, (C, X, Node(Where, (C, Y, Var("z"))))), _nested_else, hints=_CXY),
    Rule("and-true", "x and true = x on bools", BITWISE, Node(_AND, (_P, Lit(1))), keep("x")),
    Rule("and-false", "x and false = false on bools", BITWISE, Node(_AND, (_P, Lit(0))),
         filled(False)),
    Rule("or-false", "x or false = x on bools", BITWISE, Node(_OR, (_P, Lit(0))), keep("x")),
    Rule("or-true", "x or true = true on bools", BITWISE, Node(_OR, (_P, Lit(1))), filled(True)),
    Rule("attention-dead-mask", "attention(q, k, v, all true or all 0.0) = attention(q, k, v)",
         Exactness.REASSOC,  # the scores are the same bits; the reference may sum in another order
         Node(Attention, (Var("q"), Var("k"), Var("v"),
                          Either((Node(Full, (), "mask"),))), "f"), _unmasked, hints=_QKV),
)  # fmt: skip
