"""What the self-check costs: ``python -m leptonc.bench.verify [NET...] [--repeats N] [--json F]``.

Every network is compiled over and over in this process, with each kind of verification in turn, its
kernels known and its program not. The cost of a kind is what it adds to the passes (``"pass"``
checks between them) plus the stage "verify"; the one of ``"final"`` is held to two runs of eager
plus 20 % of the rest of the compile. (A stored program with its probe: :mod:`compile_time`, warm.)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import leptonc
from leptonc.bench import suites

DEFAULT = ("resnet18", "minilm_128", "efficientnet_lite0")
LEVELS = ("off", "final", "unit", "pass")
REPEATS = 5
EAGER_RUNS, SHARE = 2.0, 0.2  # what the default may cost: runs of eager, share of the compile
EAGER_CALLS = 10


@dataclass(frozen=True)
class Cost:
    """Medians over the repeats, in seconds: the whole compile, its self-check, one run of eager."""

    net: str
    level: str
    compile_s: float
    check_s: float
    eager_s: float

    @property
    def bound_s(self) -> float:
        """What the default may cost."""
        return EAGER_RUNS * self.eager_s + SHARE * (self.compile_s - self.check_s)


def costs(
    net: str, stages: Mapping[str, Sequence[Mapping[str, Any]]], eager_s: float
) -> list[Cost]:
    """Return the cost of each kind of verification from the stages of its compiles, by level."""
    plain = _median(stages["off"], "passes_s")
    found: list[Cost] = []
    for level, runs in stages.items():
        more = max(_median(runs, "passes_s") - plain, 0.0) if level == "pass" else 0.0
        check_s = _median(runs, "verify_s") + more
        found.append(Cost(net, level, _median(runs, "total_s"), check_s, eager_s))
    return found


def _median(runs: Sequence[Mapping[str, Any]], stage: str) -> float:
    return statistics.median(run.get(stage, 0.0) for run in runs)


def measure(net: suites.Net, repeats: int, threads: int) -> list[Cost]:
    """Return the costs of one network."""
    model, inputs = suites.build(net), net.inputs(1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            eager_s = _eager(model, inputs)
            stages: dict[str, list[dict[str, Any]]] = {level: [] for level in LEVELS}
            for _ in range(1 + repeats):  # the first round compiles kernels
                for level, runs in stages.items():
                    runs.append(_compiled(model, inputs, threads, level))
    finally:
        torch.set_num_threads(before)
    known = {level: runs[1:] for level, runs in stages.items()}
    return costs(net.name, known, eager_s)


def _eager(model: Any, inputs: Sequence[Any]) -> float:
    times: list[float] = []
    for _ in range(1 + EAGER_CALLS):
        start = time.perf_counter()
        model(*inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _compiled(model: Any, inputs: Any, threads: int, level: str) -> dict[str, Any]:
    start = time.perf_counter()
    made = leptonc.compile(model, tuple(inputs), threads=threads, verify=level, cache=False)
    return {**made.stats, "total_s": time.perf_counter() - start}


def table(rows: Sequence[Cost]) -> Table:
    """Return the costs; only the default is held to its bound."""
    made = Table("net", "verify", "compile s", "check s", "eager runs", "may cost s", "")
    for r in rows:
        kept = r.level != "final" or r.check_s <= r.bound_s
        made.add_row(
            r.net, r.level, f"{r.compile_s:.3f}", f"{r.check_s:.3f}",
            f"{r.check_s / r.eager_s:.1f}", f"{r.bound_s:.3f}" if r.level == "final" else "",
            "" if kept else "over",
        )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; write JSON where a path is given."""
    parser = argparse.ArgumentParser(prog="leptonc.bench.verify")
    parser.add_argument("nets", nargs="*", default=DEFAULT)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    rows: list[Cost] = []
    for net in suites.pick(tuple(suites.SUITES), list(args.nets)):
        rows += measure(net, args.repeats, args.threads)
    Console(width=120).print(table(rows))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
