"""Sharding rules, one table: kind -> the strategies of an op beside running it whole.

What has no rule is replicated.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from leptonc.ir import kinds
from leptonc.ir.core import Kind, Trait
from leptonc.shard.rules import contraction, elementwise, lookup, movement, quantized, reduction
from leptonc.shard.strategy import Rule

RULES: Mapping[type[Kind], Rule] = MappingProxyType(
    {
        **{k: elementwise.any_axis for k in kinds.ALL if Trait.ELEMENTWISE in k.TRAITS},
        **elementwise.RULES,
        **contraction.RULES,
        **movement.RULES,
        **lookup.RULES,
        **reduction.RULES,
        **quantized.RULES,
    }
)

__all__ = ["RULES"]
