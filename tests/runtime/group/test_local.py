"""A group of local workers: what it computes, how it starts and ends."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from leptonc.errors import WorkerError
from leptonc.runtime.group.entry import resolve_entry
from leptonc.runtime.group.local import LocalGroup
from leptonc.runtime.group.mailbox import DTYPES
from tests.runtime.group.leftovers import (
    ALLOWED,
    ENTRY,
    alive,
    gone,
    group_of,
    held,
    nothing_left,
    toy,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


def test_a_group_computes_and_leaves_nothing(tmp_path: Path) -> None:
    toy(tmp_path, "total")
    x = torch.arange(12.0).view(3, 4)
    with nothing_left(), group_of(tmp_path, threads=1) as group:
        assert group.pids == (), "nothing starts before it is needed"
        (got,) = group.call([x.t()])
        assert torch.equal(got, 3 * x.t())
        pids = group.pids
        assert len(set(pids)) == 2 and os.getpid() not in pids
        for k in range(100):
            (again,) = group.call([x + k])
            assert torch.equal(again, 3 * (x + k))
        assert torch.equal(got, 3 * x.t()), "an earlier result is not overwritten"
        assert group.pids == pids
        assert group.call([]) == []
        _grows(group)
        _outlives_a_fork(group)
    assert not alive(pids)
    with pytest.raises(WorkerError, match="closed"):
        group.call([x])
    with pytest.raises(WorkerError, match="closed"):
        group.restart()


def _outlives_a_fork(group: LocalGroup) -> None:
    """A process forked from the controller can neither use nor end its workers."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            group.call([torch.ones(3)])
        except WorkerError:
            group.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert alive(group.pids) == list(group.pids)
    assert torch.equal(group.call([torch.ones(3)])[0], torch.full((3,), 3.0))


def _grows(group: LocalGroup) -> None:
    """Tensors larger than what was shared at first go through, and small ones after them."""
    for n in (1 << 20, 3, 3 << 20, 0, 5):
        xs = [torch.ones(n), torch.full((n, 1), 2.0)]
        got = group.call(xs)
        assert [g.shape for g in got] == [x.shape for x in xs]
        assert all(torch.equal(g, 3 * x) for g, x in zip(got, xs, strict=True))


@pytest.mark.parametrize("backend", ["shm", "gloo"])
def test_collectives_between_processes(tmp_path: Path, backend: str) -> None:
    toy(tmp_path, "cases")
    old, new = (Path(tempfile.gettempdir()) / f"leptonc-group-{n}" for n in ("old", "new"))
    old.mkdir()
    new.mkdir()
    os.utime(old, (1, 1))
    with group_of(tmp_path, backend=backend) as group:
        group.start()
        # Ranks meet in a directory; nobody needs it any more, nor one that a killed group left.
        assert held()["temporary"] == ({new.name, old.name} if backend == "shm" else {new.name})
        (wrong,) = group.call([torch.arange(150)])
        assert wrong.tolist() == [[0], [0]]


def test_every_type_and_the_facts_of_ranks(tmp_path: Path) -> None:
    toy(tmp_path, "echo")
    xs = [torch.arange(6).view(2, 3).to(d) for d in DTYPES] + [torch.tensor(3.5)]
    with group_of(tmp_path, 3, threads=2) as group:
        facts, *got = group.call(xs)
        assert facts[:, 0].tolist() == [0, 1, 2]
        assert tuple(facts[:, 1].tolist()) == group.pids
        assert facts[:, 2].tolist() == [2, 2, 2]
    for a, b in zip(got, xs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))


def test_mistakes_of_programs_are_told_and_a_group_can_be_used_again(tmp_path: Path) -> None:
    toy(tmp_path, "write")
    with nothing_left(), group_of(tmp_path) as group:
        with pytest.raises(WorkerError, match=r"tensor 0 .* cannot be sent"):
            group.call([torch.ones(3).to_sparse()])
        assert group.pids, "nothing was sent, so everybody is still in step"
        with pytest.raises(WorkerError, match=r"wrote to its inputs \[1\]"):
            group.call([torch.ones(3), torch.ones(3)])
        assert group.pids == ()
        with pytest.raises(WorkerError, match="call restart"):
            group.call([torch.ones(3)])
        toy(tmp_path, "mismatch")
        group.restart()
        with pytest.raises(WorkerError, match="another collective"):
            group.call([torch.ones(3)])


def test_a_forgotten_group_ends(tmp_path: Path) -> None:
    toy(tmp_path, "total")
    with nothing_left():
        group = group_of(tmp_path)
        group.start()
        pids = group.pids
        del group
        gc.collect()
        assert gone(pids)


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    toy(tmp_path, "total", call_fault="sleep", rank=0)
    script = _SCRIPT.format(entry=ENTRY, allowed=ALLOWED, directory=str(tmp_path), after=_AGAIN)
    child = _controller(script)
    pids = json.loads(child.stdout.readline())
    time.sleep(0.3)
    child.send_signal(2)
    out, _ = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in out and "left: []" in out
    assert gone(pids)


_SCRIPT = """
import json, os, torch
from leptonc.runtime.group.local import LocalGroup
group = LocalGroup({directory!r}, 2, entry={entry!r}, allowed={allowed!r}, deadline_s=30)
group.start()
pids = group.pids
print(json.dumps(pids), flush=True)
{after}
"""
_AGAIN = """
try:
    group.call([torch.ones(3)])
except KeyboardInterrupt as error:
    print("KeyboardInterrupt", "left:", [p for p in pids if os.path.exists(f"/proc/{p}")])
"""
_CALL = "print(group.call([torch.ones(3)])[0].tolist(), __name__)"


def _controller(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a controller: a script that is read from the standard input, as a notebook's is not."""
    root = Path(__file__).resolve().parents[3]
    child = subprocess.Popen(
        [sys.executable, *arguments, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
            "TMPDIR": tempfile.gettempdir(),
        },
    )  # fmt: skip
    child.stdin.write(script)
    child.stdin.close()
    child.stdin = None
    return child


def test_a_script_needs_no_guard_and_no_end(tmp_path: Path) -> None:
    toy(tmp_path, "total")
    script = _SCRIPT.format(entry=ENTRY, allowed=ALLOWED, directory=str(tmp_path), after=_CALL)
    with nothing_left():
        child = _controller(script)
        out, _ = child.communicate(timeout=60)
        pids, _, rest = out.partition("\n")
        assert rest == "[3.0, 3.0, 3.0] __main__\n" and child.returncode == 0
        assert gone(json.loads(pids))


def test_workers_end_with_a_controller_that_is_killed(tmp_path: Path) -> None:
    # One rank is stuck in a loop, the other is stopped.
    toy(tmp_path, "total", call_fault="stop", barrier=False)
    after = "import threading\ngroup.call([torch.ones(3)])"
    script = _SCRIPT.format(entry=ENTRY, allowed=ALLOWED, directory=str(tmp_path), after=after)
    with nothing_left():
        child = _controller(script)
        pids = json.loads(child.stdout.readline())
        time.sleep(0.5)
        assert len(alive(pids)) == 2
        child.kill()
        child.communicate(timeout=20)
        assert gone(pids)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"world": 0}, "world=0"),
        ({"backend": "mpi"}, "backend='mpi'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"deadline_s": 0}, "deadlines 0 s"),
        ({"entry": "os.system"}, "package.module:function"),
        ({"entry": "os:system"}, "module os is not below leptonc."),
        ({"entry": "leptonc_other.x:load"}, "is not below leptonc."),
    ],
)
def test_arguments_of_no_use_are_refused(tmp_path: Path, change: dict, text: str) -> None:
    options = {"world": 2, "entry": "leptonc.x:load", **change}
    with pytest.raises(WorkerError, match=text):
        LocalGroup(tmp_path, **options)


def test_an_entry_names_a_function() -> None:
    assert resolve_entry("leptonc.settings:read_settings").__name__ == "read_settings"
    with pytest.raises(WorkerError, match="no function nonsense"):
        resolve_entry("leptonc.settings:nonsense")
