"""ATen calls without kinds: the ``torch_op`` that carries one through to torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy
import torch

from leptonc.errors import CaptureError
from leptonc.ir.core import Value
from leptonc.ir.kinds.region import Arg, TorchOp
from leptonc.ir.types import TensorType
from leptonc.meaning.opaque import encode

# Where and how memory is laid out is leptonc's own business; a generator cannot be kept.
_DROPPED = frozenset({"device", "layout", "pin_memory", "memory_format", "generator"})


def torch_op(
    target: torch._ops.OpOverload, given: Mapping[str, Any], types: tuple[TensorType, ...]
) -> tuple[TorchOp, list[Value]]:
    """Return the opaque op of a call and its operands.

    Args:
        target: the overload.
        given: its arguments by schema name, as the graph gives them.
        types: the types of its tensor results.

    Raises:
        CaptureError: an argument that the IR has no literal for.
    """
    operands: list[Value] = []

    def template(value: Any) -> Any:
        if isinstance(value, Value):
            if value not in operands:
                operands.append(value)
            return Arg(operands.index(value))
        if isinstance(value, (list, tuple)):
            return tuple(map(template, value))
        if isinstance(value, sympy.Expr):
            return value
        try:
            return encode(value)
        except TypeError as e:
            raise CaptureError(f"{target}: {e}") from e

    args: list[Any] = []
    kwargs: list[tuple[str, Any]] = []
    gap = False  # after an argument left out, the rest goes by name
    for a in target._schema.arguments:
        if a.name not in given or a.name in _DROPPED:
            gap = True
        elif a.kwarg_only or gap:
            kwargs.append((a.name, template(given[a.name])))
        else:
            args.append(template(given[a.name]))
    return TorchOp(str(target), tuple(args), tuple(kwargs), types, is_pure(target)), operands


def is_pure(target: torch._ops.OpOverload) -> bool:
    """Whether the op is neither random nor has an effect."""
    random = torch.Tag.nondeterministic_seeded in target.tags
    return not random and not target._schema.is_mutable
