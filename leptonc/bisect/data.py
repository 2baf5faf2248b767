"""Bisect > data: tensors as short text in a test file: recipes first, bytes as the last resort."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from leptonc import meaning
from leptonc.ir.types import DType

_SEEDS = 8  # recipes that a tensor is compared with
_WRITTEN = 64  # elements that are written out one by one
_WIDTH = 80


def scattered(shape: Sequence[int], dtype: str, seed: int, positive: bool = False) -> Tensor:
    """Return multiples of 1/8 in [-1, 1] that look random; the same on every machine.

    ``positive`` gives 1/8 to 9/8 instead (variances). The bits are splitmix64's.
    """
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed * 1_000_003)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    whole = ((x >> np.uint64(40)) % np.uint64(9 if positive else 17)).astype(np.float64)
    values = (whole + 1 if positive else whole - 8) / 8
    return torch.from_numpy(values.reshape(tuple(shape))).to(meaning.TORCH_DTYPES[DType(dtype)])


def filled(shape: Sequence[int], dtype: str, value: float) -> Tensor:
    """Return a tensor of equal elements."""
    return torch.full(tuple(shape), value, dtype=meaning.TORCH_DTYPES[DType(dtype)])


def written(shape: Sequence[int], dtype: str, values: Sequence[float]) -> Tensor:
    """Return the tensor of the elements ``values``, in row-major order."""
    return torch.tensor(values, dtype=meaning.TORCH_DTYPES[DType(dtype)]).reshape(tuple(shape))


def packed(shape: Sequence[int], dtype: str, text: str) -> Tensor:
    """Return the tensor whose bytes ``text`` holds: base 85 of zlib."""
    raw = zlib.decompress(base64.b85decode(text))
    want = meaning.TORCH_DTYPES[DType(dtype)]
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(want).reshape(tuple(shape))


def recipes(tensor: Tensor) -> list[Tensor]:
    """Return simpler tensors of the same shape and dtype to try in place of ``tensor``."""
    if not tensor.is_floating_point() or tensor.numel() <= 1:
        return []
    shape, dtype = tuple(tensor.shape), meaning.IR_DTYPES[tensor.dtype].value
    seed = tensor.numel() % _SEEDS
    return [scattered(shape, dtype, seed), scattered(shape, dtype, seed, positive=True)]


def text_of(tensor: Tensor) -> str:
    """Return the Python expression that makes ``tensor`` again, bit for bit."""
    shape, dtype = tuple(tensor.shape), meaning.IR_DTYPES[tensor.dtype].value
    head = f'{shape}, "{dtype}"'
    for positive in (False, True):
        for seed in range(_SEEDS):
            if _same(tensor, scattered(shape, dtype, seed, positive)):
                return f"scattered({head}, {seed}{', positive=True' * positive})"
    flat = tensor.detach().contiguous().reshape(-1)
    plain = not flat.is_complex() and bool(torch.isfinite(flat.double()).all())
    if plain and flat.numel() > 1 and _same(flat, flat[:1].expand(flat.numel())):
        return f"filled({head}, {flat[0].item()!r})"
    if plain and flat.numel() <= _WRITTEN:
        return f"written({head}, {_lines(flat.tolist())})"
    raw = meaning.raw_tensor(flat).tobytes() if flat.numel() else b""
    code = base64.b85encode(zlib.compress(raw, 9)).decode()
    lines = "".join(f"\n        {code[i : i + _WIDTH]!r}" for i in range(0, len(code), _WIDTH))
    return f"packed(\n        {head},{lines or ' b'}\n    )"


def _lines(values: list[float]) -> str:
    return "[" + ", ".join(map(repr, values)) + "]"


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same bits."""
    if a.shape != b.shape or a.dtype is not b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(a, b) and torch.equal(torch.signbit(a), torch.signbit(b))
