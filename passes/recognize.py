"""``recognize``: raise what models write out by hand (gelu, norms, attention, ...) to its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leptonc.ir.core import Function
from leptonc.passes.rules import activations, attention, clamps, linears, norms
from leptonc.pipeline import Pass
from leptonc.rewrite.driver import rewrite
from leptonc.rewrite.rule import Rule
from leptonc.rewrite.trace import Trace

RULES: tuple[Rule, ...] = (
    *clamps.RULES,
    *activations.RULES,
    *norms.RULES,
    *attention.RULES,
    attention.CAUSAL,
    *linears.RULES,
    linears.LINEAR_OF_CONSTANT,
)


@dataclass(frozen=True)
class Recognize(Pass):
    """Apply the recognition rules; each keeps its own stated exactness, mostly REASSOC.

    An intermediate value with another reader keeps its pattern from being raised, with a remark.
    """

    max_sweeps: int = 16

    NAME: ClassVar[str] = "recognize"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with every recognised pattern replaced by one op."""
        return rewrite(fn, RULES, trace, self.max_sweeps)
