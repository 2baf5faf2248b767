"""Pages of files that were read once are let go, and nothing else is."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.runtime import pages
from leptonc.runtime.pages import borrowed, let_go
from leptonc.runtime.tensorfile import read_arrays, write_arrays

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
PAGE = mmap.PAGESIZE
COUNT = 8 * pages._LEAST // PAGE + 5
PRIVATE, ANONYMOUS = (getattr(mmap, f"MAP_{name}", 0) for name in ("PRIVATE", "ANONYMOUS"))


def resident(array: np.ndarray) -> int:
    """Return how many pages of ``array``'s memory this process has, of those it covers wholly."""
    first = -(-array.ctypes.data // PAGE)
    behind = max(first, (array.ctypes.data + array.nbytes) // PAGE)
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(8 * first)
        words = np.frombuffer(file.read(8 * (behind - first)), np.uint64)
    return int((words >> np.uint64(63)).sum())


@linux
@given(sizes=st.lists(st.integers(0, 5 * PAGE), min_size=1, max_size=6), at=st.integers(0, 5))
def test_an_array_of_a_file_is_let_go_and_read_anew(sizes, at, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("pages") / "arrays"
    plain = {str(i): np.arange(n, dtype=np.uint8) for i, n in enumerate(sizes)}
    write_arrays(path, plain)
    found = read_arrays(path)
    assert all(np.array_equal(found[k], v) for k, v in plain.items())
    one = found[str(at % len(sizes))]
    let_go(one)
    if one.nbytes:
        assert resident(one) == 0
    assert all(np.array_equal(found[k], v) for k, v in plain.items())


@linux
@pytest.mark.parametrize("mapped", [False, True])
def test_memory_of_no_file_is_kept(mapped: bool) -> None:
    own = np.zeros(4 * PAGE)
    if mapped:
        own = np.frombuffer(mmap.mmap(-1, 4 * PAGE, flags=PRIVATE | ANONYMOUS), np.uint8)
    own[:] = 1
    own = own.view()
    own.flags.writeable = False
    let_go(own)
    assert (own == 1).all()


@pytest.fixture
def library(tmp_path):
    """Map a file as a library's constants are: private, for reading; yield bytes and a writer."""
    path = tmp_path / "lib.so.1"
    path.write_bytes(bytes(range(256)) * (COUNT * PAGE // 256))
    with open(path, "rb") as file:
        block = mmap.mmap(file.fileno(), 0, flags=PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    data = np.frombuffer(block, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)

    def protect(flags: int) -> None:
        assert libc.mprotect(ctypes.c_void_p(data.ctypes.data), len(data), flags) == 0

    protect(mmap.PROT_READ)
    yield data, protect
    protect(mmap.PROT_READ | mmap.PROT_WRITE)


@linux
def test_what_came_in_since_the_block_began_goes(library) -> None:
    data, _ = library
    assert data[0] == 0 and data[-1] == 255  # the system brings in pages beside them, too
    before = resident(data)
    assert 0 < before < COUNT
    with borrowed():
        total = int(data.sum())
        assert resident(data) == COUNT
    assert resident(data) == before
    assert int(data.sum()) == total


@linux
def test_what_a_process_changed_is_its_own_and_stays(library) -> None:
    data, protect = library
    with borrowed():
        data.sum()
        protect(mmap.PROT_READ | mmap.PROT_WRITE)
        data[2 * PAGE : 2 * PAGE + 4] = 77  # as the linker does, or a debugger
        protect(mmap.PROT_READ)
    assert data[2 * PAGE : 2 * PAGE + 6].tolist() == [77, 77, 77, 77, 4, 5]
    assert resident(data) == 1


def test_without_proc_nothing_is_done(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pages, "_PROC", tmp_path)
    monkeypatch.setattr(pages, "_drop", lambda *_: pytest.fail("nothing is known of pages"))
    with borrowed():
        pass
