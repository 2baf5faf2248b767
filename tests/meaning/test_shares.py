"""What constants tell of their elements: zeros (by a sample where there are none), sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.meaning.constants import _SAMPLE, _in_memory_order

SHAPES = st.lists(st.integers(0, 24), max_size=4)


@given(SHAPES, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_memory_needs_no_copy_and_loses_no_element(shape, random, flipped) -> None:
    order = random.sample(range(len(shape)), len(shape))
    tensor = torch.arange(math.prod(shape)).reshape([shape[i] for i in order])
    tensor = tensor.permute([order.index(i) for i in range(len(shape))])
    assert list(tensor.shape) == shape
    flat = _in_memory_order(tensor).reshape(-1)
    assert flat.tolist() == list(range(tensor.numel()))
    if tensor.numel():
        assert flat.data_ptr() == tensor.data_ptr()


@given(st.integers(0, 4), st.integers(1, 3), st.booleans(), st.sampled_from([0.4, 1.0]))
def test_few_elements_are_counted(zeros, channels, last, enough) -> None:
    tensor = torch.ones(8, channels, 4, 4)
    tensor[:zeros] = 0.0
    tensor = tensor.contiguous(memory_format=torch.channels_last) if last else tensor
    assert meaning.nonzero_share(meaning.const_of(tensor), enough) == 1 - zeros / 8


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("period", [2, 64, 256])
def test_columns_without_zeros_do_not_hide_the_others(period: int, last: bool) -> None:
    tensor = torch.zeros(64, 1024, 8, 8)
    tensor[:, ::period] = 1.0
    assert tensor.numel() > _SAMPLE
    tensor = tensor.contiguous(memory_format=torch.channels_last) if last else tensor
    found = meaning.nonzero_share(meaning.const_of(tensor), 0.4)
    assert found == 1 / period


def test_what_has_no_zeros_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[int]()
    count = torch.count_nonzero
    monkeypatch.setattr(torch, "count_nonzero", lambda t: looked.append(t.numel()) or count(t))
    const = meaning.const_of(torch.ones(256, 256, 3, 3))
    assert meaning.nonzero_share(const, 0.4) == 1.0
    assert len(looked) == 1
    assert looked[0] <= 2 * _SAMPLE


def test_rows_are_compared_that_lie_half_of_them_apart() -> None:
    half = meaning.PAIRED
    tensor = torch.ones(2 * half + 5, 8)
    assert meaning.unevenness(meaning.const_of(tensor)) == 1.0
    tensor[2, 3] = -9.0
    tensor[half + 1] = 3.0
    tensor[2 * half :] = 100.0  # with none
    assert meaning.unevenness(meaning.const_of(tensor)) == 9.0
    tensor[half + 1] = 0.0
    assert meaning.unevenness(meaning.const_of(tensor)) == math.inf
    tensor[1] = 0.0
    assert meaning.unevenness(meaning.const_of(tensor)) == 9.0
    for odd in (math.inf, math.nan):
        tensor[2, 3] = odd
        assert meaning.unevenness(meaning.const_of(tensor)) == math.inf
    for rows, columns in ((0, 3), (1, 3), (meaning.PAIRED - 1, 3), (meaning.PAIRED, 0)):
        assert meaning.unevenness(meaning.const_of(torch.ones(rows, columns))) == 1.0


def test_unevenness_is_kept_and_not_sought_elsewhere() -> None:
    const = meaning.const_of(torch.ones(4, 4))
    meaning.set_unevenness(const, 7.0)
    assert meaning.unevenness(const) == 7.0

    def read() -> torch.Tensor:
        raise AssertionError("was read")

    away = Const(const.type, meaning.Later(read), lambda _: "away")
    assert meaning.unevenness(away) == math.inf
