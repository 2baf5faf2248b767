"""Work behind: it goes on alone, whoever waits sees it done, a forked child does not wait."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.runtime.behind import Behind


@given(st.integers(0, 6), st.integers(1, 3))
def test_all_that_was_begun_is_done_after_waiting(count: int, waiters: int) -> None:
    behind, go, done = Behind(), threading.Event(), list[int]()
    for i in range(count):
        behind.begin(lambda i=i: go.wait(10) and done.append(i))
    assert done == []
    seen = list[int]()

    def wait() -> None:
        behind.wait()
        seen.append(len(done))

    threads = [threading.Thread(target=wait) for _ in range(waiters)]
    for t in threads:
        t.start()
    go.set()
    for t in threads:
        t.join()
    assert seen == [count] * waiters and sorted(done) == list(range(count))
    assert not behind._running


def test_where_no_thread_can_start_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    behind, done = Behind(), list[int]()
    behind.begin(lambda: done.append(1))
    behind.wait()
    assert done == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_waits_for_nothing() -> None:
    behind, go = Behind(), threading.Event()
    behind.begin(lambda: go.wait(10))
    child = os.fork()
    if child == 0:
        behind.wait()
        os._exit(7)
    _, status = os.waitpid(child, 0)
    go.set()
    behind.wait()
    assert os.waitstatus_to_exitcode(status) == 7
