"""``fold-constants``: compute at compile time what depends on constants alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Kind, Op, Trait, Value
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds.contract import Attention
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.quantize import Dequantize, FakeQuantize, UnpackInt4
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.shape import Expand, Relayout
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import elements_of, fold, worth_a_look
from leptonc.passes.cse import IMPURE
from leptonc.pipeline import Pass
from leptonc.rewrite.driver import drop_dead
from leptonc.rewrite.trace import Trace

# What makes numbers of codes: codes are kept, they are fewer bytes and have kernels of their own.
_OF_CODES = (Dequantize, FakeQuantize, UnpackInt4)
_COMPLEX = frozenset({DType.C64, DType.C128, DType.OTHER})


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace pure ops of constants by constants, computed by the reference in the op's own types.

    A result may be at most ``max_bytes_growth`` bytes larger than the constants it is made of: an
    ``expand`` is never written out, nor is a large ``full``. A constant of equal elements becomes a
    ``full`` where only elementwise ops (or a mask operand) read it. An op that raises is left, and
    so is what makes numbers of codes.
    """

    max_bytes_growth: int = 4 << 20

    NAME: ClassVar[str] = "fold-constants"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with constant subexpressions computed."""
        folding = _Folding(fn, trace, self.max_bytes_growth)
        ops = [made for op in fn.ops for made in folding.op(op)]
        if not folding.changed:
            return fn
        return drop_dead(Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims))


@dataclass
class _Folding:
    """The walk over one function; ``source`` holds the ops that make each known value."""

    fn: Function
    trace: Trace
    growth: int
    changed: bool = False
    source: dict[Value, tuple[Op, ...]] = field(default_factory=dict[Value, tuple[Op, ...]])

    def op(self, op: Op) -> Iterable[Op]:
        """Return what stands in place of ``op``."""
        if isinstance(op.kind, Full):
            if op.result.type.is_static:
                self.source[op.result] = (op,)
            return (op,)
        if isinstance(op.kind, Constant):
            return self.known(op, (op.kind.const,))
        if isinstance(op.kind, Expand) and op.operands[0] in self.source:
            self.source[op.result] = (*self.source[op.operands[0]], op)
            return (op,)  # never written out, but known to its readers
        if self.trace.spent or not self.foldable(op):
            return (op,)
        try:
            consts = self.evaluate(op)
        except Exception as e:  # whatever the op raises, it shall raise when the program runs
            self.trace.missed(op, f"not computed at compile time: it raises {e}")
            return (op,)
        self.trace.applied(op, "computed at compile time")
        return self.known(op, consts)

    def foldable(self, op: Op) -> bool:
        """Whether ``op`` is pure, known in all operands, and small enough."""
        kind = op.kind
        if isinstance(kind, (Unit, Relayout, *_OF_CODES)) or not all(
            v in self.source for v in op.operands
        ):
            return False
        if Trait.PURE not in kind.traits:
            if op.operands:
                self.trace.missed(op, f"not computed at compile time: {IMPURE}")
            return False
        if not all(r.type.is_static and r.type.dtype is not DType.OTHER for r in op.results):
            return False
        if _is_spread(op):
            return True
        made = sum(_nbytes(r.type) for r in op.results)
        read = sum(_nbytes(s.result.type) for s in self.sources(op) if isinstance(s.kind, Constant))
        if made - read <= self.growth:
            return True
        self.trace.missed(
            op, f"not computed at compile time: its result would take {_size(made)}, what it is "
            f"made of takes {_size(read)}"
        )  # fmt: skip
        return False

    def sources(self, op: Op) -> tuple[Op, ...]:
        """Return the ops that make the operands of ``op``, each once, in order."""
        return tuple(dict.fromkeys(s for v in op.operands for s in self.source[v]))

    def evaluate(self, op: Op) -> tuple[Const, ...]:
        """Return the results of ``op``."""
        ops = (*self.sources(op), op)
        return fold(Function("fold", (), ops, op.results))

    def known(self, op: Op, consts: tuple[Const, ...]) -> Iterable[Op]:
        """Return the constants (or fulls) that make the results of ``op``, noting them as known."""
        made: list[Op] = []
        for value, const in zip(op.results, consts, strict=True):
            kind = self.as_full(value, const) or Constant(const)
            same = kind == op.kind and isinstance(op.kind, Constant)
            new = op if same else Op(kind, (), (value,), op.origin)
            self.changed |= not same
            self.source[value] = (new,)
            made.append(new)
        return made

    def as_full(self, value: Value, const: Const) -> Full | None:
        """Return ``const`` as a ``full`` where its elements are equal and its readers like that."""
        if value.type.rank and not all(map(_likes_full, self.fn.users[value])):
            return None
        number = _splat(const)
        return None if number is None else Full(const.type.shape, number, const.type.dtype)


def _is_spread(op: Op) -> bool:
    """Whether the op makes a single element, which costs nothing."""
    return all(same_dim(r.type.numel, 1) for r in op.results)


def _likes_full(op: Op) -> bool:
    kind: Kind = op.kind
    return Trait.ELEMENTWISE in kind.traits or isinstance(kind, (Attention, Expand))


def _nbytes(t: TensorType) -> int:
    return int(t.numel) * t.dtype.nbytes


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB" if nbytes >= 1 << 20 else f"{nbytes} bytes"


def _splat(const: Const) -> bool | int | float | None:
    """Return the one value of all elements, compared by their bits, or None."""
    if const.type.dtype in _COMPLEX or const.type.numel == 0 or not worth_a_look(const):
        return None
    array = elements_of(const)
    bits = array.view(f"u{array.itemsize}")
    value: object = array.flat[0].item()
    same = bits.flat[0] == bits.flat[-1] and bool((bits == bits.flat[0]).all())
    return value if same and isinstance(value, (bool, int, float)) else None
