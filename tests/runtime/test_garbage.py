"""The collector is paused while anybody compiles, and is as it was afterwards."""

from __future__ import annotations

import gc
import linecache
import weakref

import pytest
import torch

from leptonc.runtime.garbage import Pause, Unread, release_trace


def test_pauses_nest():
    pause = Pause()
    assert gc.isenabled()
    with pause():
        with pause():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_ends_a_pause():
    pause = Pause()
    with pytest.raises(ValueError), pause():
        raise ValueError
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off():
    pause = Pause()
    gc.disable()
    try:
        with pause():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_sources_of_one_package_are_not_read(tmp_path):
    ours, other = tmp_path / "ours" / "a.py", tmp_path / "ours_too.py"
    ours.parent.mkdir()
    for path in (ours, other):
        path.write_text("a = 1\n")
    unread, before = Unread(str(ours.parent / "__init__.py")), linecache.getline
    with unread():
        with unread():
            assert linecache.getline(str(ours), 1) == ""
        assert linecache.getline(str(ours), 1) == ""
        assert str(ours) not in linecache.cache
        assert linecache.getline(str(other), 1) == "a = 1\n"
        assert linecache.getline(str(other), 1, None) == "a = 1\n"
        assert linecache.getlines(str(ours)) == ["a = 1\n"]
    assert linecache.getline is before
    assert linecache.getline(str(ours), 1) == "a = 1\n"


def test_the_last_trace_goes():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x * 2

    def graphs() -> int:
        gc.collect()
        # not isinstance: a weak proxy among them would ask what it stands for, which may be gone
        return sum(issubclass(type(o), torch.fx.Graph) for o in gc.get_objects())

    release_trace()
    before = graphs()
    torch.export.export(Twice(), (torch.zeros(3),))
    release_trace()
    assert graphs() == before


def test_cycles_of_a_trace_go_at_once_though_the_collector_is_paused():
    class Ring:
        pass

    with Pause()():
        ring = Ring()
        ring.itself, gone = ring, weakref.ref(ring)  # type: ignore[attr-defined]
        del ring
        assert gone() is not None
        release_trace()
        assert gone() is None
