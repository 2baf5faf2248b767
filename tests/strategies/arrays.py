"""Arrays thick with the values that break rewrites: NaN, infinities, -0.0, denormals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from hypothesis import strategies as st

from leptonc.ir.core import Function
from leptonc.ir.specialize import Specializer
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import TORCH_DTYPES

_TINY = {DType.F64: 5e-324, DType.F32: 1e-45, DType.F16: 6e-8, DType.BF16: 1e-40}


def _specials(dtype: DType) -> list[float]:
    """Return the hard values of a float dtype: signed zeros, extremes, denormals, NaN, inf."""
    info = torch.finfo(TORCH_DTYPES[dtype])
    tiny = _TINY[dtype]
    edge = [info.max, info.min, info.tiny, -info.tiny, info.eps, tiny, -tiny]
    return [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), *edge]


def values(dtype: DType, special: bool = True) -> st.SearchStrategy[float | int | bool]:
    """Return a strategy of single elements of ``dtype``; ``special=False`` keeps to -4..4."""
    if dtype is DType.BOOL:
        return st.booleans()
    if dtype.is_int:
        low = 0 if dtype is DType.U8 else -4
        small = st.integers(low, 4)
        info = torch.iinfo(TORCH_DTYPES[dtype])
        return small | st.sampled_from([info.min, info.max]) if special else small
    small_floats = st.integers(-4, 4).map(float)
    if not dtype.is_float:  # complex
        return small_floats
    width = {DType.F64: 64, DType.F16: 16}.get(dtype, 32)
    ordinary = st.floats(-100, 100, width=width)
    if not special:
        return small_floats
    return st.sampled_from(_specials(dtype)) | ordinary | small_floats


@st.composite
def arrays(draw: st.DrawFn, type_: TensorType, special: bool = True) -> torch.Tensor:
    """Draw a tensor of a static type.

    A palette of values is drawn and spread over the elements by a drawn seed, so that big arrays
    cost no more to draw or shrink than small ones.

    Args:
        draw: supplied by Hypothesis.
        type_: a type whose sizes are ints.
        special: False keeps to small whole numbers, whose float sums are exact in any order.
    """
    count = int(np.prod(type_.shape, dtype=np.int64))
    palette = draw(st.lists(values(type_.dtype, special), min_size=1, max_size=12))
    seed = draw(st.integers(0, 2**16))
    index = np.random.default_rng(seed).integers(0, len(palette), count)
    dtype = TORCH_DTYPES[type_.dtype]
    return torch.tensor(palette, dtype=dtype)[torch.from_numpy(index)].reshape(type_.shape)


def sizes_for(fn: Function, largest: int = 6) -> st.SearchStrategy[Mapping[str, int]]:
    """Return a strategy of values for the symbolic sizes of ``fn``, at most ``min + largest``."""
    ranges = {
        d.name: st.integers(d.min, min(d.min + largest, d.max if d.max is not None else 2**30))
        for d in fn.dims
    }
    return st.fixed_dictionaries(ranges)


@st.composite
def arrays_for(draw: st.DrawFn, fn: Function, special: bool = True) -> tuple[torch.Tensor, ...]:
    """Draw one tensor per parameter of ``fn``; symbolic sizes are drawn from their ranges."""
    fix = Specializer(draw(sizes_for(fn)))
    return tuple(draw(arrays(fix.type(p.type), special)) for p in fn.params)
