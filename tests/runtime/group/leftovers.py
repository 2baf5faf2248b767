"""What a group may leave behind, and the toys that tests run in one."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leptonc.runtime.group.local import LocalGroup
from tests.runtime.group.toy import PLAN

ENTRY = "tests.runtime.group.toy:load"
ALLOWED = ("tests.",)


def toy(directory: Path, program: str = "total", **plan: Any) -> Path:
    """Write down what the toy in ``directory`` does, and return that."""
    (directory / PLAN).write_text(json.dumps({"program": program, "rank": 1, **plan}))
    return directory


def group_of(directory: Path, world: int = 2, **options: Any) -> LocalGroup:
    """Return a group that runs the toy of a directory."""
    return LocalGroup(directory, world, entry=ENTRY, allowed=ALLOWED, **options)


def alive(pids: Iterable[int]) -> list[int]:
    """Return those of the processes that have not ended."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def gone(pids: Iterable[int], seconds: float = 1.0) -> bool:
    """Return whether all processes end within some seconds."""
    pids, end = list(pids), time.monotonic() + seconds
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.005)
    return not alive(pids)


def children() -> set[int]:
    """Return the processes that this one has started and not yet waited for."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def held() -> dict[str, set[str]]:
    """Return what this process and this machine hold: children, names, descriptors."""
    descriptors = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            descriptors.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")
        except OSError:
            continue
    return {
        "children": set(map(str, children())),
        "shared memory": {n for n in os.listdir("/dev/shm") if n.startswith(("leptonc", "psm_"))},
        "temporary": {p.name for p in Path(tempfile.gettempdir()).glob("leptonc-*")},
        "descriptors": {d for d in descriptors if "leptonc" in d or "pipe:" in d or "pidfd" in d},
    }


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that what happens inside leaves nothing behind."""
    before = held()
    yield
    after = held()
    for what, names in after.items():
        assert names <= before[what], f"left behind, {what}: {names - before[what]}"
