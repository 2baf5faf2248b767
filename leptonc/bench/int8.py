"""int8 against the best int8 of peers: ``python -m leptonc.bench.int8 [NET...] [--threads 1,2]``.

Every contestant quantizes the same float32 network with the same calibration data: leptonc with
``Quantize()``, the others as :mod:`int8_peers` says. Times are interleaved (:mod:`protocol`);
errors are relative ones of the results against float32, on inputs that were not used for
calibration. ``fp32`` is leptonc's own float32 program.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc.bench import int8_peers, protocol, suites
from leptonc.bench.int8_peers import Job, Run

NETS = ("resnet18", "resnet50", "mobilenet_v2", "minilm_128")
SAMPLES, CHECKED = 16, 4  # calibration inputs, and inputs that errors are taken on
OURS, FLOAT = "leptonc", "fp32"


@dataclass(frozen=True)
class Figure:
    """One contestant: milliseconds (median of each round's best), relative error to float32."""

    net: str
    threads: int
    contestant: str
    ms: float | None
    error: float | None
    note: str = ""


def drawn(inputs: Sequence[Tensor], count: int, seed: int) -> tuple[tuple[Tensor, ...], ...]:
    """Return ``count`` inputs like ``inputs``: normal floats, whole numbers shuffled in place."""
    g = torch.Generator().manual_seed(seed)
    made: list[tuple[Tensor, ...]] = []
    for _ in range(count):
        one = []
        for t in inputs:
            if t.is_floating_point():
                one.append(torch.randn(t.shape, generator=g))
            elif int(t.max()) <= 1:  # a mask
                one.append(t)
            else:
                one.append(torch.randint(1, 20000, t.shape, generator=g, dtype=t.dtype))
        made.append(tuple(one))
    return tuple(made)


# ----- contestants --------------------------------------------------------------------------------


def _ours(job: Job) -> Run:
    recipe = leptonc.Quantize()
    small = leptonc.compress.compress(job.model, job.example, recipe, data=job.calibration)
    return _compiled(small, job)


def _float(job: Job) -> Run:
    return _compiled(job.model, job)


def _compiled(model: nn.Module, job: Job) -> Run:
    net = leptonc.compile(model, job.example, threads=job.threads)
    return lambda inputs: protocol.tensors(net(*inputs))


CONTESTANTS: Mapping[str, Callable[[Job], Run]] = {
    OURS: _ours, FLOAT: _float, **int8_peers.PEERS,
}  # fmt: skip


# ----- measuring ----------------------------------------------------------------------------------


def measure(name: str, threads: int, seconds: float, folder: Path) -> list[Figure]:
    """Return the figures of all contestants on one network."""
    (net,) = suites.pick(tuple(suites.SUITES), [name])
    model, example = suites.build(net), net.inputs(1)
    job = Job(
        model, example, drawn(example, SAMPLES, 1), threads, folder, transformer="minilm" in name
    )
    checked = drawn(example, CHECKED, 2)
    torch.set_num_threads(threads)
    with torch.no_grad():
        wanted = [protocol.tensors(model(*inputs)) for inputs in checked]
        runs, notes = int8_peers.prepared(CONTESTANTS, job)
        calls = {label: (lambda run=run: run(example)) for label, run in runs.items()}
        with protocol.pinned(threads):
            times = protocol.measure(calls, seconds)
        errors = {label: _error(run, checked, wanted) for label, run in runs.items()}
    return [
        Figure(
            name, threads, label, 1e3 * sorted(times[label].best)[len(times[label].best) // 2]
            if label in times else None, errors.get(label), notes.get(label, ""),
        )
        for label in CONTESTANTS
    ]  # fmt: skip


def _error(
    run: Run, checked: Sequence[Sequence[Tensor]], wanted: Sequence[Sequence[Tensor]]
) -> float:
    off = size = 0.0
    for inputs, want in zip(checked, wanted, strict=True):
        for a, b in zip(run(inputs), want, strict=True):
            off += float((a.double() - b.double()).square().sum())
            size += float(b.double().square().sum())
    return (off / size) ** 0.5


def table(figures: Sequence[Figure]) -> Table:
    """Return all figures; the ratio is that of the contestant's time to leptonc's."""
    made = Table("net", "threads", "contestant", "ms", "of leptonc's", "error", "")
    ours = {(f.net, f.threads): f.ms for f in figures if f.contestant == OURS}
    for f in figures:
        base = ours.get((f.net, f.threads))
        made.add_row(
            f.net, str(f.threads), f.contestant, "" if f.ms is None else f"{f.ms:.2f}",
            "" if f.ms is None or base is None else f"{f.ms / base:.2f}",
            "" if f.error is None else f"{f.error:.4f}", f.note,
        )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; write JSON where a path is given."""
    parser = argparse.ArgumentParser(prog="leptonc.bench.int8")
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    found: list[Figure] = []
    for name in args.nets:
        with tempfile.TemporaryDirectory(prefix="leptonc-bench-") as folder:
            for threads in map(int, args.threads.split(",")):
                found += measure(name, threads, args.seconds, Path(folder))
    Console(width=120).print(table(found))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
