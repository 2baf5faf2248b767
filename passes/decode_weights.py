"""passes > decode_weights: ``decode-weights``, codes of weights that a product needs as floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leptonc import meaning
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.quantize import KINDS, Dequantize, UnpackInt4
from leptonc.ir.kinds.shape import Expand, Reshape, Slice, Transpose
from leptonc.pipeline import Pass
from leptonc.rewrite.driver import drop_dead
from leptonc.rewrite.trace import Trace

PRODUCTS = (Conv, ConvTranspose, Linear, Matmul)
_STEPS = (Constant, Full, Dequantize, UnpackInt4, Reshape, Slice, Transpose, Expand)


@dataclass(frozen=True)
class DecodeWeights(Pass):
    """Convert constant codes that only a float product reads, at compile time.

    Of a product whose inputs are float, or codes of 16 bits, the kernel takes a weight of floats:
    made in each run it would cost more than the product. Codes that others read, too, stay.
    """

    NAME: ClassVar[str] = "decode-weights"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with weights as floats; ``fn`` itself if no product reads codes."""
        if not any(isinstance(op.kind, KINDS) for op in fn.ops):
            return fn
        made: dict[Value, Op] = {}
        for op in fn.ops:
            if not isinstance(op.kind, PRODUCTS) or trace.spent:
                continue
            w = op.operands[1]
            ops, maker = _steps(fn, w), fn.producer.get(w)
            if not ops and maker is not None and isinstance(maker.kind, Dequantize):
                trace.missed(op, "its weight is converted in each run: its codes are computed")
            if w not in made and any(isinstance(o.kind, Dequantize) for o in ops):
                (const,) = meaning.fold(Function("weight", (), ops, (w,)))
                made[w] = Op(Constant(const), (), (Value(const.type, w.hint),), op.origin)
                trace.applied(op, "its inputs are no bytes: its weight is converted to floats once")
        if not made:
            return fn
        ops = list[Op]()
        placed = set[Value]()
        for op in fn.ops:
            new = made.get(op.operands[1]) if isinstance(op.kind, PRODUCTS) else None
            if new is not None:
                if new.result not in placed:
                    ops.append(new)
                    placed.add(new.result)
                x, _, *rest = op.operands
                op = Op(op.kind, (x, new.result, *rest), op.results, op.origin)
            ops.append(op)
        return drop_dead(Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims))


def _steps(fn: Function, value: Value) -> tuple[Op, ...]:
    """Return the ops that make ``value`` of constants, in order; none if anything else goes in."""
    op = fn.producer.get(value)
    if op is None or not isinstance(op.kind, _STEPS):
        return ()
    before = [_steps(fn, v) for v in op.operands]
    return tuple(dict.fromkeys((*(o for ops in before for o in ops), op))) if all(before) else ()
