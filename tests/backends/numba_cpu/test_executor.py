"""Programs and worker teams: same bits for any thread count, no hang, no crash, no idle cost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from leptonc.backends.numba_cpu import native, team_words
from leptonc.backends.numba_cpu.atomics import (
    HAS_CLOCK,
    HAS_CORE_MASK,
    HAS_FUTEX,
    load,
    pause,
    store,
)
from leptonc.backends.numba_cpu.context import Step, phases
from leptonc.backends.numba_cpu.executor import Program, aligned, array_at
from leptonc.backends.numba_cpu.kernels.base import kernel, slot_bits
from leptonc.backends.numba_cpu.native import NOTHING
from leptonc.backends.numba_cpu.pool import TEAMS, Team, usable_cores
from leptonc.errors import TargetError

pytestmark = pytest.mark.numba
ROOT = Path(__file__).parents[3]
N = 96


@kernel
def shuffle_add(args, tid, nt):
    """y[i] = 3 * x[(i + shift) % n] + c: reads what other threads wrote in the step before."""
    x, y, n = load(args), load(args + 8), load(args + 16)
    shift, c = load(args + 24), load(args + 32)
    for i in range(n * tid // nt, n * (tid + 1) // nt):
        store(y + 8 * i, 3 * load(x + 8 * ((i + shift) % n)) + c)


@kernel
def slow_first(args, tid, nt):
    """y[i] = c, but thread 0 takes its time."""
    y, n, c, pauses = load(args), load(args + 8), load(args + 16), load(args + 24)
    if tid == 0:
        for _ in range(pauses):
            pause()
    for i in range(n * tid // nt, n * (tid + 1) // nt):
        store(y + 8 * i, c)


@kernel
def who(args, tid, nt):
    """y[tid] = 100 * nt + tid + 1."""
    store(load(args) + 8 * tid, 100 * nt + tid + 1)


@kernel
def echo(args, tid, nt):
    """y[i] = the record's word i + 1."""
    if tid == 0:
        for i in range(6):
            store(load(args) + 8 * i, load(args + 8 + 8 * i))


@kernel
def use_scratch(args, tid, nt):
    """Each thread fills its scratch words, then y[tid] = their sum."""
    y, mine = load(args), load(args + 8) + tid * load(args + 16)
    words = load(args + 24)
    for i in range(words):
        store(mine + 8 * i, tid + i)
    total = 0
    for i in range(words):
        total += load(mine + 8 * i)
    store(y + 8 * tid, total)


def words(n: int = N) -> np.ndarray:
    return np.zeros(n, np.int64)


def chain(threads: int, steps: list[tuple[int, int, bool]], **options) -> Program:
    """Return a program of many ``shuffle_add``; ``steps``: shift, c, serial."""
    p = Program(threads=threads, arena_bytes=2 * 8 * N, inputs=1, outputs=1, **options)
    for i, (shift, c, serial) in enumerate(steps):
        x = p.input(0) if i == 0 else p.arena(8 * N * ((i - 1) % 2))
        y = p.output(0) if i == len(steps) - 1 else p.arena(8 * N * (i % 2))
        p.step(shuffle_add, x, y, N, shift, c, serial=serial)
    return p


def expected(x: np.ndarray, steps: list[tuple[int, int, bool]]) -> np.ndarray:
    for shift, c, _ in steps:
        x = 3 * np.roll(x, -shift) + c
    return x


def draw_steps(rng: random.Random) -> list[tuple[int, int, bool]]:
    return [
        (rng.randrange(N), rng.randrange(99), rng.random() < 0.2) for _ in range(rng.randint(1, 9))
    ]


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_random_programs_many_runs(threads: int) -> None:
    rng = random.Random(threads)
    # More threads than cores wait for the scheduler at every barrier.
    runs = 200 if threads <= 2 else 60
    for _ in range(10):
        steps = draw_steps(rng)
        p = chain(threads, steps)
        x, y = words(), words()
        for run in range(runs):
            x[:] = np.arange(N) * run
            y[:] = -1
            p.run(x.ctypes.data, y.ctypes.data)
            np.testing.assert_array_equal(y, expected(x, steps))


def test_long_program_repeated() -> None:
    steps = [(i % N, i % 7, i % 5 == 0) for i in range(200)]
    p, x, y = chain(2, steps), np.arange(N), words()
    want = expected(x, steps)
    for _ in range(300):
        y[:] = 0
        p.run(x.ctypes.data, y.ctypes.data)
        np.testing.assert_array_equal(y, want)


def race(barrier: bool) -> int:
    """Return how many of 20 runs read what a slow thread had not yet written."""
    p = Program(threads=2, arena_bytes=8 * N, inputs=1, outputs=1)
    p.step(slow_first, p.arena(0), N, 1, 0)
    p.step(slow_first, p.arena(0), N, 2, 20_000, barrier=barrier)
    p.step(shuffle_add, p.arena(0), p.output(0), N, N // 2, 0)
    y, wrong = words(), 0
    for _ in range(20):
        p.run(0, y.ctypes.data)
        wrong += not (y == 6).all()
    return wrong


def test_barriers_are_needed_and_there() -> None:
    assert race(barrier=False) > 0, "this test cannot see a missing barrier"
    assert race(barrier=True) == 0


def test_last_step_of_a_segment_always_has_a_barrier() -> None:
    p = Program(threads=2, outputs=1)
    p.step(slow_first, p.output(0), N, 7, 5_000, barrier=False)
    y = words()
    for _ in range(20):
        y[:] = 0
        p.run(y.ctypes.data)
        assert (y == 7).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_thread_numbers_and_serial_steps(threads: int) -> None:
    p = Program(threads=threads, outputs=2)
    p.step(who, p.output(0))
    p.step(who, p.output(1), serial=True)
    y, z = words(8), words(8)
    p.run(y.ctypes.data, z.ctypes.data)
    assert y.tolist() == [100 * threads + t + 1 for t in range(threads)] + [0] * (8 - threads)
    assert z.tolist() == [101, *[0] * 7]


def test_every_kind_of_slot() -> None:
    w = np.arange(10, dtype=np.float32)
    p = Program(arena_bytes=256, constants={"w": w}, inputs=1, outputs=1)
    slots = (-5, 1.5, p.arena(128), p.const("w"), p.input(0, 24), p.output(0, 8))
    p.step(echo, p.output(0), *slots)
    y = words(8)
    p.run(1000, y.ctypes.data)
    assert y[0] == -5
    assert y[1:2].view(np.float64)[0] == 1.5
    assert y[2] % 64 == 0
    assert array_at(int(y[3]), (10,), "f4").tolist() == w.tolist()
    assert y[3] % 64 == 0
    assert y[4] == 1024
    assert y[5] == y.ctypes.data + 8


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_scratch_belongs_to_one_thread(threads: int) -> None:
    p = Program(threads=threads, arena_bytes=threads * 512, outputs=1)
    p.step(use_scratch, p.output(0), p.arena(0), 8 * 7, 7)
    p.step(use_scratch, p.output(0), p.arena(0), 512, 50)
    p.step(use_scratch, p.output(0), p.arena(0), 512, 50)
    y = words(8)
    for _ in range(50):
        p.run(y.ctypes.data)
        assert y[:threads].tolist() == [50 * t + 49 * 25 for t in range(threads)]


def test_python_steps_between_native_ones() -> None:
    def double(inputs, outputs):
        array_at(outputs[0], (N,), "i8")[:] = 2 * array_at(inputs[0], (N,), "i8")

    for threads in (1, 2):
        p = Program(threads=threads, arena_bytes=16 * N, inputs=1, outputs=1)
        p.step(shuffle_add, p.input(0), p.arena(0), N, 1, 0)
        p.torch_step(double, inputs=[p.arena(0)], outputs=[p.arena(8 * N)])
        p.step(shuffle_add, p.arena(8 * N), p.output(0), N, 0, 5)
        p.torch_step(double, inputs=[p.output(0)], outputs=[p.output(0)])
        x, y = np.arange(N), words()
        p.run(x.ctypes.data, y.ctypes.data)
        np.testing.assert_array_equal(y, 2 * (3 * 2 * 3 * np.roll(x, -1) + 5))


@pytest.mark.skipif(not HAS_CLOCK, reason="no clock that native code can read")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_timed_run_tells_when_each_step_ran(threads: int) -> None:
    y, z = words(4), words(4)
    p = Program(threads=threads, outputs=2)
    p.step(slow_first, p.output(0), 4, 7, 200_000)
    p.torch_step(lambda i, o: time.sleep(0.002), [p.output(0)], [p.output(1)])
    p.step(slow_first, p.output(1), 4, 9, 0)
    began = time.monotonic_ns()
    times = p.timed(y.ctypes.data, z.ctypes.data)
    ended = time.monotonic_ns()
    assert times.shape == (3, threads, 2)
    assert y.tolist() == [7] * 4 and z.tolist() == [9] * 4
    native_times = times[[0, 2]]
    assert began <= native_times.min() and native_times.max() <= ended
    assert (np.diff(native_times.transpose(1, 0, 2).reshape(threads, -1)) >= 0).all()
    slow, python, quick = times[..., 1].max(1) - times[:, 0, 0]
    assert python >= 2_000_000 and slow > quick
    before = times.copy()
    p.run(y.ctypes.data, z.ctypes.data)  # an ordinary run notes no times
    assert (times == before).all()


def test_a_failing_python_step_leaves_the_program_usable() -> None:
    fail = [True]

    def maybe(inputs, outputs):
        if fail[0]:
            raise RuntimeError("asked to")

    p = Program(threads=2, outputs=1)
    p.torch_step(maybe, [], [])
    p.step(who, p.output(0))
    y = words(8)
    with pytest.raises(RuntimeError, match="asked to"):
        p.run(y.ctypes.data)
    fail[0] = False
    p.run(y.ctypes.data)
    assert y[1] == 202


def test_refusals_say_what_is_wrong() -> None:
    p = Program(arena_bytes=64, constants=[np.zeros(3)], inputs=1, outputs=1)
    for wrong in (
        lambda: p.arena(65),
        lambda: p.const("w"),
        lambda: p.input(1),
        lambda: p.output(1),
        lambda: Program(threads=0),
    ):
        with pytest.raises(TargetError):
            wrong()
    p.step(who, p.output(0))
    with pytest.raises(TargetError, match="expected 2 addresses"):
        p.run(1)


def test_an_empty_program_runs() -> None:
    Program().run()


def test_slot_bits() -> None:
    assert slot_bits(True) == 1
    assert slot_bits(-0.0) == -(1 << 63)
    with pytest.raises(TargetError):
        slot_bits("x")


def test_aligned_copies_only_when_it_must() -> None:
    base = aligned(np.arange(100, dtype=np.float32))
    assert aligned(base) is base
    assert aligned(base[1:]).ctypes.data % 64 == 0
    assert aligned(base.reshape(10, 10).T).tolist() == base.reshape(10, 10).T.tolist()


@pytest.mark.parametrize("threads", [1, 2])
def test_two_python_threads_share_one_program(threads: int) -> None:
    steps = [(i % N, i % 3, False) for i in range(40)]
    p = chain(threads, steps, max_contexts=2)
    errors = []

    def caller(seed: int) -> None:
        x, y = np.arange(N) * seed, words()
        want = expected(x, steps)
        for _ in range(200):
            y[:] = 0
            p.run(x.ctypes.data, y.ctypes.data)
            if not (y == want).all():
                errors.append(seed)

    callers = [threading.Thread(target=caller, args=(s,)) for s in (1, 2, 3)]
    for t in callers:
        t.start()
    for t in callers:
        t.join(30)
    assert not errors and not any(t.is_alive() for t in callers)
    assert 1 <= p.contexts <= 2


def test_contexts_return_to_one_when_it_is_quiet() -> None:
    gate = threading.Barrier(3)

    def meet(inputs, outputs):
        if gate is not None:
            gate.wait(10)

    p = Program(outputs=1, max_contexts=8)
    p.torch_step(meet, [], [])
    callers = [threading.Thread(target=p.run, args=(0,)) for _ in range(3)]
    for t in callers:
        t.start()
    for t in callers:
        t.join(20)
    assert p.contexts == 3
    gate = None
    for _ in range(400):
        p.run(0)
    assert p.contexts == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_its_own_workers() -> None:
    steps = [(1, 2, False)] * 5
    p, x, y = chain(2, steps), np.arange(N), words()
    want = expected(x, steps)
    p.run(x.ctypes.data, y.ctypes.data)
    child = os.fork()
    if child == 0:
        good = 0
        for _ in range(50):
            y[:] = 0
            p.run(x.ctypes.data, y.ctypes.data)
            good += bool((y == want).all())
        os._exit(0 if good == 50 else 1)
    deadline = time.monotonic() + 15
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        p.run(x.ctypes.data, y.ctypes.data)
    if done[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done[0] == child and os.waitstatus_to_exitcode(done[1]) == 0
    assert (y == want).all()


EXIT = """
    import sys, threading, time
    from leptonc.backends.numba_cpu.executor import Program
    from leptonc.backends.numba_cpu.native import NOTHING
    p = Program(threads=3)
    p.step(NOTHING)
    p.run()
    q = Program(threads=2)
    q.step(NOTHING)
    q.run()
    if "busy" in sys.argv:
        def busy():
            while True:
                q.run()
        threading.Thread(target=busy, daemon=True).start()
        time.sleep(0.05)
    print(time.time(), flush=True)
"""


@pytest.mark.parametrize("how", ["idle", "busy"])
def test_the_process_exits_cleanly_and_quickly(how: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(EXIT), how]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    seconds = time.time() - float(done.stdout)
    assert done.returncode == 0, done.stderr
    assert seconds < 2.0


def test_after_close_programs_still_run() -> None:
    steps = [(1, 2, False)] * 5
    p, x, y = chain(5, steps), np.arange(N), words()
    TEAMS.get(5).close()
    p.run(x.ctypes.data, y.ctypes.data)
    np.testing.assert_array_equal(y, expected(x, steps))


@pytest.mark.skipif(not HAS_FUTEX, reason="workers nap instead of blocking")
def test_idle_workers_use_no_processor_time() -> None:
    p = Program(threads=2)
    p.step(NOTHING)
    p.run()
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.02


def test_one_thread_starts_no_workers() -> None:
    code = """
        import threading
        from leptonc.backends.numba_cpu.executor import Program
        from leptonc.backends.numba_cpu.native import NOTHING
        p = Program(threads=1)
        p.step(NOTHING)
        p.run()
        assert threading.active_count() == 1, threading.enumerate()
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, env=env, check=True, timeout=60)


def test_call_overhead_is_microseconds() -> None:
    x = words()
    for threads in (1, 2):
        p = Program(threads=threads, inputs=2, outputs=1)
        p.step(NOTHING, p.input(0), p.input(1), p.output(0))
        best = float("inf")
        for _ in range(500):
            begin = time.perf_counter()
            p.run(x.ctypes.data, 2, 3)
            best = min(best, time.perf_counter() - begin)
        # Measured: 1.2 us; the bound allows for slow and busy machines.
        assert best < 50e-6


@kernel
def wait_for(args, tid, nt):
    """Share 1 says that it runs, then waits until it may go on; y[tid] = 1."""
    y, gate, limit = load(args), load(args + 8), load(args + 16)
    if tid == 1:
        store(gate, 1)
        while load(gate + 8) == 0 and limit > 0:
            limit -= 1
            pause()
    store(y + 8 * tid, 1)


class LateTeam(Team):
    """A team whose workers arrive when they are sent for."""

    def _hire(self, tid: int) -> None:
        """Start nobody."""

    send = Team._hire


@pytest.fixture
def late_team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LateTeam:
    team = LateTeam(getattr(request, "param", 2))
    monkeypatch.setattr(TEAMS, "get", lambda nt: team)
    return team


@pytest.mark.parametrize("late_team", [2, 3, 5], indirect=True)
def test_workers_that_never_arrive_hold_up_nobody(late_team: LateTeam) -> None:
    nt = late_team.nt
    for steps in (draw_steps(random.Random(nt)), [(i, 1, i % 3 == 0) for i in range(90)]):
        p, x, y = chain(nt, steps), np.arange(N), words()
        for _ in range(5):
            y[:] = 0
            p.run(x.ctypes.data, y.ctypes.data)
            np.testing.assert_array_equal(y, expected(x, steps))


def test_a_worker_that_comes_late_joins_where_the_others_are(late_team: LateTeam) -> None:
    gate, y, z = words(2), words(2), words(2)
    p = Program(threads=2, inputs=1, outputs=2)
    for _ in range(20):
        p.step(who, p.output(0))
    p.step(wait_for, p.output(1), p.input(0), 10**10)
    for _ in range(20):
        p.step(who, p.output(0))
    addresses = gate.ctypes.data, y.ctypes.data, z.ctypes.data
    caller = threading.Thread(target=p.run, args=addresses, daemon=True)
    caller.start()
    until = time.monotonic() + 20
    while gate[0] == 0 and time.monotonic() < until:
        time.sleep(0.001)
    assert gate[0] == 1  # the caller alone came as far as to the 21st step, and stays there
    y[:] = 0
    late_team.send(1)
    time.sleep(0.02)
    assert caller.is_alive() and not y.any()
    gate[1] = 1
    caller.join(20)
    assert not caller.is_alive() and y.tolist() == [201, 202] and z.tolist() == [1, 1]
    late_team.close()


@pytest.mark.skipif(not HAS_CORE_MASK or usable_cores() < 2, reason="needs a choice of cores")
def test_workers_leave_the_callers_core(late_team: LateTeam) -> None:
    cores, stop = os.sched_getaffinity(0), threading.Event()
    worker = threading.Thread(target=stop.wait, daemon=True)
    worker.start()
    thread = worker.native_id or 0
    p, x, y = chain(2, [(1, 1, False)] * 3), np.arange(N), words()
    p.run(x.ctypes.data, y.ctypes.data)
    place = (team_words.CORES + team_words.LINE) // 8
    late_team._words[place + team_words.THREAD // 8] = thread

    def run_on(core: int, seen: int) -> set[int]:
        os.sched_setaffinity(0, {core})
        late_team._words[place] = seen
        p.run(x.ctypes.data, y.ctypes.data)
        return os.sched_getaffinity(thread)

    first, second = sorted(cores)[:2]
    try:
        assert run_on(first, team_words.NOWHERE) == cores - {first}
        assert run_on(second, first) == cores - {first}  # it is not in the way
        assert run_on(second, second) == cores - {second}
        os.sched_setaffinity(thread, {second})  # where somebody else puts it, it stays
        assert run_on(second, second) == {second}
    finally:
        os.sched_setaffinity(0, cores)
        stop.set()
        worker.join(20)


def test_phases() -> None:
    """Serial steps in a row are one task; a step without a barrier joins the next one's phase."""
    both, alone, free = 0, native.SERIAL, native.NO_BARRIER

    def of(*flags: int) -> list[list[tuple[int, int, int, int]]]:
        return phases([Step(who, (), f) for f in flags], 2)

    assert of(both, both) == [[(0, 1, 0, 2), (0, 1, 1, 2)], [(1, 1, 0, 2), (1, 1, 1, 2)]]
    assert of(alone, alone, alone, both)[0] == [(0, 3, 0, 1)]
    assert of(alone | free, alone) == [[(0, 1, 0, 1), (1, 1, 0, 1)]]
    assert of(alone | free, both, alone) == [
        [(0, 1, 0, 1), (1, 1, 0, 2), (1, 1, 1, 2)],
        [(2, 1, 0, 1)],
    ]
    assert len(of(alone, alone | free, alone)) == 2
    # A phase has room for so many tasks; a barrier more never hurts.
    assert [len(p) for p in of(*[both | free] * 6)] == [8, 4]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_steps_of_one_phase_all_run(threads: int) -> None:
    p = Program(threads=threads, arena_bytes=8 * N * 8, inputs=1, outputs=1)
    for i in range(8):
        p.step(shuffle_add, p.input(0), p.arena(8 * N * i), N, i, i, serial=i % 3 == 1,
               barrier=i == 7)  # fmt: skip
    p.step(shuffle_add, p.arena(8 * N * 5), p.output(0), N, 1, 0)
    x, y = np.arange(N), words()
    for _ in range(300):
        y[:] = 0
        p.run(x.ctypes.data, y.ctypes.data)
        np.testing.assert_array_equal(y, 3 * np.roll(3 * np.roll(x, -5) + 5, -1))
