"""Claims: whether the CPU backend runs an op natively, or why it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from leptonc.ir.core import Kind, Op
from leptonc.ir.types import DType

STORED = frozenset(
    {
        DType.F32,
        DType.F16,
        DType.BF16,
        DType.I64,
        DType.I32,
        DType.BOOL,
        DType.U8,
        DType.I8,
        DType.I16,
    }
)  # dtypes that native kernels can load and store


@dataclass(frozen=True)
class Yes:
    """The op runs natively."""


@dataclass(frozen=True)
class No:
    """The op runs through torch; ``reason`` is in the user's terms."""

    reason: str


Claim = Yes | No
ClaimFn = Callable[[Op], Claim]
YES = Yes()


def f32_only(op: Op) -> Claim:
    """Claim an op whose operands and results are all float32."""
    for v in (*op.operands, *op.results):
        if v.type.dtype is not DType.F32:
            return No(f"{op.kind.NAME} has no kernel for {v.type.dtype.value}")
    return YES


def stored(op: Op) -> Claim:
    """Claim an op that only moves elements of a dtype that kernels can hold."""
    for v in (*op.operands, *op.results):
        if v.type.dtype not in STORED:
            return No(f"{op.kind.NAME} has no kernel for {v.type.dtype.value}")
    return YES


def claim(op: Op, table: Mapping[type[Kind], ClaimFn]) -> Claim:
    """Return whether ``op`` runs natively, by the claims of its kind."""
    fn = table.get(type(op.kind))
    return No(f"{op.kind.NAME} has no kernel") if fn is None else fn(op)
