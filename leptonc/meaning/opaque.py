"""Opaque torch calls: finding the operator by name and filling in its argument template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from leptonc.errors import InferError
from leptonc.ir.kinds.region import Arg, TorchOp
from leptonc.ir.types import DType
from leptonc.meaning.constants import IR_DTYPES, TORCH_DTYPES

_TARGET = re.compile(r"([A-Za-z]\w*)\.([A-Za-z_]\w*)\.([A-Za-z]\w*)")
_ENUMS: Mapping[str, Any] = {
    str(v): v
    for v in (
        torch.preserve_format,
        torch.contiguous_format,
        torch.channels_last,
        torch.channels_last_3d,
        torch.strided,
    )
}  # memory formats and layouts stand in templates under torch's own names


@lru_cache(maxsize=1024)
def resolve(target: str) -> Any:
    """Return the operator overload named ``namespace.name.overload``.

    Only attributes of ``torch.ops`` are looked up; nothing is imported or evaluated.

    Raises:
        InferError: no such operator is registered (its library may have to be imported first).
    """
    m = _TARGET.fullmatch(target)
    if m is None:
        raise InferError(f"torch_op: {target!r} is not of the form namespace.name.overload")
    try:
        found = getattr(getattr(getattr(torch.ops, m[1]), m[2]), m[3])
    except (AttributeError, RuntimeError) as e:
        raise InferError(
            f"torch_op: no operator {target}; import the library that registers it"
        ) from e
    if not isinstance(found, torch._ops.OpOverload):
        raise InferError(f"torch_op: {target} is not an operator")
    return found


def encode(value: Any) -> Any:
    """Return a call argument as a template literal; the inverse of what ``call`` does.

    Raises:
        TypeError: the IR has no literal for it (a device other than the CPU, a generator, ...).
    """
    if isinstance(value, (list, tuple)):
        return tuple(encode(v) for v in value)
    if value is None or isinstance(value, (bool, int, float, str, Arg, DType)):
        return value
    if isinstance(value, torch.dtype) and value in IR_DTYPES:
        return IR_DTYPES[value]
    if str(value) in _ENUMS:
        return str(value)
    if isinstance(value, torch.device) and value.type == "cpu":
        return "cpu"
    raise TypeError(f"no IR literal for {value!r}")


def call(kind: TorchOp, *operands: Tensor) -> tuple[Tensor, ...]:
    """Run the operator and return its tensors, nested lists flattened, absent ones dropped."""
    args = [_decode(a, operands) for a in kind.args]
    kwargs = {name: _decode(a, operands) for name, a in kind.kwargs}
    return tuple(_tensors(resolve(kind.target)(*args, **kwargs)))


def _decode(value: Any, operands: tuple[Tensor, ...]) -> Any:
    if isinstance(value, Arg):
        return operands[value.index]
    if isinstance(value, tuple):
        return [_decode(v, operands) for v in value]
    if isinstance(value, DType):
        return TORCH_DTYPES[value]
    if isinstance(value, str):
        return _ENUMS.get(value, value)
    return value


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if result is None:
        return []
    if isinstance(result, (tuple, list)):
        return [t for r in result for t in _tensors(r)]
    return [torch.as_tensor(result)]
