"""Rewriting a function op by op, where a later op may absorb an earlier one."""

from __future__ import annotations

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.ir.core import Builder, Function, Kind, Op, Origin, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.shape import Reshape
from leptonc.ir.types import DType
from leptonc.passes.fusing.units import without_dead_sources


class Rebuild:
    """The new ops so far (with holes where one was absorbed) and what each old value became."""

    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.changed = False
        self._ops: list[Op | None] = []
        self._at: dict[Value, int] = {}
        self.now: dict[Value, Value] = {p: p for p in fn.params}

    def keep(self, op: Op) -> None:
        """Append ``op`` on the new operands."""
        operands = tuple(self.now[v] for v in op.operands)
        same = all(a is b for a, b in zip(operands, op.operands, strict=True))
        self.append(op if same else Op(op.kind, operands, op.results, op.origin))
        self.now.update((r, r) for r in op.results)

    def append(self, op: Op) -> None:
        """Append a new op, whose operands are new values."""
        for r in op.results:
            self._at[r] = len(self._ops)
        self._ops.append(op)

    def emit(self, kind: Kind, *operands: Value, result: Value, origin: Origin) -> Value:
        """Append an op that makes ``result`` (an old value or a new one)."""
        self.append(Op(kind, operands, (result,), origin))
        self.now[result] = result
        self.changed = True
        return result

    def constant(self, const: Const, origin: Origin, hint: str = "") -> Value:
        """Append a constant and return its value."""
        return self.emit(Constant(const), result=Value(const.type, hint), origin=origin)

    def maker(self, v: Value) -> Op | None:
        """Return the op that now makes old value ``v``."""
        at = self._at.get(self.now[v])
        return None if at is None else self._ops[at]

    def const_in(self, v: Value) -> Const | None:
        """Return the constant that new value ``v`` is, if it is one."""
        at = self._at.get(v)
        op = None if at is None else self._ops[at]
        return op.kind.const if op is not None and isinstance(op.kind, Constant) else None

    def absorb(self, op: Op) -> None:
        """Take out a new op whose results nothing reads any more."""
        self._ops[self._at[op.results[0]]] = None
        self.changed = True

    def finish(self) -> Function:
        """Return the new function; the old one itself if nothing changed."""
        if not self.changed:
            return self.fn
        ops = tuple(op for op in self._ops if op is not None)
        returns = tuple(self.now[v] for v in self.fn.returns)
        made = Function(self.fn.name, self.fn.params, ops, returns, self.fn.dims)
        return without_dead_sources(made)


class Arithmetic(Builder):
    """Builds an expression over constants that is computed in float64 and rounded once."""

    def load(self, const: Const, *shape: int) -> Value:
        """Return ``const`` in float64, under ``shape`` if one is given."""
        v = self(Constant(const))
        v = v if const.type.dtype is DType.F64 else self(Cast(DType.F64), v)
        return self(Reshape(shape), v) if shape else v

    def rounded(self, dtype: DType, *values: Value) -> tuple[Const, ...]:
        """Return the values of float64 expressions, rounded to ``dtype``."""
        if dtype is not DType.F64:
            values = tuple(self(Cast(dtype), v) for v in values)
        return meaning.fold(self.finish(*values), "f64")


def sizes(const: Const) -> tuple[int, ...]:
    """Return the shape of a constant: always plain ints."""
    return tuple(int(d) for d in const.type.shape)
