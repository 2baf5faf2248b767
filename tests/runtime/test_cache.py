"""The compile cache: what goes in comes out, damage is a miss, the bound holds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from leptonc.errors import ArtifactError
from leptonc.runtime import tensorfile
from leptonc.runtime.cache import CompileCache, cache_key
from leptonc.runtime.tensorfile import read_arrays, sampled_digest, write_arrays

KEY = cache_key("some", "key")
TEXTS = {"program.py": "def build(p):\n    pass  # é\n", "ir.txt": "%0 = relu(x)\n"}
ARRAYS = {
    "w": np.arange(96, dtype=np.float32).reshape(6, 16),
    "odd": np.arange(5, dtype=np.int8),
    "flag": np.array([True, False]),
    "half": np.ones((64, 3), np.float16),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def cache(tmp_path) -> CompileCache:
    return CompileCache(tmp_path / "root")


def assert_same(found, texts, arrays) -> None:
    assert found is not None
    assert dict(found.texts) == dict(texts)
    assert set(found.arrays) == set(arrays)
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_what_goes_in_comes_out(cache) -> None:
    assert cache.get(KEY) is None
    assert_same(cache.put(KEY, TEXTS, ARRAYS), TEXTS, ARRAYS)
    assert_same(cache.get(KEY), TEXTS, ARRAYS)
    assert_same(CompileCache(cache.root).get(KEY), TEXTS, ARRAYS)


def test_what_is_put_behind_is_there_for_whoever_looks(cache, monkeypatch) -> None:
    go, put = threading.Event(), cache._write
    monkeypatch.setattr(cache, "_write", lambda *a: go.wait(10) and put(*a))
    cache.put_behind(KEY, TEXTS, ARRAYS)
    assert not list((cache.root / "compile").glob("??/*/meta.json"))
    threading.Timer(0.05, go.set).start()
    assert CompileCache(cache.root).holds(KEY)  # another one waits, too
    assert_same(cache.get(KEY), TEXTS, ARRAYS)


def test_what_cannot_be_stored_is_said_before_it_is_put_behind(cache) -> None:
    with pytest.raises(ArtifactError, match="text file name"):
        cache.put_behind(KEY, {"meta.json": ""}, {})
    with pytest.raises(ArtifactError, match="cannot be stored"):
        cache.put_behind(KEY, {}, {"z": np.zeros(2, np.complex64)})
    assert not cache.holds(KEY)


_WRITER = """
import os, sys, time
import numpy as np
from leptonc.runtime import cache
write = cache.write_blocks
def slow(path, blocks):
    write(path, blocks)
    {middle}
cache.write_blocks = slow
cache.CompileCache(sys.argv[1]).put_behind(sys.argv[2], {{"a.txt": "a"}}, {{"a": np.arange(9)}})
"""


@pytest.mark.parametrize(("middle", "whole"), [("os._exit(1)", False), ("time.sleep(0.3)", True)])
def test_a_process_that_ends_leaves_a_whole_entry_or_none(cache, middle: str, whole: bool) -> None:
    """One that comes to its end finishes what it writes behind; one that is killed leaves none."""
    command = [sys.executable, "-c", _WRITER.format(middle=middle), str(cache.root), KEY]
    assert subprocess.run(command, check=False, timeout=60).returncode == (not whole)
    assert cache.holds(KEY) is whole
    if whole:
        assert_same(cache.get(KEY), {"a.txt": "a"}, {"a": np.arange(9)})


def test_arrays_are_mapped_read_only_and_aligned(cache) -> None:
    entry = cache.put(KEY, TEXTS, ARRAYS)
    for name in ("w", "half"):
        assert entry.arrays[name].ctypes.data % 64 == 0
        assert not entry.arrays[name].flags.writeable
        assert not entry.arrays[name].flags.owndata


def test_a_second_put_replaces_and_old_views_stay_valid(cache) -> None:
    old = cache.put(KEY, TEXTS, ARRAYS)
    new = {"w": np.zeros(3)}
    assert_same(cache.put(KEY, {"a.txt": ""}, new), {"a.txt": ""}, new)
    assert_same(old, TEXTS, ARRAYS)
    cache.clear()
    assert cache.get(KEY) is None
    assert_same(old, TEXTS, ARRAYS)


def test_directories_are_private(cache) -> None:
    entry = cache.put(KEY, TEXTS)
    for path in (entry.path, entry.path.parent, cache.root / "compile", cache.root):
        assert path.stat().st_mode & 0o777 == 0o700


def test_a_directory_open_to_others_is_not_used(cache) -> None:
    cache.put(KEY, TEXTS)
    (cache.root / "compile").chmod(0o777)
    assert cache.get(KEY) is None
    assert cache.put(KEY, TEXTS) is None


def test_turned_off(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LEPTONC_CACHE", "off")
    cache = CompileCache(tmp_path / "root")
    assert cache.put(KEY, TEXTS) is None and cache.get(KEY) is None
    assert not (tmp_path / "root").exists()


def test_a_root_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    cache = CompileCache(tmp_path / "file")
    assert cache.put(KEY, TEXTS) is None and cache.get(KEY) is None
    assert cache.report().entries == 0


@pytest.mark.parametrize("name", ["program.py", "ir.txt", "arrays.safetensors", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty", "longer"])
def test_damage_is_a_miss_and_can_be_put_again(cache, name: str, damage: str) -> None:
    path = cache.put(KEY, TEXTS, ARRAYS).path / name
    good = path.read_bytes()
    half = len(good) // 2
    if damage == "gone":
        path.unlink()
    else:
        bad = {
            "cut": good[:half],
            "flip": good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :],
            "empty": b"",
            "longer": good + b"x",
        }[damage]
        path.write_bytes(bad)
    assert cache.get(KEY) is None
    assert cache.report().entries == 0
    assert_same(cache.put(KEY, TEXTS, ARRAYS), TEXTS, ARRAYS)


@given(
    meta=st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["format", "texts", "arrays", "x"]), inner, max_size=4
            )
        ),
    )
)
@settings(deadline=None)
def test_any_description_is_survived(tmp_path_factory, meta) -> None:
    import json

    cache = CompileCache(tmp_path_factory.mktemp("cache"))
    entry = cache.put(KEY, TEXTS)
    (entry.path / "meta.json").write_text(json.dumps(meta))
    assert cache.get(KEY) is None


def test_the_least_recently_used_go_first(tmp_path) -> None:
    cache = CompileCache(tmp_path, max_bytes=36_000)
    keys = [cache_key(i) for i in range(4)]
    for age, key in enumerate(keys[:3]):
        path = cache.put(key, {}, {"a": np.zeros(1200)}).path / "meta.json"
        os.utime(path, (age + 1, age + 1))
    assert cache.get(keys[0]) is not None
    assert cache.put(keys[3], {}, {"a": np.zeros(1200)}) is not None
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    assert cache.report().nbytes <= 36_000


def test_what_is_larger_than_the_bound_is_not_stored(tmp_path) -> None:
    cache = CompileCache(tmp_path, max_bytes=10_000)
    small = cache.put(cache_key("small"), {}, {"a": np.zeros(10)})
    assert cache.put(KEY, {}, {"a": np.zeros(2000)}) is None
    assert cache.get(small.key) is not None


def test_report_and_clear(cache) -> None:
    (cache.root / "kernels" / "f").mkdir(parents=True)
    (cache.root / "kernels" / "f" / "k.o").write_bytes(b"12345")
    cache.put(KEY, TEXTS, ARRAYS)
    report = cache.report()
    assert (report.entries, report.kernel_bytes) == (1, 5)
    assert report.nbytes > 800
    assert "1 programs" in str(report)
    cache.clear()
    assert (cache.report().entries, cache.report().kernel_bytes) == (0, 5)
    cache.clear(kernels=True)
    assert cache.report().kernel_bytes == 0


def test_nothing_temporary_remains(cache) -> None:
    for i in range(5):
        cache.put(KEY, {"a.txt": str(i)})
    assert [p.name for p in (cache.root / "compile").iterdir()] == [KEY[:2]]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "meta.json", "arrays.safetensors"])
def test_text_names_are_checked(cache, name: str) -> None:
    with pytest.raises(ArtifactError, match="name"):
        cache.put(KEY, {name: ""})


@pytest.mark.parametrize("key", ["", "xyz", "../../../../etc/passwd", "A" * 32])
def test_keys_are_checked(cache, key: str) -> None:
    with pytest.raises(ArtifactError, match="key"):
        cache.get(key)


def test_an_array_that_cannot_be_stored(cache) -> None:
    with pytest.raises(ArtifactError, match="complex"):
        cache.put(KEY, {}, {"a": np.zeros(3, np.complex64)})
    assert cache.get(KEY) is None


def test_keys_do_not_run_together() -> None:
    assert cache_key("ab", "c") != cache_key("a", "bc") != cache_key("abc")
    assert cache_key("a", 1) == cache_key("a", 1)


def test_readers_and_writers_at_once(cache) -> None:
    wrong = []

    def work(seed: int) -> None:
        for i in range(25):
            value = np.full(200, seed * 1000 + i)
            cache.put(KEY, {"v.txt": str(value[0])}, {"v": value})
            entry = cache.get(KEY)
            if entry is not None and not (entry.arrays["v"] == int(entry.texts["v.txt"])).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert not wrong
    cache.put(KEY, TEXTS)
    assert_same(cache.get(KEY), TEXTS, {})


_DTYPES = st.sampled_from(["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "?"])


@given(
    st.dictionaries(
        st.text(max_size=8), hnp.arrays(_DTYPES, hnp.array_shapes(min_dims=0)), max_size=4
    )
)
@settings(deadline=None)
def test_tensor_files_are_safetensors(tmp_path_factory, arrays) -> None:
    arrays = {k: v for k, v in arrays.items() if k != "__metadata__"}
    path = Path(tmp_path_factory.mktemp("t")) / "a.safetensors"
    write_arrays(path, arrays)
    for found in (read_arrays(path), load_file(path)):
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()


def test_strided_arrays_are_stored_as_their_values(tmp_path) -> None:
    a = np.arange(12.0).reshape(3, 4).T
    write_arrays(tmp_path / "a", {"a": a})
    np.testing.assert_array_equal(read_arrays(tmp_path / "a")["a"], a)


def test_large_files_are_sampled(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tensorfile, "FULL_DIGEST_BYTES", 1000)
    path = tmp_path / "a"
    raw = bytes(range(256)) * 20_000
    path.write_bytes(raw)
    digest = sampled_digest(path)
    assert digest == sampled_digest(path)
    for bad in (raw[:-1], raw[1:] + b"x", b"x" + raw[1:], raw[:-1] + b"x"):
        path.write_bytes(bad)
        assert sampled_digest(path) != digest
