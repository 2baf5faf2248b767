"""Programs for the tests of worker groups; what they do stands in the directory's ``toy.json``."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path

import torch
from strategies.collectives import wrong_cases

PLAN = "toy.json"


def load(directory: Path, rank: int, comm):
    """Return the program: sums over the ranks, or the fault that the plan asks of one rank."""
    plan = json.loads((directory / PLAN).read_text())
    at = directory / "at"
    if plan.get("load_fault") and rank == plan["rank"]:
        at.write_text(str(time.monotonic()))
        FAULTS[plan["load_fault"]](comm)
    if plan.get("barrier", True):
        comm.barrier()

    def program(inputs):
        if plan.get("call_fault") and rank == plan["rank"] and not (directory / "off").exists():
            at.write_text(str(time.monotonic()))
            FAULTS[plan["call_fault"]](comm)
        return PROGRAMS[plan["program"]](comm, inputs)

    return program


def _total(comm, inputs):
    return [comm.all_reduce(x * (comm.rank + 1)) for x in inputs]


def _echo(comm, inputs):
    mine = torch.tensor([comm.rank, os.getpid(), torch.get_num_threads()])
    facts = comm.all_gather(mine.view(1, 3), 0, tuple(range(comm.world + 1)))
    return [facts, *inputs]


def _write(comm, inputs):
    return [inputs[1].add_(1)]


def _nothing(comm, inputs):
    return []


def _wrong(comm, inputs):
    return 3


def _mismatch(comm, inputs):
    return [comm.all_reduce(torch.ones(2 + comm.rank))]


def _cases(comm, inputs):
    wrong = wrong_cases(comm, inputs[0].tolist())
    told = torch.tensor([[len(wrong)]])
    if wrong:
        print(comm.rank, wrong, flush=True)
    return [comm.all_gather(told, 0, tuple(range(comm.world + 1)))]


def _raise(comm):
    raise ValueError("the toy's mistake")


def _exit(comm):
    os._exit(7)


def _kill(comm):
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(comm):
    os.kill(os.getpid(), signal.SIGSTOP)


def _segv(comm):
    os.kill(os.getpid(), signal.SIGSEGV)


def _memory_error(comm):
    raise MemoryError("no room for the toy")


def _memory_limit(comm):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    torch.zeros(1 << 28)


def _loop(comm):
    while True:
        pass


def _sleep(comm):
    time.sleep(600)


PROGRAMS = {
    "total": _total, "echo": _echo, "write": _write,
    "nothing": _nothing, "wrong": _wrong, "mismatch": _mismatch,
    "cases": _cases,
}  # fmt: skip
FAULTS = {
    "raise": _raise, "exit": _exit, "kill": _kill, "stop": _stop, "segv": _segv,
    "memory_error": _memory_error, "memory_limit": _memory_limit, "loop": _loop, "sleep": _sleep,
}  # fmt: skip
