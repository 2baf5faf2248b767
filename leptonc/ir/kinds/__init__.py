"""The op set by topic: attributes, traits and type rule of each kind, nothing else."""

from __future__ import annotations

from leptonc.ir.core import Kind
from leptonc.ir.kinds import (
    binary,
    collective,
    contract,
    data,
    norm,
    pointwise,
    quantize,
    reduce,
    region,
    shape,
    unary,
)

ALL: tuple[type[Kind], ...] = (
    *unary.KINDS,
    *binary.KINDS,
    *pointwise.KINDS,
    *contract.KINDS,
    *norm.KINDS,
    *reduce.KINDS,
    *shape.KINDS,
    *data.KINDS,
    *quantize.KINDS,
    *collective.KINDS,
    *region.KINDS,
)
