"""Stages in threads: order, bounds, failures, deadlines, and no thread left."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc.errors import InputError, PartError
from leptonc.parts.pipeline import Stage, run_stages


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.005)
    assert not set(threading.enumerate()) - before


def _raise(error: BaseException):
    def run(item):
        if item == 3:
            raise error
        return item

    return run


@given(st.lists(st.integers(), max_size=12), st.integers(1, 4), st.integers(1, 3))
def test_results_come_in_order(items: list[int], stages: int, depth: int) -> None:
    line = [Stage(f"s{i}", lambda x, i=i: (*x, i)) for i in range(stages)]
    got = run_stages(line, [(x,) for x in items], depth=depth)
    assert got == [(x, *range(stages)) for x in items]


def test_stages_run_at_the_same_time_and_wait_for_each_other() -> None:
    both = threading.Barrier(2)

    def meet(item: int) -> int:
        # The second stage's first item and the first stage's second: together or never.
        if item == 1:
            both.wait(10)
        return item + 1

    assert run_stages([Stage("a", meet), Stage("b", meet)], [0, 1], deadline_s=20) == [2, 3]


def test_no_more_than_depth_items_wait() -> None:
    made: list[int] = []
    go = threading.Event()

    def slow(item: int) -> int:
        go.wait(10)
        return item

    def quick(item: int) -> int:
        made.append(item)
        if len(made) == 3:
            threading.Timer(0.1, go.set).start()
        assert len(made) <= 4 or go.is_set(), "one in the slow stage, two waiting, one in the hand"
        return item

    assert run_stages([Stage("quick", quick), Stage("slow", slow)], range(8), depth=2)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_that_raises_ends_all_and_is_named(stage: int) -> None:
    line = [Stage(f"s{i}", lambda x: x) for i in range(3)]
    error = ValueError("broken")
    line[stage] = Stage("the culprit", _raise(error))
    with pytest.raises(PartError, match="culprit on micro-batch 4 of 9 failed: ValueError: b") as e:
        run_stages(line, range(9))
    assert e.value.__cause__ is error
    line[stage] = Stage("the culprit", _raise(InputError("x has the wrong shape")))
    with pytest.raises(InputError, match="the culprit on micro-batch 4 of 9: x has"):
        run_stages(line, range(9))


def test_a_deadline_names_who_is_at_work() -> None:
    release = threading.Event()
    line = [Stage("first", lambda x: x), Stage("stuck", lambda x: release.wait(10) and x)]
    start = time.monotonic()
    with pytest.raises(PartError, match=r"0 of 2 results after .* 0.1 s; .*stuck is at"):
        run_stages(line, [1, 2], deadline_s=0.1)
    assert time.monotonic() - start < 5
    release.set()


def test_the_mode_of_autograd_is_the_callers() -> None:
    line = [Stage("a", lambda _: torch.is_grad_enabled())]
    with torch.no_grad():
        assert run_stages(line, [0]) == [False]
    assert run_stages(line, [0]) == [True]
