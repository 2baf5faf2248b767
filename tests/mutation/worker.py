"""mutation > worker: seeds faults one after another in a tree of its own and sees who catches them.

``python -m mutation.worker WORK SECONDS TESTS NAME...``: ``WORK/tree`` is a copy of the checkout,
``WORK/cache`` its caches. TESTS says which run: ``own`` (the fault's), ``all`` (broader ones too),
``none`` (the self-check alone). One line of JSON a fault goes to ``WORK/results.jsonl``. No fault
is begun after SECONDS; who started the worker starts it again for what is left.

Torch is imported once. Tests and self-check run in forked processes, which load leptonc afresh:
the tree differs from fault to fault.

The fingerprint of the kernel sources changes with any edit of any kernel. It is pinned in the copy,
so that only kernels whose own code changed are compiled anew (the key of a kernel's file holds a
digest of the code it reaches as well).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mutation.catalogue import BROADER, FAULTS
from mutation.fault import Fault
from mutation.selfcheck import check

MACHINE_CODE = Path("backends/numba_cpu/kernels/machine_code.py")
PINNED = "return digest.hexdigest()[:24]\n\n\ndef kernel_dir"
CHECK_S, TESTS_S, BROADER_S = 60.0, 60.0, 120.0


def main(work: Path, seconds: float, tests: str, names: Sequence[str]) -> None:
    """Work through ``names``."""
    end = time.monotonic() + seconds
    tree = work / "tree"
    _environment(work, tree)
    _import_heavy()
    _pin(tree)
    by_name = {f.name: f for f in FAULTS}
    for name in names:
        if time.monotonic() > end:
            return
        row = judge(by_name[name], tree, tests)
        with (work / "results.jsonl").open("a") as out:
            out.write(json.dumps(row) + "\n")


def judge(fault: Fault, tree: Path, tests: str) -> dict[str, Any]:
    """Seed ``fault``, ask self-check and tests, restore the tree; return the row of the table."""
    path = tree / fault.file
    text = path.read_text()
    started = time.monotonic()
    try:
        fault.apply(tree)
        self_check = _self_check(fault)
        checked = time.monotonic()
        caught = None if tests == "none" else _tests(fault.tests, TESTS_S)
        if caught == "" and tests == "all":
            # as `make test` runs them, with more examples
            caught = _tests(fault.tests, BROADER_S, "ci")
            caught = caught or _tests(BROADER[fault.layer], BROADER_S)
    finally:
        path.write_text(text)
    said = f"{self_check['noticed']} {self_check['said']}"
    named = bool(self_check["noticed"]) and any(re.search(n, said) for n in fault.names)
    return {
        "name": fault.name, "digest": digest(fault), "tests": caught, "which": tests, **self_check,
        "named": named, "check_s": round(checked - started, 1),
        "tests_s": round(time.monotonic() - checked, 1),
    }  # fmt: skip


def digest(fault: Fault) -> str:
    """Return what changes when the fault does."""
    parts = (fault.before, fault.after, fault.tests, fault.models, fault.names, fault.threads)
    return repr((fault.file, *parts))


def _self_check(fault: Fault) -> dict[str, Any]:
    silent = {"noticed": "", "said": "", "wrong": None}
    if not fault.models:
        return silent
    found, ended = forked(lambda: check(fault.models, fault.layer, fault.threads), CHECK_S)
    return found if found is not None else {**silent, "noticed": _crash(ended)}


def _crash(ended: str) -> str:
    """Return how a process ended, "" if it was only too slow: that is no finding."""
    return "" if ended.startswith("hangs") else ended


def _tests(selection: Sequence[str], seconds: float, profile: str = "dev") -> str:
    """Return the first test that fails, or that they crash; "" if all pass or do not end in time.

    A slow machine must not count as a test that fails.
    """
    found, ended = forked(lambda: _pytest(selection, profile), seconds)
    return _crash(ended) if found is None else found


def _pytest(selection: Sequence[str], profile: str) -> str:
    import hypothesis
    import pytest

    os.environ["HYPOTHESIS_PROFILE"] = profile

    first: list[str] = []

    class Watch:
        def pytest_sessionstart(self) -> None:
            # Finding the smallest example takes longer than finding one, and nobody reads it.
            phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
            hypothesis.settings.register_profile("mutation", hypothesis.settings(), phases=phases)
            hypothesis.settings.load_profile("mutation")

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                first.append(report.nodeid)

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                first.append(f"{report.nodeid} (import)")

    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow"]
    code = pytest.main([*options, *selection], plugins=[Watch()])
    return first[0] if first else ("" if code in (0, 5) else f"pytest ended with {code}")


def forked(work: Callable[[], Any], seconds: float) -> tuple[Any, str]:
    """Return what ``work`` gives in a process of its own; None and how that ended if it did not."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(read)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    end, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < end:
        done, code = os.waitpid(pid, os.WNOHANG)
        status = code if done else None
        time.sleep(0.02)
    if status is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as pipe:
        raw = pipe.read() if status is not None else b""
    if raw:
        return json.loads(raw), ""
    if status is None:
        return None, f"hangs: no end after {seconds:.0f} s"
    return None, f"crashes: signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "crashes"


def _environment(work: Path, tree: Path) -> None:
    os.chdir(tree)
    sys.path[:0] = [str(tree), str(tree / "tests")]
    sys.dont_write_bytecode = True
    os.environ |= {
        "LEPTONC_CACHE_DIR": str(work / "cache"), "LEPTONC_TUNE": "0", "LEPTONC_HELPERS": "0",
        "PYTHONPATH": f"{tree}:{tree / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip


def _import_heavy() -> None:
    """Import what every process needs and no fault touches."""
    import hypothesis
    import numba
    import pytest
    import sympy
    import torch
    import torch._dynamo
    import torch.export

    assert "leptonc" not in sys.modules
    del hypothesis, numba, pytest, sympy, torch


def _pin(tree: Path) -> None:
    """Pin the fingerprint of the kernels in the copy, unless that is done."""
    path = tree / MACHINE_CODE
    text = path.read_text()
    if PINNED not in text:
        return
    found, ended = forked(_fingerprint, CHECK_S)
    if found is None:
        raise RuntimeError(f"no fingerprint: {ended}")
    path.write_text(text.replace(PINNED, PINNED.replace("digest.hexdigest()[:24]", repr(found))))
    shutil.rmtree(tree / "backends/numba_cpu/kernels/__pycache__", ignore_errors=True)


def _fingerprint() -> str:
    from leptonc.backends.numba_cpu.kernels.machine_code import fingerprint

    return fingerprint()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:])
