"""How networks scale to two threads, and how far they could: ``python -m leptonc.bench.scaling``.

A round is a block each of: the network with one thread, with two, and with one while another
process runs the same program with one thread on the next core. Two copies share no work and wait
for nobody: what they lose is the machine's (memory, shared caches, clock, whoever else uses its
cores). With the times ``one`` and ``two`` and those of the copies, ``beside`` and ``other``,

- efficiency = one / (2 two);
- two copies = (one / beside + one / other) / 2: the efficiency of two copies;
- slower one = one / max(beside, other): of threads that divide the work evenly, as kernels do, and
  wait for the slower core.

The ratios are of the medians over rounds of each round's fastest call.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import leptonc
from leptonc.bench import protocol, suites

DEFAULT = (
    "resnet18", "resnet50", "vgg16", "densenet121", "inception_v3", "convnext_tiny",
)  # fmt: skip
ONE, TWO, BESIDE, OTHER = "one", "two", "beside", "other"
READY, GO, STOP = "ready", "go", "stop"
_SETTLE_S = 0.02  # until the other process runs


def ratios(times: Mapping[str, protocol.Times]) -> tuple[float, float, float]:
    """Return the efficiency, that of two copies, and that of the slower one, see above."""
    one, two, *copies = (statistics.median(times[n].best) for n in (ONE, TWO, BESIDE, OTHER))
    return one / (2 * two), sum(one / c for c in copies) / 2, one / max(copies)


def compiled(net: suites.Net, threads: int) -> Callable[[], Any]:
    """Return a call of the compiled network."""
    model, inputs = suites.build(net), net.inputs(1)
    run = leptonc.compile(model, inputs, threads=threads)
    return lambda: run(*inputs)


@contextlib.contextmanager
def copy_of(name: str) -> Iterator[subprocess.Popen[str]]:
    """Have another process that runs the network when it is told to, until it is told to stop."""
    command = [sys.executable, "-m", __spec__.name, name, "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            if _line(other) != READY:
                raise RuntimeError(f"no copy of {name} runs")
            yield other
        finally:
            other.terminate()


def _line(other: subprocess.Popen[str]) -> str:
    assert other.stdout is not None
    return other.stdout.readline().strip()


def tell(other: subprocess.Popen[str], word: str) -> float:
    """Send a word to the other process; return the seconds of its fastest call since the last."""
    assert other.stdin is not None
    other.stdin.write(f"{word}\n")
    other.stdin.flush()
    heard, _, seconds = _line(other).partition(" ")
    if heard != word:
        raise RuntimeError("the other process has ended")
    return float(seconds)


def serve(name: str) -> None:
    """Run the network on the second core between the words ``go`` and ``stop``."""
    (net,) = suites.pick(tuple(suites.SUITES), [name])
    call = compiled(net, 1)
    _stay(1)
    call()
    print(READY, flush=True)
    running, fastest = False, math.inf
    while True:
        told, _, _ = select.select([sys.stdin], [], [], 0 if running else None)
        if not told:
            start = time.perf_counter()
            call()
            fastest = min(fastest, time.perf_counter() - start)
            continue
        word = sys.stdin.readline().strip()
        if not word:  # the first process has ended
            return
        print(word, fastest, flush=True)
        running, fastest = word == GO, math.inf


def _stay(core: int) -> None:
    """Keep this process on one of its cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[core % len(allowed)]})


def measure(name: str, seconds: float) -> dict[str, protocol.Times]:
    """Return the times of a network, by block."""
    (net,) = suites.pick(tuple(suites.SUITES), [name])
    calls = {1: compiled(net, 1), 2: compiled(net, 2)}
    times = {block: protocol.Times() for block in (ONE, TWO, BESIDE, OTHER)}
    with copy_of(name) as other:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[ONE].rounds) < protocol.MIN_ROUNDS:
            for block in (ONE, TWO, BESIDE):
                threads = 2 if block == TWO else 1
                with protocol.pinned(threads):
                    if block == BESIDE:
                        tell(other, GO)
                        time.sleep(_SETTLE_S)
                    found = protocol.measure({block: calls[threads]}, 0.0, rounds=1)
                    if block == BESIDE:
                        times[OTHER].rounds.append([tell(other, STOP)])
                times[block].rounds += found[block].rounds
    return times


def table(rows: Mapping[str, Mapping[str, protocol.Times]]) -> Table:
    """Return the table of all networks."""
    made = Table("net", "1 thread ms", "2 threads ms", "efficiency", "two copies", "slower one")
    for name, times in rows.items():
        one, two = (1e3 * statistics.median(times[n].best) for n in (ONE, TWO))
        shown = [f"{r:.2f}" for r in ratios(times)]
        made.add_row(name, f"{one:.1f}", f"{two:.1f}", *shown)
    return made


def main(arguments: Sequence[str]) -> None:
    """Measure and print, or be the copy."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    parser.add_argument("nets", nargs="*", metavar="net", help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each network")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    with torch.no_grad():
        if args.serve:
            serve(args.nets[0])
            return
        rows = {name: measure(name, args.seconds) for name in args.nets or DEFAULT}
    Console(width=100).print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
