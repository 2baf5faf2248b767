"""The built-in function that runs a program: addresses in order, references, Python's lock."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu import door as module
from leptonc.backends.numba_cpu.atomics import atomic_load, atomic_store, pause
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.kernels.base import kernel
from leptonc.backends.numba_cpu.kernels.vec import arg, ldi64, sti64
from leptonc.backends.numba_cpu.pool import pauses_per_us

pytestmark = [
    pytest.mark.numba,
    pytest.mark.skipif(not module.data_function(), reason="this torch has no such function"),
]
PATIENCE_US = 20e6


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


def _copies(count: int) -> Program:
    program = Program(inputs=count, outputs=count)
    for i in range(count):
        program.step(copy_word, program.input(i), program.output(i))
    return program


def _enter(program: Program):
    """Return a context, which must live on, and its door."""
    assert program.lane is not None
    context = program.lane.acquire()
    assert context.enter is not None
    return context, context.enter


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_each_tensor_goes_to_its_place(offsets: list[int]):
    context, enter = _enter(_copies(len(offsets)))
    inputs = [(torch.arange(10) + 100 * i)[at:] for i, at in enumerate(offsets)]
    outputs = [torch.zeros(1, dtype=torch.int64) for _ in offsets]
    for _ in range(2):
        assert enter(*inputs, *outputs) is None
        assert [int(t) for t in outputs] == [100 * i + at for i, at in enumerate(offsets)]
        inputs = [t.flip(0)[t.numel() - 1 :] for t in inputs]  # the same numbers elsewhere
        outputs = [torch.zeros(1, dtype=torch.int64) for _ in offsets]
    del context


def test_no_reference_is_kept_or_lost():
    context, enter = _enter(_copies(1))
    x, y = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    calls = 10_000
    before = [sys.getrefcount(v) for v in (None, x, y)]
    for _ in range(calls):
        enter(x, y)
    after = [sys.getrefcount(v) for v in (None, x, y)]
    # Whatever else runs meanwhile counts None a few times.
    assert abs(after[0] - before[0]) < calls // 10 and after[1:] == before[1:]
    del context


def test_python_runs_meanwhile():
    word, told = np.zeros(1, np.int64), np.zeros(1, np.int64)
    program = Program()
    pauses = int(PATIENCE_US * pauses_per_us())
    program.step(wait_for_word, word.ctypes.data, pauses, told.ctypes.data)
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


def test_a_team_has_no_door():
    program = Program(threads=2, inputs=1, outputs=1)
    program.step(copy_word, program.input(0), program.output(0), serial=True)
    assert program.lane is not None and program.lane.acquire().enter is None
