"""Rewriting: patterns, rules as data, the sweep driver, the trace of what fired and what not."""

from __future__ import annotations

from leptonc.rewrite.driver import NoFixedPoint, drop_dead, rewrite
from leptonc.rewrite.pattern import Either, Lit, Many, Node, Opt, Pattern, Var, maybe
from leptonc.rewrite.rule import Exactness, Level, Match, Rule, Skip
from leptonc.rewrite.trace import Remark, RemarkKind, Trace

__all__ = [
    "Either", "Exactness", "Level", "Lit", "Many", "Match", "NoFixedPoint", "Node", "Opt",
    "Pattern", "Remark", "RemarkKind", "Rule", "Skip", "Trace", "Var", "drop_dead", "maybe",
    "rewrite",
]  # fmt: skip
