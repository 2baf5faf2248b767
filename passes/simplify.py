"""``simplify``: laws of algebra, shapes, casts, masks and clamps, applied to a fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leptonc.ir.core import Function
from leptonc.passes.rules import algebra, casts, clamps, masks, pools, shapes
from leptonc.pipeline import Pass, Properties
from leptonc.rewrite.driver import rewrite
from leptonc.rewrite.rule import Rule
from leptonc.rewrite.trace import Trace

ALWAYS: tuple[Rule, ...] = (
    *algebra.RULES, *shapes.RULES, *casts.RULES, *masks.RULES, *clamps.RULES, *pools.RULES,
)  # fmt: skip


@dataclass(frozen=True)
class Simplify(Pass):
    """Apply the rule set in forward sweeps until nothing changes.

    ``signed_zeros`` keeps the sign of every zero; ``reassociate`` lets float constants be merged.

    Raises:
        NoFixedPoint: rules still fire after ``max_sweeps``.
    """

    max_sweeps: int = 16
    signed_zeros: bool = True
    reassociate: bool = False

    NAME: ClassVar[str] = "simplify"
    ESTABLISHES: ClassVar[Properties] = frozenset({"canonical"})

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that these options select."""
        return (
            *ALWAYS,
            *(() if self.signed_zeros else (*algebra.SIGNED_ZERO, *pools.SIGNED_ZERO)),
            *(algebra.REASSOCIATION if self.reassociate else ()),
        )

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return the simplified function."""
        return rewrite(fn, self.rules, trace, self.max_sweeps)
