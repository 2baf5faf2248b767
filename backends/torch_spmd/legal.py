"""torch_spmd > legal: what every rank may run; all of torch, but nothing that draws numbers."""

from __future__ import annotations

from leptonc.errors import ClaimError
from leptonc.ir.core import NOWHERE, Function, Trait


def check(fn: Function) -> None:
    """Raise ClaimError at an op whose result differs from rank to rank.

    Ranks that run an op alike must get the same: a random one would leave each with a result of
    its own, which the next collective mixes.
    """
    for op in fn.ops:
        if Trait.PURE not in op.kind.traits:
            name = getattr(op.kind, "target", op.kind.NAME)
            at = f" at {op.origin}" if op.origin != NOWHERE else ""
            raise ClaimError(
                f"{name}{at} is not deterministic: ranks would compute different values. Take the "
                "numbers as an input of the model, or compile it for one device"
            )
