"""Compile time, cold and from the cache: ``python -m leptonc.bench.compile_time NET...``.

Each figure comes from a process of its own. "cold" finds an empty cache, "warm" what "cold" left;
"shared" finds the kernels that the other networks of the table needed, not those of its own.
Seconds of the wall clock and, in brackets, of all processors, helper processes included: on a busy
machine only the latter can be compared. Imports are not counted, nor what is written to the cache
behind a compile that has returned.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields

import torch
from rich.console import Console
from rich.table import Table

import leptonc
from leptonc.bench import suites
from leptonc.settings import read_settings

DEFAULT = ("resnet50", "mobilenet_v2", "minilm_128")
TIMEOUT_S = 900


@dataclass(frozen=True)
class Times:
    """Seconds of one compile; ``own`` is ``total`` without capture, all but ``cpu`` wall clock.

    ``compiled`` is how many kernels and parts of kernels were compiled, by whomever.
    """

    cpu: float
    total: float
    capture: float
    passes: float
    schedule: float
    verify: float
    store: float
    own: float
    compiled: int

    def cell(self, name: str) -> str:
        """Return a field as a table prints it."""
        if name == "total":
            return f"{self.total:.1f} ({self.cpu:.1f})"
        value = getattr(self, name)
        return str(value) if isinstance(value, int) else f"{value:.2f}"


def measure(net: str) -> Times:
    """Return the times of compiling ``net`` in this process, which should have done nothing yet."""
    (found,) = suites.pick(tuple(suites.SUITES), [net])
    model, inputs = suites.build(found), found.inputs(1)
    for module in ("torch.export._trace", "leptonc.api"):
        importlib.import_module(module)
    with torch.no_grad():
        model(*inputs)  # what torch itself sets up at a first call is no compile time
    before, wall, cpu = _object_files(), time.perf_counter(), _processor_s()
    stats = leptonc.compile(model, inputs).stats
    cpu, total = _processor_s() - cpu, time.perf_counter() - wall
    stage = {
        n: stats.get(f"{n}_s", 0.0) for n in ("capture", "passes", "schedule", "verify", "store")
    }
    return Times(
        cpu=cpu,
        total=total,
        own=total - stage["capture"],
        compiled=_object_files() - before,
        **stage,
    )


def _processor_s() -> float:
    """Return processor seconds of this process and of the helpers that have ended."""
    return sum(os.times()[:4])


def _object_files() -> int:
    """Return how many kernels and parts are in the cache."""
    return sum(1 for _ in (read_settings().cache_dir / "kernels").glob("*/*.o"))


def elsewhere(net: str, cache_dir: str) -> Times:
    """Return what :func:`measure` gives in a new process that caches in ``cache_dir``."""
    setting = f"LEPTONC_CACHE_DIR={cache_dir}"
    command = ["env", setting, sys.executable, "-m", __spec__.name, "--measure", net]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    return Times(**json.loads(done.stdout.splitlines()[-1]))


def table(nets: tuple[str, ...]) -> Table:
    """Return cold, warm and shared times of ``nets``."""
    shown = [f.name for f in fields(Times) if f.name != "cpu"]
    made = Table("net", "cache", *shown, title="compile time in s: wall clock (processor)")
    for net in nets:
        with tempfile.TemporaryDirectory() as cache_dir:
            for state in ("cold", "warm"):
                made.add_row(net, state, *map(elsewhere(net, cache_dir).cell, shown))
        if len(nets) > 1:
            with tempfile.TemporaryDirectory() as cache_dir:
                for other in (n for n in nets if n != net):
                    elsewhere(other, cache_dir)
                made.add_row(net, "shared", *map(elsewhere(net, cache_dir).cell, shown))
    return made


def main(arguments: list[str]) -> None:
    """Measure one net for another process, or print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    known = [net.name for suite in suites.SUITES.values() for net in suite]
    parser.add_argument("nets", nargs="*", metavar="net", help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--measure", metavar="net", help="in this process, as JSON")
    found = parser.parse_args(arguments)
    for net in (*found.nets, *([found.measure] if found.measure else [])):
        if net not in known:
            parser.error(f"unknown net {net!r}; there are: {', '.join(known)}")
    if found.measure:
        print(json.dumps(asdict(measure(found.measure))))
        return
    Console(width=140).print(table(tuple(found.nets) or DEFAULT))


if __name__ == "__main__":
    main(sys.argv[1:])
