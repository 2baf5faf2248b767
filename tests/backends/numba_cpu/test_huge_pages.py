"""Pages that are put together: which blocks, and that nothing in them changes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc.backends.numba_cpu import huge_pages
from leptonc.backends.numba_cpu.huge_pages import BLOCK, LEAST, anonymous, blocks, gather
from leptonc.bench import gemv

MAPS = """\
55d0c0000000-55d0c0400000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000800000 r--p 00000000 08:01 131 /lib/libc.so.6
7f0000800000-7f0000900000 rw-p 00800000 08:01 131 /lib/libc.so.6
7f0001000000-7f0001200000 rw-p 00000000 00:00 0
7f0001200000-7f0001201000 ---p 00000000 00:00 0
7f0001400000-7f0001600000 rw-s 00000000 00:05 9 /dev/shm/group (deleted)
"""

_places = st.lists(st.integers(0, 64), min_size=2, max_size=12, unique=True).map(sorted)


def _spans(cuts: list[int]) -> list[tuple[int, int]]:
    """Return spans between every other two of the cuts, in eighths of a block."""
    return [(a * BLOCK // 8, b * BLOCK // 8) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]


def test_memory_of_files_and_of_other_processes_is_left_alone():
    assert anonymous(MAPS) == [
        (0x55D0C0000000, 0x55D0C0400000), (0x7F0001000000, 0x7F0001200000)
    ]  # fmt: skip


@given(_places, _places)
def test_blocks_lie_in_one_mapping_and_are_nearly_full(weights: list[int], mapped: list[int]):
    spans, mappings = _spans(weights), _spans(mapped)
    want = []
    for block in range(0, 8 * BLOCK, BLOCK):
        eighths = range(block, block + BLOCK, BLOCK // 8)
        full = sum(any(s <= e < t for s, t in spans) for e in eighths)
        inside = any(s <= block and block + BLOCK <= t for s, t in mappings)
        if full >= 7 and inside:
            want.append(block)
    assert blocks(spans, mappings) == want


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such call elsewhere")
def test_what_pages_hold_stays():
    rng = np.random.default_rng(0)
    size = 300_000
    arrays = [rng.integers(0, 256, size, np.uint8) for _ in range(2 * LEAST // size)]
    before = [a.copy() for a in arrays]
    made = gather(arrays)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    enough = Path("/sys/kernel/mm/transparent_hugepage").is_dir()
    assert made == 0 or enough


def test_few_weights_are_left_where_they_lie(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huge_pages, "anonymous", lambda text: pytest.fail("looked for pages"))
    assert gather([np.zeros(LEAST // 2, np.uint8)]) == 0


@pytest.mark.numba
@pytest.mark.parametrize("form", gemv.FORMS)
def test_a_program_asks_for_all_that_a_token_reads(form: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(gemv, "LAYERS", 2)
    monkeypatch.setattr(gemv, "VOCABULARY", 64)
    monkeypatch.setattr(huge_pages, "gather", lambda arrays: asked.append(_bytes(arrays)))
    bits, group = gemv.FORMS[form]
    captured, read = gemv.decoder(bits, group, 1)
    net = leptonc.compile(
        leptonc.compress.raise_(captured), torch.zeros(1, gemv.WIDTH), verify="off", cache=False
    )
    assert net.schedule.steps
    # Beside the weights and their scales, one correction for each column of 8-bit codes.
    assert read <= asked[-1] <= read * 1.02


def _bytes(arrays: list[np.ndarray]) -> int:
    return sum(a.nbytes for a in arrays)
