"""Weights on huge pages: the copies are right, apart from each other, and where huge pages are."""

from __future__ import annotations

import mmap
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from leptonc.backends.numba_cpu.lower.core import ConstPool, _has_room
from leptonc.runtime.slabs import FEWEST, HUGE, LINE, MOST, SLAB, Slabs

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="asks for huge pages")

_SIZES = st.integers(0, 3 * FEWEST) | st.sampled_from([FEWEST - 1, FEWEST, HUGE + 1])
_TYPES = st.sampled_from([np.uint8, np.int8, np.float32])


def _array(nbytes: int, typ: type[np.generic], seed: int) -> np.ndarray:
    raw = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
    return raw[: nbytes // np.dtype(typ).itemsize * np.dtype(typ).itemsize].view(typ)


def _opened() -> Slabs:
    """Return slabs that have seen enough to copy what comes."""
    slabs = Slabs()
    for _ in range(HUGE // FEWEST):
        slabs.placed(np.zeros(FEWEST, np.uint8))
    return slabs


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(_SIZES, _TYPES), min_size=1, max_size=8))
def test_copies_hold_the_bytes_and_do_not_touch_each_other(drawn: list) -> None:
    slabs = _opened()
    arrays = [_array(n, typ, seed) for seed, (n, typ) in enumerate(drawn)]
    placed = [slabs.placed(a) for a in arrays]
    del slabs  # their memory lives as long as what lies in it
    for a, p in zip(arrays, placed, strict=True):
        assert p.dtype == a.dtype and p.shape == a.shape and p.tobytes() == a.tobytes()
        assert (p is a) == (a.nbytes < FEWEST)
    spans = sorted(
        (p.ctypes.data, p.ctypes.data + p.nbytes)
        for a, p in zip(arrays, placed, strict=True)
        if p is not a
    )
    assert all(start % LINE == 0 for start, _ in spans)
    assert all(end + LINE <= start for (_, end), (start, _) in pairwise(spans))


def test_a_line_of_zeros_stands_behind_every_copy() -> None:
    slabs = _opened()
    placed = [slabs.placed(np.full(n, 255, np.uint8)) for n in (FEWEST, FEWEST + 1, FEWEST + 63)]
    for p in placed:
        base = p.base
        assert isinstance(base, np.ndarray) and _has_room(p)
        end = p.ctypes.data + p.nbytes - base.ctypes.data
        assert not base[end : end + LINE].any()


def test_few_weights_stay_where_they_are() -> None:
    slabs, one = Slabs(), np.ones(FEWEST, np.uint8)
    placed = [slabs.placed(one) is one for _ in range(HUGE // FEWEST)]
    assert placed == [True] * (HUGE // FEWEST - 1) + [False]


@given(st.integers(0, 2 * HUGE))
def test_slabs_that_expect_enough_copy_the_first_array(expected: int) -> None:
    one = np.ones(FEWEST, np.uint8)
    assert (Slabs(expected).placed(one) is not one) == (expected + FEWEST >= HUGE)


def test_a_slab_that_is_full_is_followed_by_another() -> None:
    slabs, large = _opened(), np.arange(MOST // 8 - 1)
    placed = [slabs.placed(large) for _ in range(2 * SLAB // MOST + 1)]
    assert all((p == large).all() for p in placed)
    assert len({id(p.base) for p in placed}) > 1


def test_the_system_is_asked_for_huge_pages() -> None:
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("tells nothing about memory")
    placed = _opened().placed(np.ones(FEWEST, np.uint8))
    assert "hg" in _flags(smaps.read_text(), placed.ctypes.data)


def _flags(smaps: str, address: int) -> list[str]:
    """Return the flags of the mapping that holds an address."""
    inside = False
    for line in smaps.splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":") and "-" in first:
            start, end = (int(x, 16) for x in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    return []


def test_a_pool_places_the_weights_of_a_model_and_nothing_else() -> None:
    pool, owner = ConstPool(), object()
    made = [np.full(HUGE // 2, i, np.uint8) for i in range(4)]
    for i, array in enumerate(made):
        pool.get(i, lambda array=array: array, owner)
    pool.get("table", lambda: np.zeros(HUGE, np.uint8))
    assert [(a == i).all() for i, a in enumerate(pool.arrays[:4])] == [True] * 4
    slabs = {id(a.base) for a in pool.arrays[1:4]}
    assert len(slabs) == 1 and id(pool.arrays[0].base) not in slabs
    assert id(pool.arrays[4].base) not in slabs


def test_a_pool_leaves_what_was_stored_where_it_is_mapped() -> None:
    stored = [np.zeros(HUGE, np.uint8) for _ in range(2)]
    pool = ConstPool(stored=list(stored))
    for i in range(2):
        pool.get(i, lambda: np.ones(1), object())
    assert all(a is b for a, b in zip(pool.arrays, stored, strict=True))
