"""capture > plain: Python values as JSON, exactly and of known types only.

None, bool, int and str stand for themselves, everything else is ``{"type": content}``. Reading
makes values of the types below and never looks anything up by a name that the text gives, except
torch's own dtypes, layouts and memory formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from leptonc.errors import ArtifactError

_DEVICE = re.compile(r"[a-z]+(:\d+)?")
_WORDS: Mapping[str, Any] = MappingProxyType(
    {str(v): v for v in vars(torch).values()
     if isinstance(v, (torch.dtype, torch.layout, torch.memory_format))} | {"Ellipsis": ...}
)  # fmt: skip
_ITSELF = (type(None), bool, int, str)


def encode(value: Any) -> Any:
    """Return ``value`` as what JSON can write. Raises ArtifactError for a value of another type."""
    kind = type(value)
    if kind in _ITSELF:
        return value
    if kind in _WRITE:
        name, write = _WRITE[kind]
        return {name: write(value)}
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format, type(...))):
        return {"word": str(value)}
    raise ArtifactError(
        f"{value!r} of type {kind.__module__}.{kind.__qualname__} cannot be saved; let the model "
        "take and return tensors, numbers, strings and plain containers of them"
    )


def decode(data: Any) -> Any:
    """Return the value that ``encode`` wrote. Raises ArtifactError for anything else."""
    if type(data) in _ITSELF:
        return data
    try:
        ((name, content),) = data.items()
        return _READ[name](content)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"not a saved value: {str(data)[:80]} ({error})") from None


def _encode_all(values: Any) -> list[Any]:
    return [encode(v) for v in values]


def _decode_all(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError("expected a list")
    return [decode(d) for d in data]


def _device(text: str) -> torch.device:
    if not _DEVICE.fullmatch(text):
        raise ValueError(f"no device: {text!r}")
    return torch.device(text)


def _complex(data: Any) -> complex:
    real, imaginary = map(float.fromhex, data)
    return complex(real, imaginary)


def _dict(data: Any) -> dict[Any, Any]:
    return {decode(k): decode(v) for k, v in data}


_WRITE: Mapping[type, tuple[str, Callable[[Any], Any]]] = MappingProxyType({
    float: ("float", float.hex),
    complex: ("complex", lambda v: [v.real.hex(), v.imag.hex()]),
    tuple: ("tuple", _encode_all),
    list: ("list", _encode_all),
    dict: ("dict", lambda v: [[encode(k), encode(e)] for k, e in v.items()]),
    slice: ("slice", lambda v: _encode_all((v.start, v.stop, v.step))),
    torch.Size: ("size", list),
    torch.device: ("device", str),
})  # fmt: skip
_READ: Mapping[str, Callable[[Any], Any]] = MappingProxyType({
    "float": float.fromhex,
    "complex": _complex,
    "tuple": lambda d: tuple(_decode_all(d)),
    "list": _decode_all,
    "dict": _dict,
    "slice": lambda d: slice(*_decode_all(d)),
    "size": torch.Size,
    "device": _device,
    "word": _WORDS.__getitem__,
})  # fmt: skip

__all__ = ["decode", "encode"]
