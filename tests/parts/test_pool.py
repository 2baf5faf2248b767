"""A pool of real threads: unlike members, members that fail, hang and return."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc import Dim, Pool
from leptonc.errors import InputError, PartError

from .dags import normal


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.005)
    assert not set(threading.enumerate()) - before


class Fake:
    """A member that takes ``seconds`` a row, counts, and fails when told to."""

    def __init__(self, name: str, seconds: float = 0.0) -> None:
        self.name, self.seconds = name, seconds
        self.error: BaseException | None = None
        self.hang: threading.Event | None = None
        self.seen: Counter[int] = Counter()

    def __call__(self, x: Tensor) -> Tensor:
        if self.hang is not None:
            self.hang.wait(10)
        if self.seconds:
            time.sleep(self.seconds * len(x))
        if self.error is not None:
            raise self.error
        self.seen.update(int(v) for v in x)
        return x * 2


def _row(value: int) -> Tensor:
    return torch.tensor([float(value)])


def test_every_request_is_answered_with_its_own_result() -> None:
    members = [Fake("a"), Fake("b")]
    with Pool(members) as pool:
        futures = [pool.submit(_row(i)) for i in range(50)]
        assert [int(f.result()) for f in futures] == [2 * i for i in range(50)]
        assert int(pool(_row(7))) == 14
    assert sum((m.seen for m in members), Counter()) == Counter([*range(50), 7])


def test_the_faster_member_gets_more() -> None:
    fast, slow = Fake("fast", 0.001), Fake("slow", 0.008)
    with Pool([fast, slow]) as pool:
        for f in [pool.submit(_row(i)) for i in range(8)]:
            f.result()  # speeds are known from here on
        before = fast.seen.total(), slow.seen.total()
        for f in [pool.submit(_row(i)) for i in range(40)]:
            f.result()
        more = fast.seen.total() - before[0], slow.seen.total() - before[1]
        assert more[0] > 2 * more[1], pool.report()
        rates = [m.per_second for m in pool.members]
        assert rates[0] > rates[1]


def test_a_batch_is_shared_by_speed_and_joined_in_order() -> None:
    fast, slow = Fake("fast", 0.001), Fake("slow", 0.004)
    x = torch.arange(40.0)
    with Pool([fast, slow], every=1) as pool:
        for _ in range(4):
            assert torch.equal(pool.batch(x), x * 2)
        fast.seen.clear(), slow.seen.clear()
        assert torch.equal(pool.batch(x), x * 2)
        assert fast.seen.total() > slow.seen.total()
        assert [int(y) for y in pool.batch([_row(i) for i in range(9)])] == [
            2 * i for i in range(9)
        ]
        with pytest.raises(InputError, match="no batch along axis 0"):
            pool.batch((3,))


def test_a_member_that_raises_is_out_and_its_requests_are_not_lost() -> None:
    good, bad = Fake("good", 0.001), Fake("bad", 0.001)
    with Pool([bad, good]) as pool:
        for f in [pool.submit(_row(i)) for i in range(6)]:
            f.result()
        bad.error = RuntimeError("out of memory")
        good.seen.clear()
        futures = [pool.submit(_row(i)) for i in range(30)]
        assert [int(f.result()) for f in futures] == [2 * i for i in range(30)]
        assert good.seen == Counter(range(30)), "each answered once"
        state = next(m for m in pool.members if m.name == "bad")
        assert (state.state, state.failed) == ("down", 1)
        assert "RuntimeError: out of memory" in state.error and "bad" in pool.report()
        x = torch.arange(10.0)
        assert torch.equal(pool.batch(x), x * 2)


def test_a_member_that_dies_in_the_middle_of_a_batch() -> None:
    members = [Fake("a", 0.002), Fake("b", 0.002), Fake("c", 0.002)]
    x = torch.arange(30.0)
    with Pool(members) as pool:
        assert torch.equal(pool.batch(x), x * 2)
        members[1].error = SystemExit("killed")
        assert torch.equal(pool.batch(x), x * 2)
        assert [m.state for m in pool.members] == ["up", "down", "up"]


def test_when_all_are_out_the_first_cause_is_told() -> None:
    members = [Fake("a"), Fake("b")]
    members[0].error, members[1].error = ValueError("first"), KeyError("second")
    with Pool(members) as pool:
        with pytest.raises(PartError, match=r"all 2 .*a: ValueError: first.*b: KeyError") as e:
            pool(_row(1))
        assert isinstance(e.value.__cause__, ValueError)
        with pytest.raises(PartError, match="all 2 members") as e:
            pool(_row(1))
        assert isinstance(e.value.__cause__, ValueError)
        with pytest.raises(PartError, match="all 2 members"):
            pool.batch(torch.arange(4.0))


def test_retries_are_limited() -> None:
    members = [Fake("a"), Fake("b"), Fake("c")]
    members[0].error = members[1].error = ValueError("no")
    with Pool(members, retries=1) as pool, pytest.raises(PartError, match=r"failed on 2 members"):
        for _ in range(3):
            pool(_row(1))


def test_the_callers_own_mistake_takes_nobody_out() -> None:
    members = [Fake("a"), Fake("b")]
    for m in members:
        m.error = InputError("x: wrong shape")
    with Pool(members) as pool:
        with pytest.raises(InputError, match="x: wrong shape"):
            pool(_row(1))
        assert all(m.state == "up" for m in pool.members)
    for m in members:
        m.error = TypeError("missing argument")
    with Pool(members, caller_errors=(InputError, TypeError)) as pool:
        with pytest.raises(TypeError, match="missing"):
            pool(_row(1))
        assert all(m.state == "up" for m in pool.members)


def test_a_member_that_hangs_is_out_at_the_deadline() -> None:
    stuck, good = Fake("stuck"), Fake("good", 0.001)
    with Pool([stuck, good], deadline_s=0.5, probe=_row(0), probe_s=0.01) as pool:
        for f in [pool.submit(_row(i)) for i in range(4)]:
            f.result()
        stuck.hang = threading.Event()
        start = time.monotonic()
        futures = [pool.submit(_row(i)) for i in range(8)]
        late = 0
        for i, f in enumerate(futures):
            try:
                assert int(f.result(5)) == 2 * i
            except PartError as e:
                assert "no answer within 0.5 s" in str(e)
                late += 1
        assert time.monotonic() - start < 3
        assert late >= 1 and {m.name: m.state for m in pool.members}["stuck"] == "down"
        assert int(pool(_row(3))) == 6, "the others go on"
        stuck.hang.set()  # its late answer counts for nothing, and it may come back
        end = time.monotonic() + 5
        while "down" in [m.state for m in pool.members] and time.monotonic() < end:
            time.sleep(0.005)
        assert [m.state for m in pool.members] == ["up", "up"]


def test_a_member_that_got_a_request_late_is_not_to_blame() -> None:
    busy = Fake("busy")
    busy.hang = threading.Event()
    with Pool([busy], deadline_s=2.0) as pool:
        first, second = pool.submit(_row(1)), pool.submit(_row(2))
        time.sleep(1.2)
        gate, busy.hang = busy.hang, threading.Event()
        gate.set()
        assert int(first.result(5)) == 2
        with pytest.raises(PartError, match=r"no answer within 2 s: busy is still at it"):
            second.result(5)
        assert [m.state for m in pool.members] == ["up"]
        busy.hang.set()


def test_a_member_that_is_well_again_returns() -> None:
    ill, good = Fake("ill"), Fake("good")
    with Pool([ill, good], probe=_row(0), probe_s=0.02) as pool:
        ill.error = RuntimeError("for now")
        for i in range(4):
            pool(_row(i))
        assert "down" in [m.state for m in pool.members]
        time.sleep(0.1)
        assert "down" in [m.state for m in pool.members], "probes fail still"
        ill.error = None
        end = time.monotonic() + 5
        while "down" in [m.state for m in pool.members] and time.monotonic() < end:
            time.sleep(0.005)
        assert [m.state for m in pool.members] == ["up", "up"]


def test_closing_answers_everything() -> None:
    pool = Pool([Fake("a", 0.002)])
    futures = [pool.submit(_row(i)) for i in range(10)]
    pool.close()
    assert [int(f.result(0)) for f in futures] == [2 * i for i in range(10)]
    with pytest.raises(PartError, match="closed"):
        pool(_row(1))
    slow = Fake("slow", 0.05)
    pool = Pool([slow])
    futures = [pool.submit(_row(i)) for i in range(10)]
    pool.close(0.06)
    told = [f.exception(1) for f in futures]
    assert told[0] is None and isinstance(told[-1], PartError)


def test_a_pool_that_is_forgotten_is_closed() -> None:
    pool = Pool([Fake("a")])
    assert int(pool(_row(2))) == 4
    del pool  # the fixture sees its thread end


def test_a_request_that_was_cancelled_is_not_run() -> None:
    slow = Fake("slow", 0.05)
    with Pool([slow]) as pool:
        first, second = pool.submit(_row(1)), pool.submit(_row(2))
        assert second.cancel()
        assert int(first.result()) == 2
        assert int(pool(_row(3))) == 6
    assert slow.seen == Counter([1, 3])


def test_callbacks_may_use_the_pool() -> None:
    with Pool([Fake("a"), Fake("b")]) as pool:
        found: list[Future[Tensor]] = []
        done = threading.Event()

        def more(_: object) -> None:
            found.append(pool.submit(_row(5)))
            done.set()

        pool.submit(_row(1)).add_done_callback(more)
        assert done.wait(5) and int(found[0].result(5)) == 10


def test_compiled_nets_as_members() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x = normal(12, 16)
    sizes = {"input": {0: Dim("batch", max=64)}}
    made = [leptonc.compile(net, x, dynamic=sizes, threads=1) for _ in range(2)]
    with Pool({"left": made[0], "right": made[1]}) as pool:
        torch.testing.assert_close(pool.batch(x), net(x).detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(pool(x), made[0](x))
        with pytest.raises(InputError, match="input"):
            pool(normal(12, 17))
        assert [m.name for m in pool.members] == ["left", "right"]
        assert repr(pool) == "<leptonc.Pool: 2 of 2 members up>"


def test_a_pool_needs_members() -> None:
    with pytest.raises(PartError, match="at least one"):
        Pool([])
