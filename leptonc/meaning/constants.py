"""Between torch tensors and the IR: dtypes, types, constants and their content hash."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from torch import Tensor

from leptonc.ir.constants import Const
from leptonc.ir.types import DType, TensorType

TORCH_DTYPES: Mapping[DType, torch.dtype] = MappingProxyType(
    {
        DType.F64: torch.float64,
        DType.F32: torch.float32,
        DType.F16: torch.float16,
        DType.BF16: torch.bfloat16,
        DType.I64: torch.int64,
        DType.I32: torch.int32,
        DType.I16: torch.int16,
        DType.I8: torch.int8,
        DType.U8: torch.uint8,
        DType.BOOL: torch.bool,
        DType.C64: torch.complex64,
        DType.C128: torch.complex128,
    }
)
"""IR dtype -> torch dtype (``DType.OTHER`` has none)."""

IR_DTYPES: Mapping[torch.dtype, DType] = MappingProxyType({t: d for d, t in TORCH_DTYPES.items()})
"""torch dtype -> IR dtype; a dtype that is not a key is ``DType.OTHER``."""


SMALL = 16 << 10  # bytes of constants whose elements a compile may always look at
_BLOCK = 1 << 15  # elements worked on at a time: float64 copies of them stay in the cache


@dataclass(frozen=True, eq=False)
class Later:
    """The payload of a constant that lies elsewhere: each look at its elements reads them anew.

    Attributes:
        read: returns the tensor.
    """

    read: Callable[[], Tensor]


def type_of(tensor: Tensor) -> TensorType:
    """Return the (row-major) IR type of a concrete tensor."""
    return TensorType(IR_DTYPES.get(tensor.dtype, DType.OTHER), tuple(tensor.shape))


def const_of(tensor: Tensor) -> Const:
    """Return ``tensor`` as a constant that shares its memory; the hash is computed when asked."""
    payload = tensor.detach()
    return Const(type_of(payload), payload, _digest)


def tensor_of(const: Const) -> Tensor:
    """Return the tensor that ``const`` holds (shared memory; do not write to it)."""
    payload = const.payload
    if isinstance(payload, Later):
        return payload.read()
    if not isinstance(payload, Tensor):
        raise TypeError(f"constant of {const.type} holds {type(payload).__name__}, not a tensor")
    return payload


def worth_a_look(const: Const) -> bool:
    """Return whether its elements are at hand, or so few that reading them costs nothing."""
    nbytes = int(const.type.numel) * const.type.dtype.nbytes
    return nbytes <= SMALL or not isinstance(const.payload, Later)


def scaled_rows(const: Const, factor: Const, dtype: DType) -> Const:
    """Return ``const: [n, ...]`` times ``factor: f64[n]``, in float64, rounded once."""
    tensor, column = tensor_of(const), tensor_of(factor).reshape(-1, 1)
    rows = tensor.reshape(len(tensor), -1)
    out = torch.empty(rows.shape, dtype=TORCH_DTYPES[dtype])
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for i in range(0, len(rows), step):
        out[i : i + step] = rows[i : i + step].double() * column[i : i + step]
    return const_of(out.reshape(tensor.shape))


def stacked(consts: Sequence[Const]) -> Const:
    """Return constants of one dtype one below the other: ``[n, ...]``, of every ``[n_i, ...]``.

    If one of them lies elsewhere and is large, the elements are put together when they are read.
    """
    first = consts[0].type
    rows = sum(int(c.type.shape[0]) for c in consts)

    def read() -> Tensor:
        return torch.cat([tensor_of(c) for c in consts])

    if all(map(worth_a_look, consts)):
        return const_of(read())
    name = hashlib.sha256(" ".join(c.digest for c in consts).encode()).hexdigest()
    made = Const(TensorType(first.dtype, (rows, *first.shape[1:])), Later(read), lambda _: name)
    set_nonzero_share(made, max(map(nonzero_share, consts)))
    return made


def all_finite(const: Const) -> bool:
    """Return whether no element is infinite or NaN."""
    tensor = tensor_of(const)
    # The extremes carry every NaN and infinity: cheaper than a test per element.
    return not tensor.numel() or all(math.isfinite(v) for v in torch.aminmax(tensor))


_SHARE = "nonzero_share"  # attribute of a constant
_SAMPLE = 4096  # elements that tell most constants without zeros from others


def nonzero_share(const: Const, enough: float = 1.0) -> float:
    """Return which part of the elements is not zero, roughly where it exceeds ``enough``.

    A constant of which a sample has more than twice that part is not looked through. The answer is
    kept with the constant: it holds when the bytes were let go, too (see ``set_nonzero_share``).
    """
    known = const.__dict__.get(_SHARE)
    if known is None:
        known = _share_of(tensor_of(const), enough)
        set_nonzero_share(const, known)
    return known


def set_nonzero_share(const: Const, share: float) -> None:
    """Tell which part of the elements of a constant whose bytes are elsewhere is not zero."""
    object.__setattr__(const, _SHARE, share)


_UNEVENNESS = "unevenness"  # attribute of a constant
#: Rows: pairs are compared of a multiple of so many, which fill registers of any processor.
PAIRED = 64


def unevenness(const: Const) -> float:
    """Return how many times as large as that of another row a row's largest element is, at most.

    Rows (of the first axis) are compared that lie half of them apart; those behind a multiple of
    ``PAIRED`` of them with none. Infinite where an element is not finite or only one row of two is
    zero, and for a constant that lies elsewhere, which is not read for that. It is kept with the
    constant, as ``nonzero_share`` is.
    """
    known = const.__dict__.get(_UNEVENNESS)
    if known is None:
        known = math.inf if isinstance(const.payload, Later) else _unevenness_of(tensor_of(const))
        set_unevenness(const, known)
    return known


def set_unevenness(const: Const, value: float) -> None:
    """Tell the unevenness of a constant whose bytes are elsewhere."""
    object.__setattr__(const, _UNEVENNESS, value)


def _unevenness_of(tensor: Tensor) -> float:
    half = len(tensor) // PAIRED * PAIRED // 2
    if not half or not tensor.numel():
        return 1.0
    rows = tensor.reshape(len(tensor), -1)
    # Without a sign: the larger one of 0.0 and -0.0 may be either.
    largest = torch.maximum(rows.amax(1), -rows.amin(1)).abs()[: 2 * half].reshape(2, half)
    (low, high), zero = torch.aminmax(largest, dim=0), largest.sum(0) == 0
    most = float(torch.where(zero, 1.0, high / low).max())
    return most if math.isfinite(most) else math.inf


_PEAK = "peak_to_mean"  # attribute of a constant


def peak_to_mean(const: Const) -> float:
    """Return how many times the mean of a row its largest element is, of absolute values, at most.

    Rows are those of the first axis; one of zeros counts 1. Infinite where an element is not
    finite, and for a constant that lies elsewhere, which is not read for that, or whose bytes were
    let go. It is kept with the constant, as ``nonzero_share`` is.
    """
    known = const.__dict__.get(_PEAK)
    if known is None:
        elsewhere = const.released or isinstance(const.payload, Later)
        known = math.inf if elsewhere else _peak_to_mean_of(tensor_of(const))
        set_peak_to_mean(const, known)
    return known


def known_peak_to_mean(const: Const) -> float | None:
    """Return the peak_to_mean of a constant that somebody has asked for it, else None."""
    return const.__dict__.get(_PEAK)


def set_peak_to_mean(const: Const, value: float) -> None:
    """Tell the peak_to_mean of a constant whose bytes are elsewhere."""
    object.__setattr__(const, _PEAK, value)


def _peak_to_mean_of(tensor: Tensor) -> float:
    if not tensor.numel():
        return 1.0
    rows = tensor.reshape(len(tensor), -1)
    largest = torch.maximum(rows.amax(1), -rows.amin(1))
    mean = torch.linalg.vector_norm(rows, 1, dim=1, dtype=torch.float64) / rows.shape[1]
    most = float(torch.where(largest == 0, 1.0, largest / mean).max())
    return most if math.isfinite(most) else math.inf


_REACH = "row_reach"  # attribute of a constant


def row_reach(const: Const) -> int:
    """Return how far from 0 a row of whole numbers gets: its positive ones summed, or its negative.

    The largest of all rows (of the first axis). It is kept with the constant, as
    ``nonzero_share`` is.
    """
    known = const.__dict__.get(_REACH)
    if known is None:
        known = _reach_of(tensor_of(const))
        set_row_reach(const, known)
    return known


def set_row_reach(const: Const, reach: int) -> None:
    """Tell the reach of a constant whose bytes are elsewhere."""
    object.__setattr__(const, _REACH, reach)


def _reach_of(tensor: Tensor) -> int:
    if not tensor.numel():
        return 0
    rows = tensor.reshape(len(tensor), -1)
    above, below = rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1)  # int64, whatever rows are
    return max(int(above.max()), -int(below.min()))


def _share_of(tensor: Tensor, enough: float) -> float:
    if not tensor.numel():
        return 1.0
    step = tensor.numel() // _SAMPLE | 1  # odd: it meets every column of most matrices
    if step > 1:
        sample = _in_memory_order(tensor).reshape(-1)[::step]
        share = float(torch.count_nonzero(sample)) / sample.numel()
        if share > 2 * enough:
            return share
    return float(torch.count_nonzero(tensor)) / tensor.numel()


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Return a view whose axes come in the order of their strides: flat, it is seldom a copy."""
    return tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))


def _digest(payload: object) -> str:
    """Return the sha256 of dtype, shape and bytes in row-major order, as hexadecimal."""
    tensor = cast(Tensor, payload)
    sha = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    if tensor.is_quantized:
        sha.update(repr((tensor.qscheme(), tensor.q_scale(), tensor.q_zero_point())).encode())
        tensor = tensor.int_repr()
    sha.update(bytes_of(tensor).data)
    return sha.hexdigest()


def bytes_of(tensor: Tensor) -> np.ndarray:
    """Return the bytes of a tensor in row-major order: u8, do not write to them."""
    if not tensor.numel():
        return np.zeros(0, np.uint8)
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return flat.view(torch.uint8).numpy()
