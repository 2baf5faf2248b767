"""numba_cpu > kernels > shapes: what of operands goes into a helper and comes out of it.

The shape of an operand is the type of what code holds, or the object itself where that is known
while the code is written, or a tuple of shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from llvmlite import ir
from numba.core import types

from leptonc.backends.numba_cpu.kernels import operands as ops
from leptonc.backends.numba_cpu.kernels.operands import NOTHING, Known, Operand, Value
from leptonc.backends.numba_cpu.kernels.syntax import KernelError

Shape: TypeAlias = "Known | types.Type | tuple[Shape, ...]"


def shape_of(x: Operand) -> Shape:
    """Return the shape of an argument: what is known of it stays so, except numbers by themselves.

    A helper would be written once more for each number it is called with; LLVM finds constants in
    what it puts into a caller.
    """
    if isinstance(x, tuple):
        return x if _all_known(x) else tuple(map(shape_of, x))
    return ops.type_of(x) if ops.is_number(x) or isinstance(x, Value) else x


def _all_known(x: Operand) -> bool:
    return all(map(_all_known, x)) if isinstance(x, tuple) else isinstance(x, Known)


def leaves(shape: Shape) -> list[types.Type]:
    """Return the types of what code holds of a shape, in order."""
    if isinstance(shape, tuple):
        return [kind for part in shape for kind in leaves(part)]
    return [] if isinstance(shape, Known) else [shape]


def flat(b: ir.IRBuilder, x: Operand, shape: Shape) -> list[ir.Value]:
    """Return what code holds of an operand, as the types of its shape."""
    if isinstance(shape, tuple):
        assert isinstance(x, tuple)
        return [c for one, part in zip(x, shape, strict=True) for c in flat(b, one, part)]
    return [] if isinstance(shape, Known) else [ops.cast(b, x, shape).code]


def filled(shape: Shape, codes: Iterator[ir.Value]) -> Operand:
    """Return the operand of a shape that the next of ``codes`` make."""
    if isinstance(shape, tuple):
        return tuple(filled(part, codes) for part in shape)
    return shape if isinstance(shape, Known) else Value(shape, next(codes))


def result_of(found: Sequence[Operand]) -> Shape:
    """Return the shape that holds every one of the results of a function."""
    if not found:
        return NOTHING
    first = found[0]
    if isinstance(first, tuple):
        if not all(isinstance(other, tuple) and len(other) == len(first) for other in found):
            raise KernelError("a function returns tuples of one length, or none")
        rows: list[Any] = list(found)
        return tuple(result_of([row[i] for row in rows]) for i in range(len(first)))
    if isinstance(first, Known) and not ops.is_number(first):
        if any(other != first for other in found):
            raise KernelError("a function returns something here and nothing there")
        return first
    kind = ops.type_of(first)
    for other in found[1:]:
        kind = ops.common(kind, ops.type_of(other))
    return kind
