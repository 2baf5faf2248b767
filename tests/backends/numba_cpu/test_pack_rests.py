"""Packing from a mapped file: it rests often enough, and strides and rests change no bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import pack
from leptonc.backends.numba_cpu.lower.core import ConstPool, aligned

SLICES = st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 3), st.integers(0, 40))


@given(SLICES)
def test_a_part_of_a_constant_packs_as_its_copy_does(cut: tuple[int, int, int, int]) -> None:
    first, rows, left, columns = cut
    whole = torch.arange(50.0 * 50).reshape(50, 50)
    part = whole[first : first + rows, left : left + columns]
    here, copy = meaning.elements_of(meaning.const_of(part)), part.clone().numpy()
    assert np.shares_memory(here, whole.numpy()) == bool(part.numel())
    assert np.array_equal(pack.pack_linear(here), pack.pack_linear(copy))
    assert np.array_equal(aligned(here), copy)


def test_the_last_panel_is_zero_beyond_its_columns() -> None:
    packed = pack.pack_linear(np.ones((pack.PANEL + 3, 5), np.float32))
    assert packed[1, :, :3].all() and not packed[1, :, 3:].any()


@pytest.mark.parametrize("part", [slice(None), slice(0, 256)])
def test_between_rests_no_more_than_a_pace_is_read(part: slice) -> None:
    weight = np.ones((2048, 1024), np.float32)[:, part]
    low, high = np.lib.array_utils.byte_bounds(weight)
    for make in (pack.pack_linear, aligned):
        rests = []
        make(weight, lambda rests=rests: rests.append(1))
        assert (high - low) / (len(rests) + 1) <= pack.PACE


def test_a_pool_rests_after_what_it_made() -> None:
    rests = []
    pool = ConstPool(rest=lambda: rests.append(1))
    for _ in range(2):
        pool.get("a", lambda: np.ones(3, np.float32))
    assert len(rests) == 1
