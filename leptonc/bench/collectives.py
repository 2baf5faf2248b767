"""Collectives between processes on this machine: ``python -m leptonc.bench.collectives``.

Every rank times its own calls, one after another, and reports the median; the slowest rank counts.
gloo runs over the loopback interface, as :mod:`leptonc.runtime.group.local` starts it; ``gloo sum``
is its own all-reduce, in whatever order it adds, ``gloo`` the reference that adds in rank order.
Also measured: a call of a group whose program does nothing, as the caller sees it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor

from leptonc.runtime.group.comm import Comm
from leptonc.runtime.group.local import LocalGroup

ENTRY = "leptonc.bench.collectives:load"
SIZES = (64, 4 << 10, 64 << 10, 1 << 20, 4 << 20)  # bytes
MOST_CALLS, LEAST_CALLS, SECONDS = 2000, 10, 1.0

Call = Callable[[], Tensor]


def _all_reduce(comm: Comm, x: Tensor) -> Call:
    return lambda: comm.all_reduce(x)


def _all_gather(comm: Comm, x: Tensor) -> Call:
    part = x.chunk(comm.world)[comm.rank].contiguous()
    cuts = tuple(part.numel() * r for r in range(comm.world + 1))
    return lambda: comm.all_gather(part, 0, cuts)


def _reduce_scatter(comm: Comm, x: Tensor) -> Call:
    cuts = tuple(x.numel() * r // comm.world for r in range(comm.world + 1))
    return lambda: comm.reduce_scatter(x, 0, cuts)


def _all_to_all(comm: Comm, x: Tensor) -> Call:
    rows = 2 * comm.world
    x = x.view(rows, -1)
    cuts = tuple(rows * r // comm.world for r in range(comm.world + 1))
    joined = tuple(x.shape[1] * r for r in range(comm.world + 1))
    return lambda: comm.all_to_all(x, 0, cuts, 1, joined)


def _own_sum(comm: Comm, x: Tensor) -> Call:
    def call() -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    return call


KINDS = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "sum of torch": _own_sum,
}


def load(directory: Path, rank: int, comm: Comm) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return the program of a rank: ``[kind, bytes]`` (int64[2]) to the seconds of its calls.

    With two inputs it does nothing.
    """

    def program(inputs: list[Tensor]) -> list[Tensor]:
        if len(inputs) > 1:
            return [inputs[0]]
        kind, nbytes = (int(n) for n in inputs[0])
        call = list(KINDS.values())[kind](comm, torch.ones(nbytes // 4))
        mine = torch.tensor([statistics.median(_times(comm, call))])
        return [comm.all_reduce(mine, "max")]

    return program


def _times(comm: Comm, call: Call) -> list[float]:
    """Return the seconds of calls one after another: as many as fit, the same on all ranks."""
    for _ in range(LEAST_CALLS):
        call()
    begin = time.perf_counter()
    for _ in range(LEAST_CALLS):
        call()
    once = torch.tensor([time.perf_counter() - begin]) / LEAST_CALLS
    seconds = float(comm.all_reduce(once, "max"))
    count = int(min(MOST_CALLS, max(LEAST_CALLS, SECONDS / seconds)))
    times: list[float] = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times


def measure(world: int, backend: str, kinds: Sequence[str]) -> dict[tuple[str, int], float]:
    """Return the seconds of a call by kind and bytes."""
    found: dict[tuple[str, int], float] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalGroup(directory, world, entry=ENTRY, backend=backend) as group,
    ):
        for kind in kinds:
            for nbytes in SIZES:
                ask = torch.tensor([list(KINDS).index(kind), nbytes])
                found[kind, nbytes] = float(group.call([ask])[0])
    return found


def overhead(world: int, calls: int = 2000) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds of a call that does nothing."""
    x = torch.zeros(16)
    times: list[float] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalGroup(directory, world, entry=ENTRY) as group,
    ):
        for _ in range(calls):
            begin = time.perf_counter()
            group.call([x, x])
            times.append(time.perf_counter() - begin)
    times.sort()
    return times[calls // 2], times[calls * 99 // 100]


def main() -> None:
    """Print what collectives and calls take on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=int, default=2, help="ranks")
    parser.add_argument("--kinds", default="all_reduce", help="comma-separated, or 'all'")
    options = parser.parse_args()
    ours = list(KINDS)[:-1] if options.kinds == "all" else options.kinds.split(",")
    shared = measure(options.world, "shm", ours)
    sockets = measure(options.world, "gloo", [*ours, "sum of torch"])
    table = Table("collective", "bytes", "shared us", "gloo us", "torch's sum us", "times gloo")
    for (kind, nbytes), seconds in shared.items():
        other = sockets[kind, nbytes]
        own = sockets["sum of torch", nbytes] if kind == "all_reduce" else None
        best = other if own is None else min(own, other)
        table.add_row(
            kind, f"{nbytes:,}", f"{seconds * 1e6:.1f}", f"{other * 1e6:.1f}",
            "" if own is None else f"{own * 1e6:.1f}", f"{best / seconds:.1f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    median, late = overhead(options.world)
    console.print(f"a call that does nothing: {median * 1e6:.0f} us, 1 % take {late * 1e6:.0f} us")


if __name__ == "__main__":
    main()
