"""compress > quantize > measured: the form of an op that takes the least time, alone, compiled."""

from __future__ import annotations

from collections.abc import Mapping

from leptonc.compress.choice import FLOAT, choose
from leptonc.compress.recipe import Context
from leptonc.compress.timing import timings
from leptonc.ir.core import Function, Op
from leptonc.ir.specialize import specialize
from leptonc.rewrite.trace import Remark, RemarkKind, describe


def fastest(op: Op, where: str, forms: Mapping[str, Function], context: Context) -> str:
    """Return the name of the form to take; the ledger and a remark get the times of all.

    Args:
        op: what the forms compute.
        where: its module path.
        forms: by name, the more exact ones first.
        context: of the plan; its sizes stand for dynamic ones.
    """
    if context.data is not None:
        context.data.progress(f"timing {where}")
    programs = [specialize(fn, context.sizes) for fn in forms.values()]
    choice = choose(where, dict(zip(forms, timings(programs), strict=True)))
    context.choices.append(choice)
    kind = RemarkKind.MISSED if choice.chosen == FLOAT else RemarkKind.NOTE
    context.remarks.append(Remark("Quantize", kind, describe(op), str(choice), op.origin))
    return choice.chosen
