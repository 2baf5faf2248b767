"""Helper processes leave machine code in the cache, and nobody compiles what another one is at."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from leptonc.backends.numba_cpu import native
from leptonc.backends.numba_cpu.kernels import ahead
from leptonc.backends.numba_cpu.kernels.ahead import HELPERS, compile_all
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.elementwise_ops import find
from leptonc.backends.numba_cpu.kernels.machine_code import CodeFile, kernel_dir

pytestmark = [
    pytest.mark.numba,
    pytest.mark.skipif(os.name != "posix", reason="helpers run on POSIX systems"),
]
SMALL = (native.RUN_ALONE, native.NOTHING, native.PAUSES, native.STOP_TEAM)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ahead, "_count", lambda: 1)
    return tmp_path


def fresh(kernel):
    """Return the kernel as a process knows it that has not compiled it."""
    name, _, rest = kernel.name.partition("[")
    params = tuple(rest.rstrip("]").split(",")) if rest else ()
    return Kernel(kernel.fn, name, params, signature=kernel._signature)


def test_a_helper_stores_what_it_is_asked_for_and_ends_with_the_session(empty):
    kernels = [fresh(k) for k in SMALL]
    with HELPERS.session():
        HELPERS.ask(kernels)
        process = HELPERS._process
        end = time.monotonic() + 60
        while not all(k.ready for k in kernels) and time.monotonic() < end:
            time.sleep(0.01)
        assert all(k.ready for k in kernels)
        with HELPERS.session():
            pass
        assert process.poll() is None
    assert process.poll() is not None
    assert HELPERS._running == []
    assert all(k.try_load() and k.from_cache for k in kernels)


@pytest.mark.parametrize("entry", [ahead._ENTRY, "raise SystemExit(1)"])
def test_nobody_compiles_once_helpers_have_settled(empty, monkeypatch, entry):
    monkeypatch.setattr(ahead, "_ENTRY", entry)
    kernels = [fresh(k) for k in SMALL]
    with HELPERS.session():
        HELPERS.ask(kernels)
        HELPERS.settle()
        assert all(k.compile_seconds > 0 for k in kernels)  # loaded or compiled, here too
        HELPERS.settle()


def test_who_waits_for_helpers_compiles_nothing_that_they_can(empty, monkeypatch):
    monkeypatch.setattr(ahead, "_count", lambda: 2)
    kernels = [fresh(k) for k in SMALL]
    compile_all(kernels)
    assert {k.from_cache for k in kernels} == {True}


def test_helpers_make_what_a_factory_makes(empty):
    kernels = [find(name, "i32") for name in ("add", "mul", "bitwise_xor")]
    with HELPERS.session():
        HELPERS.ask(kernels, enough=1)  # this process may have one from before
        HELPERS.wait(kernels)
        assert all(k.ready for k in kernels)


def test_what_no_helper_knows_is_compiled_by_who_asks(empty):
    def unknown(args, tid, nt):
        pass

    kernels = [*map(fresh, SMALL), Kernel(unknown, "unknown")]
    compile_all(kernels)
    assert [k.from_cache for k in kernels] == [True] * len(SMALL) + [False]


def test_helpers_that_hang_are_not_awaited_for_ever(empty, monkeypatch):
    monkeypatch.setattr(ahead, "_ENTRY", "import sys; sys.stdin.read()")
    monkeypatch.setattr(ahead, "PATIENCE_S", 0.2)
    kernels = [fresh(k) for k in SMALL]
    with HELPERS.session():
        HELPERS.ask(kernels)
        HELPERS.wait(kernels)
        assert HELPERS._running[0].busy()
        assert HELPERS._process.poll() is None


def test_a_helper_that_failed_leaves_the_rest_to_the_others(empty, monkeypatch):
    monkeypatch.setattr(ahead, "_count", lambda: 2)
    kernels = [fresh(k) for k in SMALL]
    with HELPERS.session():
        HELPERS.ask(kernels)
        HELPERS._running[0].line.shutdown(socket.SHUT_RDWR)
        HELPERS.wait(kernels)
        assert all(k.ready for k in kernels)


def test_few_missing_kernels_start_no_helper(empty):
    with HELPERS.session():
        HELPERS.ask([fresh(k) for k in SMALL[: ahead.MIN_KERNELS - 1]])
        assert HELPERS._running == []


def test_all_kernels_are_compiled_whatever_becomes_of_the_helper(empty, monkeypatch):
    monkeypatch.setattr(ahead, "_ENTRY", "raise SystemExit(1)")
    kernels = [fresh(k) for k in SMALL]
    compile_all(kernels)
    assert all(k.address for k in kernels)
    assert {k.from_cache for k in kernels} == {False}


@pytest.mark.parametrize("executable", ["", "/bin/uwsgi", "/nowhere/python3"])
def test_what_is_no_python_is_not_started(empty, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with HELPERS.session():
        HELPERS.ask(map(fresh, SMALL))
        assert HELPERS._running == [] and HELPERS._process is None


def test_a_kernel_that_another_process_compiles_is_left_to_it(empty):
    kernel = fresh(native.NOTHING)
    path = kernel._file().path
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent("""
            import fcntl, sys
            file = open(sys.argv[1], "ab")
            fcntl.flock(file, fcntl.LOCK_EX)
            print("held", flush=True)
            sys.stdin.read()
        """), str(path.with_suffix(".lock"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert not kernel.try_compile()
        kernel.store()
        assert not path.exists()
        with CodeFile(kernel_dir(), "other", "0").claimed(0.0) as mine:
            assert mine
        holder.kill()
    assert kernel.try_compile()
    assert path.exists()
    assert not path.with_suffix(".lock").exists()


def test_a_forked_child_leaves_its_parents_helpers_alone(empty):
    with HELPERS.session():
        HELPERS.ask([fresh(k) for k in SMALL])
        process = HELPERS._process
        child = os.fork()
        if child == 0:
            os._exit(int(bool(HELPERS._running) or HELPERS._sessions != 0))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert process.poll() is None


def test_helpers_end_when_their_parent_does(empty):
    code = textwrap.dedent("""
        import os
        from pathlib import Path
        from leptonc.backends.numba_cpu import native
        from leptonc.backends.numba_cpu.kernels import ahead
        ahead._count = lambda: 2
        with ahead.HELPERS.session():
            kernels = native.RUN_ALONE, native.NOTHING, native.PAUSES
            ahead.HELPERS.ask(kernels)
            ahead.HELPERS.wait(kernels)
            first = ahead.HELPERS._process.pid
            print(first, Path(f"/proc/{first}/task/{first}/children").read_text(), flush=True)
            os.kill(os.getpid(), 9)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    helpers = done.stdout.split()
    assert len(helpers) == 3
    end = time.monotonic() + 60
    while any(map(_lives, helpers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(_lives, helpers))


def _lives(process: str) -> bool:
    """Return whether a process has not ended; one that ended may wait to be collected."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
