"""One rank fails, in every way and at every time: the caller is told, and nothing is left."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from leptonc.errors import WorkerError
from leptonc.runtime.group import process
from leptonc.runtime.group.failure import RemoteTraceback
from leptonc.runtime.group.local import LocalGroup
from tests.runtime.group.leftovers import ALLOWED, alive, group_of, nothing_left, toy

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")

SOON_S = 1.0
DEADLINE_S, LOAD_DEADLINE_S = 1.5, 10.0
# What is done to rank 1, and what the error says.
FAULTS = {
    "kill": r"rank 1 was ended by SIGKILL.*restart\(\)",
    "stop": r"rank 1 did not answer within .*stopped by a signal.*deadline",
    "raise": r"rank 1 raised ValueError: the toy's mistake.*restart\(\)",
    "exit": r"rank 1 ended with exit code 7",
    "segv": r"rank 1 was ended by SIGSEGV",
    "memory_error": r"rank 1 raised MemoryError.*smaller batch",
    "memory_limit": r"rank 1 raised RuntimeError.*smaller batch",
}
WITH_TEXT = {"raise": "_raise", "memory_error": "_memory_error", "memory_limit": "_memory_limit"}
X = torch.ones(3)


def _fails(group: LocalGroup, directory: Path, fault: str, deadline_s: float) -> None:
    """Check the error of the next call, and that it comes soon after the fault."""
    with pytest.raises(WorkerError) as caught:
        group.call([X])
    # One clock for all processes.
    took = time.monotonic() - float((directory / "at").read_text())
    assert re.search(FAULTS[fault], str(caught.value))
    assert took < SOON_S + (deadline_s if fault == "stop" else 0)
    if fault in WITH_TEXT:
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert f"in {WITH_TEXT[fault]}" in str(caught.value.__cause__)
    assert group.pids == ()


def _in_a_call(directory: Path, fault: str, backend: str = "shm") -> None:
    """Let rank 1 fail in the second call."""
    toy(directory, "total", call_fault=fault)
    off = directory / "off"
    off.touch()
    with nothing_left(), group_of(directory, backend=backend, deadline_s=DEADLINE_S) as group:
        assert torch.equal(group.call([X])[0], 3 * X)
        pids = group.pids
        off.unlink()
        _fails(group, directory, fault, DEADLINE_S)
        assert not alive(pids)
        with pytest.raises(WorkerError, match=r"restart\(\) first"):
            group.call([X])


def _while_loading(directory: Path, fault: str) -> None:
    """Let rank 1 fail while it loads, and rank 0 wait for it."""
    toy(directory, "total", load_fault=fault)
    limit = 6.0 if fault == "stop" else LOAD_DEADLINE_S
    with nothing_left(), group_of(directory, load_deadline_s=limit) as group:
        _fails(group, directory, fault, limit)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "segv"])
def test_a_rank_fails_in_a_call(tmp_path: Path, fault: str) -> None:
    _in_a_call(tmp_path, fault)


@pytest.mark.parametrize("fault", ["kill", "raise", "exit", "memory_error"])
def test_a_rank_fails_while_it_loads(tmp_path: Path, fault: str) -> None:
    _while_loading(tmp_path, fault)


@pytest.mark.parametrize("fault", ["kill", pytest.param("raise", marks=pytest.mark.slow)])
def test_a_rank_fails_and_gloo_waits_for_it(tmp_path: Path, fault: str) -> None:
    _in_a_call(tmp_path, fault, "gloo")


def test_a_rank_that_cannot_import_says_why(tmp_path: Path) -> None:
    entry = "tests.runtime.group.not_there:load"
    with nothing_left(), LocalGroup(tmp_path, 2, entry=entry, allowed=ALLOWED) as group:
        with pytest.raises(WorkerError, match=r"ModuleNotFoundError.*not_there") as caught:
            group.start()
        assert "import_module" in str(caught.value.__cause__)


def test_an_interpreter_that_fails_says_why(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n")
    script.chmod(0o700)
    monkeypatch.setattr(process.sys, "executable", str(script))
    with nothing_left(), group_of(tmp_path) as group:
        with pytest.raises(WorkerError, match="ended with exit code 3 during loading") as caught:
            group.start()
        assert "no such library" in str(caught.value.__cause__)
    monkeypatch.setattr(process.sys, "executable", str(tmp_path / "nothing"))
    with nothing_left(), group_of(tmp_path) as group, pytest.raises(FileNotFoundError):
        group.start()


def test_after_a_failure_new_workers_work(tmp_path: Path) -> None:
    toy(tmp_path, "total", call_fault="kill")
    with nothing_left(), group_of(tmp_path) as group:
        with pytest.raises(WorkerError):
            group.call([X])
        toy(tmp_path, "total")
        group.restart()
        assert torch.equal(group.call([X])[0], 3 * X)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", [_in_a_call, _while_loading], ids=["call", "load"])
def test_faults_again_and_again(tmp_path: Path, fault: str, when) -> None:
    with nothing_left():
        for _ in range(20):
            when(tmp_path, fault)
