"""Where a compiled model's time goes: every step timed on every thread, told by unit.

The time of a step runs from when all steps before it were done to when it is done on every thread,
so that the steps of one run add up to the run. A thread that is not computing meanwhile waits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console, ConsoleOptions, RenderResult
from torch import Tensor

from leptonc.backends.numba_cpu import peak
from leptonc.backends.numba_cpu.runtime import Executable
from leptonc.backends.numba_cpu.schedule import Schedule, TorchStep
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.types import TensorType
from leptonc.meaning import TORCH_DTYPES
from leptonc.show import profile_view, summary, trace

SECONDS = 1.0  # of runs, warm-up apart
WARM_UPS = 3
FEWEST, MOST = 5, 2000  # runs


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most: 10^9 float32 operations a second, 10^9 bytes a second."""

    gflops: float
    gbytes: float


@dataclass(frozen=True)
class UnitTime:
    """One unit of a profile.

    Attributes:
        index: its place in the program.
        name: the module path or name it got in the IR.
        where: path of the module it comes from.
        source: source line it comes from.
        shape: types of its results, as text.
        algorithm: how it is computed.
        kernels: native kernels of its steps, with how often each is called.
        runs: ``native``, ``torch``, ``both`` or ``nothing``.
        flops: floating-point operations.
        bytes: bytes that it reads and writes at least.
        us: microseconds, the median over the runs.
        wait_us: microseconds that its threads wait for each other, added up over the threads.
        share: its part of the time of all units, 0 to 1.
    """

    index: int
    name: str
    where: str
    source: str
    shape: str
    algorithm: str
    kernels: Mapping[str, int]
    runs: str
    flops: int
    bytes: int
    us: float
    wait_us: float
    share: float

    @property
    def gflops(self) -> float:
        """Return 10^9 operations a second."""
        return self.flops / self.us / 1e3 if self.us else 0.0

    @property
    def gbytes(self) -> float:
        """Return 10^9 bytes a second; above the memory's bandwidth where caches serve it."""
        return self.bytes / self.us / 1e3 if self.us else 0.0


@dataclass(frozen=True)
class StepTime:
    """One step: its unit, kernel (or ``torch``) and microseconds, the median over the runs."""

    unit: int
    kernel: str
    us: float
    wait_us: float


@dataclass(frozen=True)
class Span:
    """A thread at work on a step, in microseconds since the run began."""

    thread: int
    step: int
    begin_us: float
    end_us: float


@dataclass(frozen=True)
class Profile:
    """A measured program for one set of input sizes.

    Attributes:
        name: the model's.
        inputs: types of the inputs, as text.
        threads: of the program.
        runs: how many were measured.
        total_us: microseconds of a run, the median.
        fastest_us: microseconds of the fastest run; far below the median on a busy machine.
        limits: what this machine does at most with that many threads, measured.
        units: every unit in the order they run.
        steps: every step.
        spans: the timeline of one run, the one of median time.
    """

    name: str
    inputs: tuple[str, ...]
    threads: int
    runs: int
    total_us: float
    fastest_us: float
    limits: Limits
    units: tuple[UnitTime, ...]
    steps: tuple[StepTime, ...]
    spans: tuple[Span, ...]

    @property
    def flops(self) -> int:
        """Return the floating-point operations of a run."""
        return sum(u.flops for u in self.units)

    @property
    def gflops(self) -> float:
        """Return 10^9 operations a second over the whole run."""
        return self.flops / self.total_us / 1e3 if self.total_us else 0.0

    @property
    def wait_share(self) -> float:
        """Return the part of all threads' time that they spend waiting for each other."""
        all_us = self.threads * sum(u.us for u in self.units)
        return sum(u.wait_us for u in self.units) / all_us if all_us else 0.0

    def to_json(self) -> str:
        """Return everything as JSON text."""
        found = asdict(self)
        for row, unit in zip(found["units"], self.units, strict=True):
            row.update(gflops=unit.gflops, gbytes=unit.gbytes)
        found.update(gflops=self.gflops, wait_share=self.wait_share)
        return json.dumps(found, indent=1)

    def chrome_trace(self, path: str | Path) -> None:
        """Write the timeline as Chrome trace events: open the file in ui.perfetto.dev."""
        Path(path).write_text(json.dumps(trace.document(self)), encoding="utf-8")

    def __repr__(self) -> str:
        """Return one line: the table is what ``print`` shows."""
        plural = "s" * (self.threads != 1)
        return (
            f"<Profile of {self.name}: {self.total_us / 1e3:.3f} ms on {self.threads} "
            f"thread{plural}, {self.gflops:.0f} GF/s, {len(self.units)} units>"
        )

    def __str__(self) -> str:
        """Return a table of the heaviest units."""
        return profile_view.text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give rich the table, as wide as there is room."""
        yield from profile_view.parts(self, options.max_width)

    def _repr_html_(self) -> str:
        """Return the table of all units as HTML, for notebooks."""
        return profile_view.html(self)


def profile(
    name: str, program: Executable, inputs: Sequence[Tensor], seconds: float = SECONDS
) -> Profile:
    """Return where the time of ``program`` on contiguous ``inputs`` goes."""
    threads = program.schedule.threads
    runs = measure(program, inputs, seconds)
    limits = Limits(peak.gflops(threads), peak.gbytes(threads))
    return summarize(name, program.schedule, runs, limits)


def measure(
    program: Executable,
    inputs: Sequence[Tensor],
    seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Run for some ``seconds``; return i64[runs, steps, threads, 2], see ``Program.timed``."""
    views = program.schedule.outputs
    results = [torch.empty(v.shape, dtype=TORCH_DTYPES[v.dtype]) for v in views]
    addresses = [t.data_ptr() for t in (*inputs, *results)]
    for _ in range(WARM_UPS):
        program.timed(*addresses)
    found: list[np.ndarray] = []
    end = now() + seconds
    while len(found) < FEWEST or (now() < end and len(found) < MOST):
        found.append(program.timed(*addresses))
    return np.stack(found)


def wall_ns(times: np.ndarray) -> np.ndarray:
    """Return the nanoseconds of each step of one run: i64[steps] of i64[steps, threads, 2]."""
    if not len(times):
        return np.zeros(0, np.int64)
    done = np.maximum.accumulate(times[:, :, 1].max(1))
    return np.diff(done, prepend=_start(times))


def wait_ns(times: np.ndarray, python: Sequence[bool]) -> np.ndarray:
    """Return the nanoseconds that all threads together wait in each step.

    Nobody is said to wait in a ``python`` step: torch has threads of its own.
    """
    busy = (times[:, :, 1] - times[:, :, 0]).sum(1)
    waiting = np.maximum(times.shape[1] * wall_ns(times) - busy, 0)
    return np.where(np.asarray(python, bool), 0, waiting)


def _start(times: np.ndarray) -> int:
    """Return when the first thread began; threads that take no part in a step hold zeros there."""
    begun = times[0, :, 0]
    return int(begun[begun > 0].min(initial=times[0, 0, 0]))


def summarize(name: str, plan: Schedule, runs: np.ndarray, limits: Limits) -> Profile:
    """Return the profile that measured ``runs`` of a schedule make: see :func:`measure`."""
    python = [isinstance(s, TorchStep) for s in plan.steps]
    walls = np.stack([wall_ns(r) for r in runs])
    waits = np.stack([wait_ns(r, python) for r in runs])
    totals = walls.sum(1)
    middle = int(np.argsort(totals, kind="stable")[len(totals) // 2])
    wall, wait = np.median(walls, 0) / 1e3, np.median(waits, 0) / 1e3
    steps = tuple(
        StepTime(s.unit, "torch" if isinstance(s, TorchStep) else s.kernel.name, *map(float, us))
        for s, *us in zip(plan.steps, wall, wait, strict=True)
    )
    return Profile(
        name=name,
        inputs=tuple(_type(v) for v in plan.inputs),
        threads=plan.threads,
        runs=len(runs),
        total_us=float(np.median(totals)) / 1e3,
        fastest_us=float(totals.min()) / 1e3,
        limits=limits,
        units=_units(plan, steps, walls / 1e3, waits / 1e3),
        steps=steps,
        spans=_spans(runs[middle]),
    )


def _units(
    plan: Schedule, steps: Sequence[StepTime], walls: np.ndarray, waits: np.ndarray
) -> tuple[UnitTime, ...]:
    """Return the units with the medians of their steps' sums; arrays are f64[runs, steps]."""
    of = np.array([s.unit for s in steps], np.int64)
    rows: list[dict[str, Any]] = []
    for u, info in zip(summary.units(plan), plan.units, strict=True):
        mine = of == u.index
        rows.append(
            {
                "index": u.index, "name": u.name, "where": u.where, "source": u.source,
                "shape": ", ".join(_type(r.type) for r in info.op.results),
                "algorithm": _algorithm([s for s in steps if s.unit == u.index]),
                "kernels": u.kernels, "runs": u.runs, "flops": u.flops, "bytes": u.bytes,
                "us": float(np.median(walls[:, mine].sum(1))),
                "wait_us": float(np.median(waits[:, mine].sum(1))),
            }
        )  # fmt: skip
    total = sum(r["us"] for r in rows) or 1.0
    return tuple(UnitTime(**r, share=r["us"] / total) for r in rows)


def _type(type_: TensorType | View) -> str:
    return f"{type_.dtype.value}[{','.join(map(str, type_.shape))}]"


def _algorithm(steps: Sequence[StepTime]) -> str:
    """Return how a unit is computed: the kernel it spends most time in, without parameters."""
    longest = max(steps, key=lambda s: s.us, default=None)
    return "" if longest is None else longest.kernel.partition("[")[0]


def _spans(times: np.ndarray) -> tuple[Span, ...]:
    """Return what each thread does in one run; moments without work are left out."""
    if not len(times):
        return ()
    begin = _start(times)
    us = (times - begin) / 1e3
    found = [
        Span(t, i, float(us[i, t, 0]), float(us[i, t, 1]))
        for i, t in np.ndindex(times.shape[:2])
        if times[i, t, 1] > times[i, t, 0]
    ]
    return tuple(sorted(found, key=lambda s: (s.begin_us, s.thread)))
