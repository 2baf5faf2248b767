"""Run suites: set every contestant up, measure them interleaved, print, and keep the figures."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from leptonc.bench import busy as spinners
from leptonc.bench import chart, machine, peers, protocol, record, suites, table
from leptonc.bench.rows import OURS, Entry, Row
from leptonc.errors import LeptoncError
from leptonc.runtime.governor import affinity_cores

WIDE = 160  # columns of the tables in a file or a pipe
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is to be measured: networks x batches x threads, against these peers.

    ``busy``: processes that spin on the same cores meanwhile.
    """

    compile_fn: Callable[..., Any]
    peers: Sequence[str]
    seconds: float
    rest_s: float = protocol.REST_S
    busy: int = 0

    def run(self, net: suites.Net, batch: int, threads: int, say: Say) -> Row:
        """Return the row of one network: set-up of each contestant, then the interleaved rounds."""
        model, inputs = suites.build(net), net.inputs(batch)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with peers.job(net.name, model, inputs, threads) as job, torch.no_grad():
                return self._run(job, batch, say, net.single)
        finally:
            torch.set_num_threads(before)
            torch.compiler.reset()
            gc.collect()

    def _run(self, job: peers.Job, batch: int, say: Say, single: bool) -> Row:
        want = job.model(*job.inputs)
        made: list[Any] = []
        calls: dict[str, protocol.Call] = {}
        entries: dict[str, Entry] = {}
        stats: dict[str, Any] = {}
        for name in (OURS, *self.peers):
            say(f"setting up {name}")
            prepare = self._compile(made) if name == OURS else peers.PEERS[name]
            entries[name], call = _set_up(name, prepare, job, want)
            if call is not None:
                calls[name] = call
        say(f"measuring for {self.seconds:g} s")
        with protocol.pinned(job.threads), spinners.spinning(self.busy):
            times = protocol.measure(calls, self.seconds, rest_s=self.rest_s)
            for net in made:
                stats.update(getattr(net, "stats", {}))
                stats.update(_heaviest(net, job.inputs) if single else {})
        for name, t in times.items():
            entries[name] = Entry(t, entries[name].setup, entries[name].error)
        return Row(job.name, batch, job.threads, entries, job.export, stats)

    def _compile(self, made: list[Any]) -> Callable[[peers.Job], protocol.Call]:
        """Return leptonc's set-up; what it compiles is put into ``made``."""

        def prepare(job: peers.Job) -> protocol.Call:
            net = self.compile_fn(job.model, job.inputs, threads=job.threads)
            made.append(net)
            inputs = job.inputs
            return lambda: net(*inputs)

        return prepare


def _heaviest(net: Any, inputs: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Return the figures of the unit that takes most of the time, and the machine's limits.

    A unit that only moves data (a change of layout) is taken where there is no other.
    """
    profile = net.profile(*inputs)
    if not profile.units:
        return {}
    unit = max(profile.units, key=lambda u: (u.flops > 0, u.us))
    return {
        "unit": unit.algorithm,
        "unit_us": unit.us,
        "unit_gflops": unit.gflops,
        "unit_gbytes": unit.gbytes,
        "peak_gflops": profile.limits.gflops,
        "peak_gbytes": profile.limits.gbytes,
    }


def _set_up(
    name: str, prepare: Callable[[peers.Job], protocol.Call], job: peers.Job, want: Any
) -> tuple[Entry, protocol.Call | None]:
    """Return an entry without times, and the call; a contestant that fails gives its reason."""
    if (reason := peers.missing(name)) is not None:
        return Entry(reason=reason), None
    try:
        if name in peers.NEEDS_ONNX:
            job.onnx()  # a step of its own: its time stands in the row, not in each peer's set-up
        with protocol.footprint() as setup:
            call = prepare(job)
            got = call()
    except Exception as e:  # whatever a peer throws makes a blank cell
        return Entry(reason=f"{type(e).__name__}: {_first_line(e)}"), None
    return Entry(setup=setup, error=protocol.worst_error(got, want)), call


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:200] if lines else ""


def plan(compile_fn: Callable[..., Any], peer_text: str, seconds: float, busy: int = 0) -> Plan:
    """Return a plan against the peers that ``peer_text`` names. Raises LeptoncError."""
    return Plan(compile_fn, peers.chosen(peer_text), seconds, busy=busy)


def main(
    compile_fn: Callable[..., Any],
    suite: Sequence[str],
    threads: Sequence[int],
    batches: Sequence[int],
    peer_text: str = "all",
    only: Sequence[str] | None = None,
    seconds: float = 6.0,
    json_path: Path | None = None,
    chart_path: Path | None = None,
    console: Console | None = None,
    busy: int = 0,
) -> list[Row]:
    """Measure and print; write JSON and a chart where paths are given. Returns the rows.

    Args:
        compile_fn: ``leptonc.compile``.
        suite: names of suites.
        threads: thread counts.
        batches: batch sizes.
        peer_text: ``all``, ``none`` or names by comma.
        only: names of networks; None takes all.
        seconds: time of the rounds of one row.
        json_path: file for all figures.
        chart_path: PNG of the ratios.
        console: where to print.
        busy: processes that spin on the same cores while times are taken.

    Raises:
        LeptoncError: an unknown suite, network or peer, or more threads than cores.
    """
    console = console or wide_console()
    nets, todo = suites.pick(suite, only), plan(compile_fn, peer_text, seconds, busy)
    _check(threads, batches, seconds, chart_path)
    if busy < 0:
        raise LeptoncError(f"busy processes: expected 0 or more, got {busy}")
    facts = machine.facts(suite=suite, peers=todo.peers, seconds=seconds, busy=busy)
    rows: list[Row] = []
    skipped: list[str] = []
    with console.status("starting") as status:
        for net in nets:
            if not net.available:
                skipped.append(f"{net.name}: {net.needs} is not installed")
                continue
            for batch, count in ((b, t) for b in batches for t in threads):
                title = f"{net.name}, batch {batch}, {count} thread(s)"
                row = todo.run(net, batch, count, lambda s, t=title: status.update(f"{t}: {s}"))
                rows.append(row)
                if json_path is not None:  # a run of an hour that is cut short keeps its figures
                    record.write(json_path, rows, facts, skipped)
                console.print(table.line(row), highlight=False, soft_wrap=True)
    table.show(console, rows, facts, skipped)
    if json_path is not None:
        record.write(json_path, rows, facts, skipped)
        console.print(f"figures: {json_path}", highlight=False)
    if chart_path is not None:
        chart.draw(record.plain(rows, facts, skipped), chart_path)
        console.print(f"chart: {chart_path}", highlight=False)
    return rows


def wide_console() -> Console:
    """Return standard output; as wide as the tables need where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def _check(
    threads: Sequence[int], batches: Sequence[int], seconds: float, chart_path: Path | None
) -> None:
    """Refuse what cannot be measured before minutes are spent on it."""
    cores = affinity_cores()
    for n in threads:
        if not 1 <= n <= cores:
            raise LeptoncError(f"{n} threads: this process may use 1 to {cores} cores")
    if any(b < 1 for b in batches):
        raise LeptoncError(f"batch sizes must be at least 1, got {', '.join(map(str, batches))}")
    if not seconds > 0:
        raise LeptoncError(f"seconds must be positive, got {seconds:g}")
    if chart_path is not None:
        chart.check()
