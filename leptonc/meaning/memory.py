"""Between torch tensors and raw memory: arrays for kernels, tensors over a program's arena."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leptonc.ir.constants import Const
from leptonc.ir.kinds.data import Full
from leptonc.ir.types import DType, TensorType
from leptonc.meaning.constants import TORCH_DTYPES, tensor_of

Array = npt.NDArray[np.generic]
_HALF = (torch.bfloat16, torch.float16)


def array_of(const: Const) -> Array:
    """Return a constant's values row-major; bf16 and f16 as float32. Do not write to it."""
    tensor = tensor_of(const)
    tensor = tensor.float() if tensor.dtype in _HALF else tensor
    return (tensor if _is_stand_in(tensor) else tensor.contiguous()).numpy()


def elements_of(const: Const) -> Array:
    """Return a constant's values where they lie, of any strides; bf16 and f16 as float32."""
    tensor = tensor_of(const)
    return (tensor.float() if tensor.dtype in _HALF else tensor).numpy()


def stand_in(type_: TensorType) -> Tensor:
    """Return zeros of static ``type_`` that take one element of memory: a shape without data."""
    shape = [int(d) for d in type_.shape]
    return torch.zeros((), dtype=TORCH_DTYPES[type_.dtype]).expand(shape)


def _is_stand_in(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and not any(tensor.stride())


def raw_array(const: Const) -> Array:
    """Return a constant's bytes row-major, bf16 as int16 (NumPy has no bf16)."""
    return raw_tensor(tensor_of(const))


def raw_elements(const: Const) -> Array:
    """Return what ``raw_array`` does without a copy, of any strides."""
    return _numpy(tensor_of(const))


def raw_filled(full: Full) -> Array:
    """Return the elements of a ``Full`` of static shape as ``raw_array`` would."""
    shape = [int(d) for d in full.shape]
    value: Any = full.value
    return raw_tensor(torch.full(shape, value, dtype=TORCH_DTYPES[full.dtype]))


def raw_tensor(tensor: Tensor) -> Array:
    """Return a tensor's bytes row-major, bf16 as int16."""
    return _numpy(tensor.contiguous())


def _numpy(tensor: Tensor) -> Array:
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def tensor_from_raw(array: Array, type_: TensorType) -> Tensor:
    """Return a copy of what ``raw_tensor`` gave as a tensor of ``type_``.

    Complex numbers may come as pairs along one axis more.
    """
    tensor = torch.from_numpy(np.array(array))
    want = TORCH_DTYPES[type_.dtype]
    if tensor.dtype is want:
        return tensor
    return torch.view_as_complex(tensor) if want.is_complex else tensor.view(want)


def tensor_at(address: int, dtype: DType, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Return the tensor over memory that the caller keeps alive.

    ``address`` is that of element 0; strides are in elements, none negative.
    """
    if math.prod(shape) == 0 or address == 0:
        return torch.empty(tuple(shape), dtype=TORCH_DTYPES[dtype])
    extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    memory = (ctypes.c_uint8 * (extent * dtype.nbytes)).from_address(address)
    flat = torch.frombuffer(memory, dtype=TORCH_DTYPES[dtype], count=extent)
    return flat.as_strided(tuple(shape), tuple(strides))
