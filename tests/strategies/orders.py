"""Other orders of a function's ops that compute the same."""

from __future__ import annotations

from hypothesis import strategies as st

from leptonc.ir.core import Function, Op


@st.composite
def reordered(draw: st.DrawFn, fn: Function) -> Function:
    """Draw any topological order of the ops of ``fn``."""
    left, ready, ops = list(fn.ops), set(fn.params), list[Op]()
    while left:
        free = [op for op in left if ready.issuperset(op.operands)]
        op = draw(st.sampled_from(free))
        left.remove(op)
        ops.append(op)
        ready.update(op.results)
    return Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims)
