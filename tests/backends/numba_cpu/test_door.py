"""The built-in function that runs a program: addresses in order, references, Python's lock."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu import door as module
from leptonc.backends.numba_cpu.atomics import atomic_add, atomic_load, atomic_store, pause
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.kernels.base import kernel
from leptonc.backends.numba_cpu.kernels.vec import arg, ldi64, sti64
from leptonc.backends.numba_cpu.native import NOTHING
from leptonc.backends.numba_cpu.pool import pauses_per_us

pytestmark = [
    pytest.mark.numba,
    pytest.mark.skipif(not module.data_function(), reason="this torch has no such function"),
]
PATIENCE_US = 8e6


@kernel
def copy_word(args, tid, nt):
    """Copy the word at slot 0 to slot 1."""
    sti64(arg(args, 1), 0, ldi64(arg(args, 0), 0))


@kernel
def wait_for_word(args, tid, nt):
    """Wait for the word at slot 0, but no longer than slot 1 pauses; tell slot 2 how it ended."""
    for _ in range(arg(args, 1)):
        if atomic_load(arg(args, 0)) != 0:
            atomic_store(arg(args, 2), 1)
            return
        pause()


@kernel
def alone(args, tid, nt):
    """Be at slot 0 for slot 1 pauses; note at slot 2 if others were there, count at slot 3."""
    if atomic_add(arg(args, 0), 1) != 0:
        atomic_store(arg(args, 2), 1)
    for _ in range(arg(args, 1)):
        pause()
    atomic_add(arg(args, 0), -1)
    sti64(arg(args, 3), 0, ldi64(arg(args, 3), 0) + 1)


def _copies(count: int, threads: int = 1) -> Program:
    program = Program(threads=threads, inputs=count, outputs=count)
    for i in range(count):
        program.step(copy_word, program.input(i), program.output(i))
    return program


def _idle(threads: int) -> Program:
    program = Program(threads=threads)
    program.step(NOTHING)
    return program


def _enter(program: Program):
    """Return a context, which must live on, and its door."""
    assert program.lane is not None
    context = program.lane.acquire()
    assert context.enter is not None
    if program.threads > 1:
        _idle(program.threads).run()  # the team has its workers now
    return context, context.enter


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.sampled_from((1, 2, 3)))
def test_each_tensor_goes_to_its_place(offsets: list[int], threads: int):
    context, enter = _enter(_copies(len(offsets), threads))
    inputs = [(torch.arange(10) + 100 * i)[at:] for i, at in enumerate(offsets)]
    outputs = [torch.zeros(1, dtype=torch.int64) for _ in offsets]
    for _ in range(2):
        assert enter(*inputs, *outputs) is None
        assert [int(t) for t in outputs] == [100 * i + at for i, at in enumerate(offsets)]
        inputs = [t.flip(0)[t.numel() - 1 :] for t in inputs]  # the same numbers elsewhere
        outputs = [torch.zeros(1, dtype=torch.int64) for _ in offsets]
    del context


@pytest.mark.parametrize("threads", [1, 2])
def test_no_reference_is_kept_or_lost(threads: int):
    context, enter = _enter(_copies(1, threads))
    x, y = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    calls = 10_000
    before = [sys.getrefcount(v) for v in (None, x, y)]
    for _ in range(calls):
        enter(x, y)
    after = [sys.getrefcount(v) for v in (None, x, y)]
    # Whatever else runs meanwhile counts None a few times.
    assert abs(after[0] - before[0]) < calls // 10 and after[1:] == before[1:]
    del context


@pytest.mark.parametrize("threads", [1, 2])
def test_python_runs_meanwhile(threads: int):
    word, told = np.zeros(1, np.int64), np.zeros(1, np.int64)
    program = Program(threads=threads)
    pauses = int(PATIENCE_US * pauses_per_us())
    program.step(wait_for_word, word.ctypes.data, pauses, told.ctypes.data, serial=True)
    context, enter = _enter(program)
    going = threading.Event()

    def set_word() -> None:
        going.wait()
        word[0] = 1

    other = threading.Thread(target=set_word)
    other.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # nobody gives the lock away but the door
    try:
        going.set()
        enter()
    finally:
        sys.setswitchinterval(interval)
    other.join()
    assert told[0] == 1
    del context


def test_a_door_outlives_others_and_none_is_no_fault(monkeypatch: pytest.MonkeyPatch):
    context, enter = _enter(_copies(1))
    other, _ = _enter(_copies(2))
    del other
    gc.collect()
    x, y = torch.tensor([7]), torch.zeros(1, dtype=torch.int64)
    enter(x, y)
    assert int(y) == 7
    monkeypatch.setattr(module, "data_function", lambda: 0)
    program = _copies(1)
    assert program.lane is not None and program.lane.acquire().enter is None
    del context


def test_a_team_without_workers_leaves_the_run_to_others():
    threads = 7  # no other test's
    program = _copies(1, threads)
    assert program.lane is not None
    context = program.lane.acquire()
    assert context.enter is not None and context.whole is not None
    x, y = torch.tensor([7]), torch.zeros(1, dtype=torch.int64)
    before = sys.getrefcount(True)
    assert all(context.enter(x, y) is True for _ in range(1000)) and int(y) == 0
    assert abs(sys.getrefcount(True) - before) < 100
    _, run, segment = context.whole
    run(segment)
    assert int(y) == 7
    y.zero_()
    assert context.enter(x, y) is None and int(y) == 7


def test_callers_of_one_team_take_turns():
    inside, told = np.zeros(1, np.int64), np.zeros(1, np.int64)
    calls, pauses = 40, int(300 * pauses_per_us())  # long enough for another one to wake up

    def call(begin: threading.Barrier) -> None:
        program = Program(threads=2)
        count = np.zeros(1, np.int64)
        slots = (inside.ctypes.data, pauses, told.ctypes.data, count.ctypes.data)
        program.step(alone, *slots, serial=True)
        context, enter = _enter(program)
        begin.wait()
        for _ in range(calls):
            enter()
        done.append(int(count[0]))
        del context

    done: list[int] = []
    begin = threading.Barrier(4)
    callers = [threading.Thread(target=call, args=(begin,), daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_US / 1e6)
    assert done == [calls] * 4 and told[0] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_a_parent_whose_team_is_busy_has_a_door():
    going, idle = [1], _idle(2)
    other = threading.Thread(target=lambda: [idle.run() for _ in iter(going.__len__, 0)])
    other.start()
    context, enter = _enter(_copies(1, 2))
    x, y = torch.tensor([7]), torch.zeros(1, dtype=torch.int64)
    codes: list[int] = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            left = enter(x, y)  # its workers are in the parent
            _idle(2).run()
            os._exit(0 if left is True and enter(x, y) is None and int(y) == 7 else 1)
        codes.append(os.waitstatus_to_exitcode(_wait(child)))
    going.clear()
    other.join()
    assert codes == [0] * 10
    del context


def _wait(child: int) -> int:
    """Return how a child ended; one that hangs is ended."""
    deadline = time.monotonic() + PATIENCE_US / 1e6
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    return done[1]
