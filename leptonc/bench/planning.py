"""How long a plan takes: ``python -m leptonc.bench.planning [RANKS]``.

Stacks of transformer layers, written down op by op, are planned for both objectives and, last,
under a limit of memory that the fastest plan breaks, for which the table tells by how much the plan
may be slower than the best there is. Milliseconds of the processor, which is what a busy machine
leaves to compare: the planner runs on one thread. The least of three runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.ir.core import Builder, Function, Value
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Attention, Linear
from leptonc.ir.kinds.data import Constant, Embedding
from leptonc.ir.kinds.norm import LayerNorm
from leptonc.ir.kinds.pointwise import Gelu
from leptonc.ir.kinds.shape import Reshape, Transpose
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of
from leptonc.shard.plan import Plan, plan

LAYERS = (12, 24, 48, 60)
_ALPHAS = {"all_reduce": 17e-6, "all_gather": 14e-6, "reduce_scatter": 14e-6, "all_to_all": 14e-6}
_RUNS = 3


@dataclass(frozen=True)
class Row:
    """One stack: its layers and ops, milliseconds of a plan by what was asked for, exactness.

    ``gap`` is that of the plan under a limit of memory.
    """

    layers: int
    ops: int
    milliseconds: tuple[float, ...]
    exact: bool
    gap: float


class _Stack(Builder):
    """A builder of transformer layers; weights are zeros that take no memory."""

    def __init__(self, width: int, heads: int, rows: int) -> None:
        super().__init__("stack")
        self.width, self.heads, self.rows = width, heads, rows

    def weight(self, *dims: int) -> Value:
        return self(Constant(const_of(torch.zeros(()).expand(dims))), hint="w")

    def linear(self, x: Value, n: int) -> Value:
        wide = x.type.shape[-1]
        assert isinstance(wide, int)
        return self(Linear(), x, self.weight(n, wide), self.weight(n))

    def normed(self, x: Value) -> Value:
        return self(LayerNorm(1, 1e-5), x, self.weight(self.width), self.weight(self.width))

    def split(self, x: Value) -> Value:
        y = self(Reshape((1, self.rows, self.heads, self.width // self.heads)), x)
        return self(Transpose((0, 2, 1, 3)), y)

    def layer(self, x: Value) -> Value:
        y = self.normed(x)
        q, k, v = (self.split(self.linear(y, self.width)) for _ in range(3))
        a = self(Transpose((0, 2, 1, 3)), self(Attention(0.125, causal=True), q, k, v))
        a = self(Reshape((1, self.rows, self.width)), a)
        x = self(Add(), x, self.linear(a, self.width))
        y = self(Gelu(), self.linear(self.normed(x), 4 * self.width))
        return self(Add(), x, self.linear(y, self.width))


def stack(layers: int, width: int = 1024, heads: int = 16, rows: int = 128) -> Function:
    """Return a decoder of ``layers`` layers over ``i64[1,rows]``, with a tied head."""
    b = _Stack(width, heads, rows)
    table = b.weight(4096, width)
    x = b(Embedding(), table, b.param(TensorType(DType.I64, (1, rows)), "ids"))
    for _ in range(layers):
        x = b.layer(x)
    return b.finish(b(Linear(), b.normed(x), table))


def cluster(ranks: int) -> Cluster:
    """Return devices of 10 teraflops and 1 TB/s that exchange 200 GB/s."""
    device = Device("device", {"f32": 1e13}, 1e12, launch_s=5e-6)
    return Cluster("bench", device, ranks, Link("link", 2e11, _ALPHAS, 2e-6))


def measure(layers: int, ranks: int) -> Row:
    """Return how long plans of a stack take in this process."""
    fn, devices = stack(layers), cluster(ranks)
    fast = plan(fn, devices)
    small = plan(fn, devices, objective="memory")
    between = (fast.figures.held + small.figures.held) / 2
    asked: tuple[Callable[[], Plan], ...] = (
        lambda: plan(fn, devices),
        lambda: plan(fn, devices, objective="memory"),
        lambda: plan(fn, devices, memory=between),
    )
    gap = plan(fn, devices, memory=between).gap
    return Row(layers, len(fn.ops), tuple(map(_least, asked)), fast.exact and small.exact, gap)


def _least(run: Callable[[], Plan]) -> float:
    """Return the milliseconds of the fastest of a few runs."""
    times = list[float]()
    for _ in range(_RUNS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def table(rows: list[Row], ranks: int) -> Table:
    """Return the rows as a table."""
    title = f"ms to plan for {ranks} ranks, everything included"
    heads = ("layers", "ops", "latency", "memory", "under a limit", "its gap", "others exact")
    made = Table(*heads, title=title)
    for r in rows:
        times = (f"{t:.0f}" for t in r.milliseconds)
        made.add_row(str(r.layers), str(r.ops), *times, f"{r.gap:.2%}", str(r.exact))
    return made


def main(arguments: list[str]) -> None:
    """Measure every stack and print the table."""
    ranks = int(arguments[0]) if arguments else 4
    Console().print(table([measure(layers, ranks) for layers in LAYERS], ranks))


if __name__ == "__main__":
    main(sys.argv[1:])
