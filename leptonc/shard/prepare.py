"""The passes before sharding: what is always worth it, and nothing that hides an axis.

Fusion and layouts come later, in each rank's own units; merged linears would put queries, keys and
values into one axis for nothing.
"""

from __future__ import annotations

from leptonc.ir.core import Function
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager

PREPARE = (
    "fold-constants,simplify{signed-zeros=false},recognize,fold-constants,recognize,cse,dce,"
    "fold-batchnorm,fold-constants,simplify{signed-zeros=false},cse,dce"
)


def prepare(fn: Function) -> Function:
    """Return ``fn`` as the planner takes it."""
    return PassManager(pipeline(PREPARE), ()).run(fn)
