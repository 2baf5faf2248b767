"""Building compute units: bodies, their constants, their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from leptonc.ir.core import Function, Kind, Op, Trait, Value
from leptonc.ir.dims import DimRange
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.norm import LayerNorm, RmsNorm
from leptonc.ir.kinds.quantize import IntConv, IntLinear
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.kinds.shape import Expand, Relayout, Reshape, Slice, Transpose

CONTRACTIONS = (Linear, Conv, ConvTranspose, Matmul)
INTEGER = (IntConv, IntLinear)
ROOTS = (*CONTRACTIONS, *INTEGER)
SOURCES = (Constant, Full)  # copied into every body that reads them
VIEWS = (Reshape, Transpose, Expand, Slice)

_PATTERNS: Mapping[type[Kind], str] = {
    **dict.fromkeys(CONTRACTIONS, "contract"),
    **dict.fromkeys(INTEGER, "int8"),
    LayerNorm: "norm",
    RmsNorm: "norm",
    TorchOp: "torch",
    Relayout: "relayout",
}
_NAMED = 4  # kinds that a name lists before it is cut


def pattern_of(op: Op) -> str:
    """Return the pattern of a unit whose one working op is ``op``."""
    if isinstance(op.kind, Unit):
        return op.kind.pattern
    if Trait.ELEMENTWISE in op.kind.traits:
        return "chain"
    return _PATTERNS.get(type(op.kind), op.kind.NAME)


def unit_name(ops: Sequence[Op]) -> str:
    """Return ``module+kind+kind`` from the origin of the first working op and the kinds after it.

    ``layer1.0.conv1+relu``; an op that no module of the model stands for begins with its kind.
    """
    work = [op for op in ops if not isinstance(op.kind, (*SOURCES, *VIEWS))] or list(ops)
    root = next((op for op in work if isinstance(op.kind, ROOTS)), work[0])
    rest = [op.kind.NAME for op in work if op is not root]
    if Trait.ELEMENTWISE in root.kind.traits or not root.origin.module:
        first = ".".join(p for p in (root.origin.module, root.kind.NAME) if p)
    else:
        first = root.origin.module
    more = [f"{len(rest) - _NAMED}more"] if len(rest) > _NAMED else []
    return "+".join([first, *rest[:_NAMED], *more])


def outputs_of(ops: Sequence[Op], fn: Function, returned: Collection[Value]) -> tuple[Value, ...]:
    """Return the results of ``ops`` that others or the caller read, in order.

    Of dead ops, the results of the last: a unit without results would lose its meaning.
    """
    inside = {id(op) for op in ops}
    found = tuple(
        r
        for op in ops
        for r in op.results
        if r in returned or any(id(u) not in inside for u in fn.users[r])
    )
    return found or ops[-1].results


class _Body:
    """Grows one unit's body out of ops of the outer function."""

    def __init__(self, producer: Mapping[Value, Op]) -> None:
        self.producer = producer
        self.operands: list[Value] = []
        self.params: list[Value] = []
        self.ops: list[Op] = []
        self.inner: dict[Value, Value] = {}

    def read(self, v: Value) -> Value:
        """Return ``v`` as the body knows it: made inside, a copied constant, or a parameter."""
        if v not in self.inner:
            source = self.producer.get(v)
            self.inner[v] = Value(v.type, v.hint)
            if source is not None and isinstance(source.kind, SOURCES):
                self.ops.append(Op(source.kind, (), (self.inner[v],), source.origin))
            else:
                self.operands.append(v)
                self.params.append(self.inner[v])
        return self.inner[v]

    def add(self, op: Op) -> None:
        """Append ``op``; of a unit, its body's ops."""
        if isinstance(op.kind, Unit):
            self._inline(op, op.kind.body)
            return
        operands = tuple(map(self.read, op.operands))
        results = tuple(Value(r.type, r.hint) for r in op.results)
        self.ops.append(Op(op.kind, operands, results, op.origin))
        self.inner.update(zip(op.results, results, strict=True))

    def _inline(self, op: Op, body: Function) -> None:
        inner = dict(zip(body.params, map(self.read, op.operands), strict=True))
        for o in body.ops:
            results = tuple(Value(r.type, r.hint) for r in o.results)
            self.ops.append(Op(o.kind, tuple(inner[v] for v in o.operands), results, o.origin))
            inner.update(zip(o.results, results, strict=True))
        outs = (inner[v] for v in body.returns)
        self.inner.update(zip(op.results, outs, strict=True))


def make_unit(
    ops: Sequence[Op],
    outputs: Sequence[Value],
    producer: Mapping[Value, Op],
    dims: tuple[DimRange, ...],
    pattern: str,
    name: str = "",
) -> Op:
    """Return one unit op that does ``ops`` (in topological order) and makes ``outputs``.

    The unit's operands are the values that ``ops`` read and do not make; constants among them are
    copied into the body instead. The results are ``outputs`` themselves.
    """
    body = _Body(producer)
    for op in ops:
        body.add(op)
    returns = tuple(body.inner[v] for v in outputs)
    name = name or unit_name(ops)
    inside = re.sub(r"[^\w.\-]", "_", name)
    fn = Function(inside, tuple(body.params), tuple(body.ops), returns, dims)
    root = next((op for op in ops if isinstance(op.kind, ROOTS)), ops[-1])
    return Op(Unit(fn, name, pattern), tuple(body.operands), tuple(outputs), root.origin)


def without_dead_sources(fn: Function) -> Function:
    """Return ``fn`` without the constants that nothing reads any more; ``fn`` itself if none is."""
    kept = tuple(
        op
        for op in fn.ops
        if not isinstance(op.kind, SOURCES) or any(fn.use_count[r] for r in op.results)
    )
    if len(kept) == len(fn.ops):
        return fn
    return Function(fn.name, fn.params, kept, fn.returns, fn.dims)
