"""``fold-quant``: conversions to and from codes around products become products of codes.

``conv(dequantize(q), dequantize(w))`` is ``int_conv(q, w)`` with one combined scale for each
output, computed in float64 and rounded once; a trained ``fake_quantize`` is the pair of conversions
that it stands for. Conversions move so that codes stay codes: through reshapes, transposes, max
pools and concatenations, past clips that their range makes anyway, and a conversion to codes just
made from these codes is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leptonc import meaning
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import KINDS, Dequantize, IntConv, IntLinear, UnpackInt4
from leptonc.ir.kinds.shape import Reshape, Slice
from leptonc.passes.fold_constants import FoldConstants
from leptonc.passes.rules import quants
from leptonc.pipeline import Pass
from leptonc.rewrite.driver import drop_dead, rewrite
from leptonc.rewrite.trace import Trace


@dataclass(frozen=True)
class FoldQuant(Pass):
    """Fold Q/DQ graphs and fake quantizations into integer products.

    A linear layer of which only the weight is quantized stays as it is, exact; with ``dynamic`` its
    inputs are quantized row by row, at up to half a code of error each.
    """

    dynamic: bool = False
    max_sweeps: int = 16

    NAME: ClassVar[str] = "fold-quant"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with products of codes; ``fn`` itself if nothing in it is quantized."""
        if not any(isinstance(op.kind, KINDS) for op in fn.ops):
            return fn
        folder = FoldConstants()
        fn = rewrite(folder.run(fn, trace), quants.RULES, trace, self.max_sweeps)
        if self.dynamic:
            fn = rewrite(fn, (quants.DYNAMIC,), trace, self.max_sweeps)
        fn = folder.run(_unpacked(fn, trace), trace)
        for op in fn.ops:
            _tell(fn, op, trace)
        return fn


def _unpacked(fn: Function, trace: Trace) -> Function:
    """Return ``fn`` with codes of 4 bits as bytes where they have one scale for each output.

    Products by such weights have kernels for bytes; those by groups read two codes a byte.
    """
    made: dict[Value, Op] = {}
    for op in fn.ops:
        if isinstance(op.kind, (IntConv, IntLinear)) and op.operands[2].type.rank == 1:
            chain = _chain(fn, op.operands[1])
            if any(isinstance(o.kind, UnpackInt4) for o in chain) and not trace.spent:
                (const,) = meaning.fold(Function("codes", (), chain, (op.operands[1],)))
                value = Value(const.type, chain[0].result.hint)
                made[op.operands[1]] = Op(Constant(const), (), (value,), op.origin)
                trace.applied(op, "its codes of 4 bits are kept as bytes")
    if not made:
        return fn
    ops = list[Op]()
    for op in fn.ops:
        if isinstance(op.kind, (IntConv, IntLinear)) and op.operands[1] in made:
            new = made[op.operands[1]]
            if new not in ops:
                ops.append(new)
            operands = (op.operands[0], new.result, *op.operands[2:])
            op = Op(op.kind, operands, op.results, op.origin)
        ops.append(op)
    return drop_dead(Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims))


def _chain(fn: Function, v: Value) -> tuple[Op, ...]:
    """Return the ops that make ``v`` of a constant, in order; none if anything else goes in."""
    found: list[Op] = []
    while (op := fn.producer.get(v)) is not None:
        found.append(op)
        if isinstance(op.kind, Constant):
            return tuple(reversed(found))
        if len(op.operands) != 1 or not isinstance(op.kind, (UnpackInt4, Reshape, Slice)):
            break
        v = op.operands[0]
    return ()


def _tell(fn: Function, op: Op, trace: Trace) -> None:
    """Say of a product that only its weight is quantized."""
    if not isinstance(op.kind, (Conv, Linear)):
        return
    x, w = (fn.producer.get(v) for v in op.operands[:2])
    codes = [m is not None and isinstance(m.kind, Dequantize) for m in (x, w)]
    if codes == [False, True]:
        trace.note(op, "its inputs are not quantized, its weight alone is")
