"""The collector is paused while anybody compiles, and is as it was afterwards."""

from __future__ import annotations

import gc

import pytest

from leptonc.runtime.garbage import Pause


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
