"""Inputs of drawn functions: sizes from their ranges, hard values, any strides."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from leptonc.ir.core import Function
from leptonc.ir.specialize import Specializer
from leptonc.ir.types import TensorType
from leptonc.meaning import TORCH_DTYPES

from .arrays import arrays, sizes_for
from .models import ROWS

FLAVOURS = ("ordinary", "whole", "zeros", "tiny", "large")


def _flavoured(type_: TensorType, flavour: str, seed: int) -> torch.Tensor:
    """Return floats of one flavour: a normal sample, whole, signed zeros, denormals, large."""
    g = torch.Generator().manual_seed(seed)
    t = torch.randn(type_.shape, generator=g)
    if flavour == "whole":
        t = torch.randint(-3, 4, type_.shape, generator=g).float()
    elif flavour == "zeros":
        t = torch.where(t < -1, 1.0, torch.where(t < 0, -0.0, 0.0))
    elif flavour in ("tiny", "large"):
        t = t * (1e-41 if flavour == "tiny" else 1e4)
    return t.to(TORCH_DTYPES[type_.dtype])


@st.composite
def inputs(draw: st.DrawFn, fn: Function, special: bool = False) -> tuple[torch.Tensor, ...]:
    """Draw one contiguous tensor per parameter; integers are indices below ``models.ROWS``.

    Args:
        draw: supplied by Hypothesis.
        fn: a function of ``models``.
        special: mix in NaN, infinities and the extremes.
    """
    fix = Specializer(draw(sizes_for(fn)))
    flavour, made = draw(st.sampled_from(FLAVOURS)), list[torch.Tensor]()
    for p in fn.params:
        type_ = fix.type(p.type)
        if type_.dtype.is_int:
            g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
            t = torch.randint(0, ROWS, type_.shape, generator=g)
            made.append(t.to(TORCH_DTYPES[type_.dtype]))
        elif special:
            made.append(draw(arrays(type_)))
        else:
            made.append(_flavoured(type_, flavour, draw(st.integers(0, 99))))
    return tuple(made)


@st.composite
def strided(draw: st.DrawFn, t: torch.Tensor) -> torch.Tensor:
    """Return the elements of ``t`` at drawn strides: permuted, with gaps, at an odd address.

    Axes of size one get any stride, as torch lets them.
    """
    order = draw(st.permutations(range(t.dim())))
    gaps = [draw(st.integers(1, 2)) for _ in order]
    start = draw(st.integers(0, 3))
    strides, step = [0] * t.dim(), 1
    for a, gap in zip(reversed(order), gaps, strict=True):
        strides[a] = step * gap
        step *= gap * max(t.shape[a], 1)
    made = torch.full((start + step + 1,), -7, dtype=t.dtype).as_strided(t.shape, strides, start)
    made.copy_(t)
    return made
