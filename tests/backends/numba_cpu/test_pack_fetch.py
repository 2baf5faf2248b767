"""Packing what lies in a file: little is read at once, and neither pieces nor strides change bits.

And what a pool puts off is made later, as it would have been made at once.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import pack
from leptonc.backends.numba_cpu.kernels.winograd_plan import transform_weights
from leptonc.backends.numba_cpu.kernels.winograd_points import FORMS, Form
from leptonc.backends.numba_cpu.lower.core import ConstPool, aligned

SLICES = st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 3), st.integers(0, 40))


class Spy:
    """A fetch through one buffer, which forgets what it gave; notes the bytes of each call."""

    def __init__(self) -> None:
        self.spans: list[int] = []
        self.buffer = np.zeros(1 << 22, np.uint8)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        low, high = np.lib.array_utils.byte_bounds(array)
        self.spans.append(high - low)
        self.buffer[:] = 0xFF
        at = array.ctypes.data - low
        made = np.ndarray(array.shape, array.dtype, self.buffer.data, at, array.strides)
        made[...] = array
        return made


@given(SLICES)
def test_a_part_of_a_constant_packs_as_its_copy_does(cut: tuple[int, int, int, int]) -> None:
    first, rows, left, columns = cut
    whole = torch.arange(50.0 * 50).reshape(50, 50)
    part = whole[first : first + rows, left : left + columns]
    here, copy = meaning.elements_of(meaning.const_of(part)), part.clone().numpy()
    assert np.shares_memory(here, whole.numpy()) == bool(part.numel())
    assert np.array_equal(pack.pack_linear(here, Spy()), pack.pack_linear(copy))
    assert np.array_equal(aligned(here, Spy()), copy)


def test_the_last_panel_is_zero_beyond_its_columns() -> None:
    packed = pack.pack_linear(np.ones((pack.PANEL + 3, 5), np.float32))
    assert packed[1, :, :3].all() and not packed[1, :, 3:].any()


@pytest.mark.parametrize("part", [slice(None), slice(0, 256)])
@pytest.mark.parametrize("make", [pack.pack_linear, pack.pack_matrix, aligned])
def test_little_is_read_at_once(make, part: slice) -> None:
    weight = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)[:, part]
    spy = Spy()
    assert np.array_equal(make(weight, fetch=spy), make(weight))
    assert max(spy.spans) <= pack.PACE
    low, high = np.lib.array_utils.byte_bounds(weight)
    assert sum(spy.spans) >= weight.nbytes and len(spy.spans) >= (high - low) // pack.PACE


def test_weights_of_a_convolution_are_read_little_by_little() -> None:
    weight = np.random.default_rng(0).normal(size=(70, 96, 3, 3)).astype(np.float32)
    spy = Spy()
    assert np.array_equal(pack.pack_conv(weight, fetch=spy), pack.pack_conv(weight))
    assert max(spy.spans) <= pack.PACE


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("inner", [3, 96])
def test_winograd_s_weights_are_made_of_pieces(form: Form, inner: int) -> None:
    weight = np.random.default_rng(0).normal(size=(70, inner, *form.kernel)).astype(np.float32)
    spy = Spy()
    assert np.array_equal(transform_weights(weight, form, spy), transform_weights(weight, form))
    assert max(spy.spans) < weight.nbytes or inner == 3
    assert sum(spy.spans) == weight.nbytes  # each element once


def test_a_pool_puts_off_what_is_made_of_weights_and_nothing_else() -> None:
    made: list[str] = []

    def maker(name: str):
        return lambda: [made.append(name), np.full(3, len(name), np.float32)][1]

    pool = ConstPool(put_off=True)
    pool.get("weight", maker("weight"), owner=object())
    pool.get("table", maker("table"))
    pool.get("sized", maker("sized"), owner=object(), now=True)
    pool.get("weight", maker("weight again"), owner=object())
    assert made == ["table", "sized"]
    assert [a.size for a in pool.arrays] == [0, 3, 3]
    assert [(at, a.tolist()) for at, a in pool.made()] == [(0, [6.0] * 3)]
    assert made == ["table", "sized", "weight"]
    assert not list(pool.made())
