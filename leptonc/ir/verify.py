"""Structural checks, run after every pass: SSA order, arity, types, layouts, declared sizes."""

from __future__ import annotations

from leptonc.errors import InferError, VerifyError
from leptonc.ir.core import NOWHERE, Function, Op, Value
from leptonc.ir.dims import free_symbols
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import TensorType, same_type


def verify(fn: Function) -> None:
    """Raise VerifyError at the first op that breaks an invariant of ``fn``."""
    seen: set[Value] = set(fn.params)
    if len(seen) != len(fn.params):
        raise VerifyError(f"{fn.name}: a parameter occurs twice")
    declared = frozenset(d.name for d in fn.dims)
    if len(declared) != len(fn.dims):
        raise VerifyError(f"{fn.name}: a size is declared twice")
    for i, p in enumerate(fn.params):
        if problem := _value_problem(p.type, declared):
            raise VerifyError(f"{fn.name}: parameter {i} ({p.hint or 'unnamed'}): {problem}")
    for i, op in enumerate(fn.ops):
        if problem := _op_problem(op, seen, declared):
            at = f" at {op.origin}" if op.origin != NOWHERE else ""
            raise VerifyError(f"{fn.name}: op {i} ({op.kind.NAME}{at}): {problem}")
        if isinstance(op.kind, Unit):
            verify(op.kind.body)
        seen.update(op.results)
    if not seen.issuperset(fn.returns):
        raise VerifyError(f"{fn.name}: returns a value it never makes")


def _op_problem(op: Op, seen: set[Value], declared: frozenset[str]) -> str:
    """Return what is wrong with ``op`` after the values ``seen``; "" when nothing is."""
    if not seen.issuperset(op.operands):
        at = next(i for i, v in enumerate(op.operands) if v not in seen)
        return f"operand {at} ({op.operands[at].hint or 'unnamed'}) is read before it is made"
    if not seen.isdisjoint(op.results) or len(set(op.results)) != len(op.results):
        return "a result is made twice"
    try:
        inferred = op.kind.infer(tuple([v.type for v in op.operands]))
    except InferError as e:
        return str(e)
    if len(inferred) != len(op.results):
        return f"makes {len(op.results)} results, {len(inferred)} inferred"
    for want, r in zip(inferred, op.results, strict=True):
        if not same_type(want, r.type):
            return f"result is {r.type}, inferred {want}"
        if problem := _value_problem(r.type, declared):
            return problem
    return ""


def _value_problem(t: TensorType, declared: frozenset[str]) -> str:
    """Return what is wrong with a value's type on its own; "" when nothing is."""
    if t.layout is not None and sorted(t.layout) != list(range(t.rank)):
        return f"layout {t.layout} is no axis order of {t}"
    for d in t.shape:
        if isinstance(d, int):
            if d < 0:
                return f"negative size in {t}"
        elif missing := free_symbols((d,)) - declared:
            return f"{t} uses undeclared size {', '.join(sorted(missing))}"
    return ""
