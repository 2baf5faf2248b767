"""Rewrite rules by topic. ``ALL_RULES``: every rule that the derived tests can draw."""

from __future__ import annotations

from leptonc.passes.rules import (
    activations,
    algebra,
    attention,
    casts,
    clamps,
    linears,
    masks,
    norms,
    pools,
    quants,
    shapes,
)
from leptonc.rewrite.rule import Rule

ALL_RULES: tuple[Rule, ...] = (
    *algebra.RULES,
    *algebra.SIGNED_ZERO,
    *algebra.REASSOCIATION,
    *shapes.RULES,
    *casts.RULES,
    *masks.RULES,
    *clamps.RULES,
    *pools.RULES,
    *pools.SIGNED_ZERO,
    *activations.RULES,
    *norms.RULES,
    *attention.RULES,
    *linears.RULES,
    *quants.RULES,
)
