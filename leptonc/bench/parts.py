"""Parts, workers and pools on this machine, measured: ``python -m leptonc.bench.parts --help``.

Contestants take turns in interleaved blocks (:mod:`leptonc.bench.protocol`). "pipeline" is
``leptonc.run`` on the parts with micro-batches, "parallel" a worker for each device with its share
of the cores; both against the whole net with all cores. "pool" shares batches out to two members,
one of which computes everything twice, against the fast one alone: with speeds 1 and 1/2 the best
is 1.50. A pool on too few cores cannot get there: members take them from each other.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc.bench import protocol, suites
from leptonc.runtime.governor import Governor

if TYPE_CHECKING:
    from leptonc.parts.part import Parts

SLOWER = 2  # calls that the slow member makes of each


@dataclass(frozen=True)
class Options:
    """How much is measured: rows of a batch, parts or workers, micro-batches, seconds a net."""

    batch: int = 16
    devices: int = 2
    microbatches: int = 4
    seconds: float = 5.0


@dataclass(frozen=True)
class Speed:
    """A way to run batches: rows a second (median of rounds) and the ratio to what it replaces."""

    net: str
    way: str
    per_second: float
    ratio: protocol.Ratio | None


@dataclass(frozen=True)
class Balance:
    """The split of a net: the slowest part over the mean, as estimated and as measured alone."""

    net: str
    parts: int
    estimated: float
    measured: float


@dataclass(frozen=True)
class Share:
    """A member of a pool: its part of the rows, and of the sum of speeds measured alone."""

    net: str
    member: str
    rows: float
    speed: float


class Counted:
    """A callable that computes ``times`` times what ``net`` does, and counts rows."""

    def __init__(self, net: Any, times: int = 1) -> None:
        self.net, self.times, self.rows = net, times, 0

    def __call__(self, x: Tensor) -> Any:
        """Return what the net returns."""
        self.rows += len(x)
        for _ in range(self.times - 1):
            self.net(x)
        return self.net(x)


def streams(net: suites.Net, asked: Options) -> tuple[list[Speed], Balance]:
    """Return the speed of the whole net, the pipeline and the workers; the split's balance."""
    model, x = suites.build(net), net.inputs(asked.batch)
    cores = Governor().decision.cores
    each = max(1, cores // asked.devices)
    rows = -(-asked.batch // asked.microbatches)
    parts = leptonc.split(model, asked.devices, net.inputs(rows), threads=each)
    whole = leptonc.compile(model, x, threads=cores)
    worker = leptonc.compile(model, net.inputs(-(-asked.batch // asked.devices)), threads=each)
    with leptonc.Parallel(worker, asked.devices) as workers:
        times = protocol.measure(
            {
                "whole": lambda: whole(*x),
                "pipeline": lambda: leptonc.run(parts, x, microbatches=asked.microbatches, batch=0),
                "parallel": lambda: workers(*x),
            },
            asked.seconds,
        )
    return _speeds(net.name, times, "whole", asked.batch), _balance(net.name, parts, asked.seconds)


def pool(net: suites.Net, asked: Options) -> tuple[list[Speed], list[Share]]:
    """Return the speed of the best member and of the pool, and each member's share of the rows."""
    model, x = suites.build(net), net.inputs(asked.batch)
    made = [leptonc.compile(model, x, threads=1, dynamic=_rows(model, asked)) for _ in range(2)]
    members = {"fast": Counted(made[0]), "slow": Counted(made[1], SLOWER)}
    alone = protocol.measure(
        {n: lambda call=call: call(*x) for n, call in members.items()}, asked.seconds
    )
    with leptonc.Pool(members) as shared:
        shared.batch(x)  # measures the members
        for member in members.values():
            member.rows = 0
        times = protocol.measure(
            {"fast": lambda: made[0](*x), "pool": lambda: shared.batch(x)}, asked.seconds
        )
    got = {n: member.rows for n, member in members.items()}
    speeds = {n: 1 / t.median for n, t in alone.items()}
    shares = [
        Share(net.name, n, got[n] / sum(got.values()), speeds[n] / sum(speeds.values()))
        for n in members
    ]
    return _speeds(net.name, times, "fast", asked.batch), shares


def _rows(model: nn.Module, asked: Options) -> dict[str, dict[int, leptonc.Dim]]:
    """Return that the first axis of the model's first input is a batch of any size."""
    first = next(iter(inspect.signature(model.forward).parameters))
    return {first: {0: leptonc.Dim("batch", max=max(2, asked.batch))}}


def _speeds(net: str, times: dict[str, protocol.Times], base: str, batch: int) -> list[Speed]:
    """Return the speed of every contestant, the ratio to ``base`` of all others."""
    return [
        Speed(net, name, batch / t.median,
              None if name == base else protocol.ratio(t, {base: times[base]}))
        for name, t in times.items()
    ]  # fmt: skip


def _balance(net: str, parts: Parts, seconds: float) -> Balance:
    """Return how even the parts are, each timed alone on its example."""
    examples = [p.plan.examples.of(p.index) for p in parts]
    calls = {p.name: lambda p=p, x=x: p(*x) for p, x in zip(parts, examples, strict=True)}
    alone = [t.median for t in protocol.measure(calls, seconds).values()]
    return Balance(net, len(parts), uneven([p.cost.seconds for p in parts]), uneven(alone))


def uneven(seconds: Sequence[float]) -> float:
    """Return the largest of some times over their mean: 1 if all are equal."""
    return max(seconds) * len(seconds) / sum(seconds)


def speed_table(speeds: Sequence[Speed]) -> Table:
    """Return throughputs and ratios."""
    t = Table("net", "way", "rows/s", "times", title="throughput")
    for s in speeds:
        t.add_row(s.net, s.way, f"{s.per_second:,.1f}", "" if s.ratio is None else str(s.ratio))
    return t


def balance_table(balances: Sequence[Balance]) -> Table:
    """Return how even the splits are."""
    t = Table("net", "parts", "estimated", "measured", title="slowest part / mean")
    for b in balances:
        t.add_row(b.net, str(b.parts), f"{b.estimated:.2f}", f"{b.measured:.2f}")
    return t


def share_table(shares: Sequence[Share]) -> Table:
    """Return what the members of pools got."""
    t = Table("net", "member", "of rows", "of speed", title="shares in a pool")
    for s in shares:
        t.add_row(s.net, s.member, f"{s.rows:.3f}", f"{s.speed:.3f}")
    return t


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m leptonc.bench.parts", description=__doc__)
    parser.add_argument("nets", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--batch", type=int, default=Options.batch)
    parser.add_argument("--devices", type=int, default=Options.devices)
    parser.add_argument("--microbatches", type=int, default=Options.microbatches)
    parser.add_argument("--seconds", type=float, default=Options.seconds)
    said = parser.parse_args(argv)
    asked = Options(said.batch, said.devices, said.microbatches, said.seconds)
    speeds, balances, shares = list[Speed](), list[Balance](), list[Share]()
    with torch.no_grad():
        for net in suites.pick(tuple(suites.SUITES), said.nets):
            found, balance = streams(net, asked)
            pooled, got = pool(net, asked)
            speeds += [*found, *pooled]
            balances.append(balance)
            shares += got
    console = console or Console()
    for table in (speed_table(speeds), balance_table(balances), share_table(shares)):
        console.print(table)


if __name__ == "__main__":
    main()
