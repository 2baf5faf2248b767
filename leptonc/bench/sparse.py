"""When leaving out zeros pays: ``python -m leptonc.bench.sparse [--threads 1,2]``.

Linear layers and 1x1 convolutions of several sizes, of whose weights 80 and 90 % are zero, one by
one or in blocks of 8 and 16 outputs. The compiler times both ways itself, as in any compile; what
it measured and chose is printed, in ms.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import leptonc

# rows (or pixels of an image's side), inputs, outputs
LINEAR = ((1, 1024, 1024), (64, 768, 768), (128, 768, 3072), (384, 3072, 768))
POINTWISE = ((56, 64, 256), (28, 256, 256), (14, 1024, 256), (7, 512, 2048))
SPARSITIES, BLOCKS = (0.8, 0.9, 0.95), (1, 8, 16)


def weights(n: int, k: int, sparsity: float, block: int, seed: int = 0) -> torch.Tensor:
    """Return ``f32[n,k]`` of which that part is zero, in blocks of so many outputs."""
    g = torch.Generator().manual_seed(seed)
    kept = torch.rand(-(-n // block), k, generator=g) >= sparsity
    return torch.randn(n, k, generator=g) * kept.repeat_interleave(block, 0)[:n]


def measure(net: nn.Module, x: torch.Tensor, threads: int) -> tuple[dict[str, float], str]:
    """Return the seconds of both ways, and the one chosen."""
    made = leptonc.compile(net, x, threads=threads, cache=False, tune=True, verify="off")
    for spec in made.specializations:
        for answer in spec.answers.values():
            if answer.chosen in ("dense", "sparse"):
                return dict(answer.times), answer.chosen
    return {}, "not asked"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="leptonc.bench.sparse")
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args(argv)
    made = Table("layer", "threads", "zeros", "block", "dense ms", "sparse ms", "ratio", "chosen")
    for threads in map(int, args.threads.split(",")):
        for shape, pointwise in [*((s, False) for s in LINEAR), *((s, True) for s in POINTWISE)]:
            rows, k, n = shape
            for sparsity in SPARSITIES:
                for block in BLOCKS:
                    w = weights(n, k, sparsity, block)
                    net, x, name = _layer(pointwise, rows, k, n, w)
                    times, chosen = measure(net, x, threads)
                    dense, sparse = (1e3 * times.get(t, float("nan")) for t in ("dense", "sparse"))
                    made.add_row(
                        name, str(threads), f"{sparsity:.0%}", f"{block}x1", f"{dense:.3f}",
                        f"{sparse:.3f}", f"{dense / sparse:.2f}", chosen,
                    )  # fmt: skip
    Console(width=120).print(made)


def _layer(
    pointwise: bool, rows: int, k: int, n: int, w: torch.Tensor
) -> tuple[nn.Module, torch.Tensor, str]:
    if pointwise:
        conv = nn.Conv2d(k, n, 1).eval()
        conv.weight = nn.Parameter(w.reshape(n, k, 1, 1))
        x = torch.randn(1, k, rows, rows)
        return nn.Sequential(conv).eval(), x, f"1x1 {k} to {n}, {rows}x{rows}"
    linear = nn.Linear(k, n).eval()
    linear.weight = nn.Parameter(w)
    return nn.Sequential(linear).eval(), torch.randn(rows, k), f"linear {k} to {n}, {rows} rows"


if __name__ == "__main__":
    main()
