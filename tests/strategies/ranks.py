"""Threads of this process as ranks that share memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from leptonc.backends.torch_spmd.comm.shared import SLOT_BYTES, SharedComm, segment_size


def segment(world: int, slot_bytes: int = SLOT_BYTES) -> np.ndarray:
    """Return a segment for ``world`` ranks, aligned to a cache line."""
    memory = np.zeros(segment_size(world, slot_bytes) + 128, np.uint8)
    return memory[-memory.ctypes.data % 128 :]


def comms(world: int, slot_bytes: int = SLOT_BYTES, deadline_s: float = 60.0) -> list[SharedComm]:
    """Return the communicators of all ranks of a new segment."""
    memory = segment(world, slot_bytes)
    return [
        SharedComm(
            memory.ctypes.data, rank, world, keep=memory, slot_bytes=slot_bytes,
            deadline_s=deadline_s, crowded=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def run(members: list[SharedComm], work: Callable[[SharedComm], Any]) -> list[Any]:
    """Return what ``work`` returns, or the exception that it raises, on each rank."""
    results: list[Any] = [None] * len(members)

    def go(comm: SharedComm) -> None:
        try:
            results[comm.rank] = work(comm)
        except Exception as error:
            results[comm.rank] = error

    threads = [threading.Thread(target=go, args=(c,), daemon=True) for c in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a rank hangs"
    return results
