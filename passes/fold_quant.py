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

from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.quantize import KINDS, Dequantize
from leptonc.passes.fold_constants import FoldConstants
from leptonc.passes.rules import quants
from leptonc.pipeline import Pass
from leptonc.rewrite.driver import rewrite
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
        fn = folder.run(fn, trace)
        for op in fn.ops:
            _tell(fn, op, trace)
        return fn


def _tell(fn: Function, op: Op, trace: Trace) -> None:
    """Say of a product that only its weight is quantized."""
    if not isinstance(op.kind, (Conv, Linear)):
        return
    x, w = (fn.producer.get(v) for v in op.operands[:2])
    codes = [m is not None and isinstance(m.kind, Dequantize) for m in (x, w)]
    if codes == [False, True]:
        trace.note(op, "its inputs are not quantized: the weight is converted in each run")
