"""``dce``: drop pure ops whose results nothing reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leptonc.ir.core import Function, Trait
from leptonc.passes.cse import IMPURE
from leptonc.pipeline import Pass
from leptonc.rewrite.driver import drop_dead
from leptonc.rewrite.trace import Trace


@dataclass(frozen=True)
class Dce(Pass):
    """Drop dead code. Ops that are not pure (random, with an effect) stay, and what they read."""

    NAME: ClassVar[str] = "dce"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` without dead ops."""
        after = drop_dead(fn)
        for op in after.ops:
            if Trait.PURE not in op.kind.traits and not any(after.use_count[r] for r in op.results):
                trace.missed(op, f"kept, though nothing reads it: {IMPURE}")
        if after is not fn:
            trace.applied(fn.name, f"dropped {len(fn.ops) - len(after.ops)} dead ops")
        return after
