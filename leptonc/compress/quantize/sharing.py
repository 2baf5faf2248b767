"""compress > quantize > sharing: what several readers make of one weight is made once.

Each reader is quantized by an edit of its own, which brings the codes of the weight; they and their
scales are the same for all readers, so that the model holds them once.
"""

from __future__ import annotations

from collections.abc import Hashable

from leptonc.ir.core import Function, Op, Trait, Value
from leptonc.ir.kinds.data import Constant, Full


def merged(fn: Function, weight: str) -> Function:
    """Return ``fn`` with one op for all that make the same of the constants of this name.

    ``weight`` is the name of a weight; the constants are those of its codes and of their scales.
    Other constants stay apart even where they are equal: they may be trained.
    """
    own = (weight, f"{weight}_scale")
    first: dict[Hashable, Op] = {}
    new: dict[Value, Value] = {}
    inner: set[Value] = set()
    kept: list[Op] = []
    for op in fn.ops:
        operands = tuple(new.get(v, v) for v in op.operands)
        op = op if operands == op.operands else Op(op.kind, operands, op.results, op.origin)
        if not _is_own(op, own, inner):
            kept.append(op)
            continue
        inner.update(op.results)
        same = first.setdefault((op.kind, operands), op)
        if same is op:
            kept.append(op)
        else:
            new.update(zip(op.results, same.results, strict=True))
    if not new:
        return fn
    returns = tuple(new.get(v, v) for v in fn.returns)
    return Function(fn.name, fn.params, tuple(kept), returns, fn.dims)


def _is_own(op: Op, names: tuple[str, ...], inner: set[Value]) -> bool:
    if isinstance(op.kind, Constant):
        return op.result.hint in names
    made = isinstance(op.kind, Full) or (bool(op.operands) and inner.issuperset(op.operands))
    return made and Trait.PURE in op.kind.traits
