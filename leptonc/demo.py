"""``make demo``: EfficientNet-Lite0 with its real weights on 20 real photos.

Everything comes from installed packages; nothing is downloaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from leptonc import api
from leptonc.bench import machine, protocol, runner, suites, table
from leptonc.bench.photos import NAME, Photos, load_model, load_photos
from leptonc.bench.rows import OURS
from leptonc.compiled import CompiledModel
from leptonc.errors import LeptoncError
from leptonc.runtime.governor import Governor

MIB = 1 << 20


@dataclass(frozen=True)
class Answers:
    """What a net says of the photos: how many labels are its first, or among its first five."""

    logits: Tensor
    top1: int
    top5: int


def answers(net: Any, photos: Photos) -> Answers:
    """Return what ``net`` says of each photo, one at a time."""
    with torch.no_grad():
        logits = torch.cat([net(image[None]) for image in photos.images])
    first = logits.topk(5, dim=1).indices == photos.labels[:, None]
    return Answers(logits, int(first[:, 0].sum()), int(first.any(dim=1).sum()))


def demo(
    console: Console, threads: list[int], peers: str, seconds: float, report: Path
) -> tuple[CompiledModel, Answers, Answers]:
    """Run the demo; return the compiled net and what eager and it say of the photos."""
    console.rule(f"{NAME}: compile")
    model, photos = load_model(), load_photos()
    weights = sum(p.numel() for p in model.parameters())
    console.print(f"{weights / 1e6:.2f} M weights, {len(photos.labels)} photos of 224 x 224 pixels")
    console.print("compiling; the first compile on a machine builds the kernels too ...")
    start = time.perf_counter()
    net = api.compile(model, photos.images[:1])
    console.print(f"compiled and checked against eager in {time.perf_counter() - start:.1f} s")
    console.print(net.report(), highlight=False, markup=False, soft_wrap=True)

    console.rule("the same answers")
    eager, ours = answers(model, photos), answers(net, photos)
    _say_answers(console, photos, eager, ours)

    console.rule("faster")
    _say_speed(console, photos, threads, peers, seconds)
    resident = protocol.memory("VmRSS")
    if resident is not None:
        console.print(
            f"memory of this process, torch and every peer in it: {resident / MIB:.0f} MiB"
        )
    net.explore(report)
    console.print(
        f"explorer: {report.resolve()} (open it in a browser)", highlight=False, soft_wrap=True
    )
    return net, eager, ours


def _say_answers(console: Console, photos: Photos, eager: Answers, ours: Answers) -> None:
    n = len(photos.labels)
    for name, a in (("eager", eager), (OURS, ours)):
        console.print(f"{name:<8} top-1 {a.top1}/{n}, top-5 {a.top5}/{n}", highlight=False)
    same = int((eager.logits.argmax(1) == ours.logits.argmax(1)).sum())
    error = protocol.worst_error(ours.logits, eager.logits)
    console.print(
        f"the same first class on {same}/{n} photos; largest difference of a logit "
        f"{error:.1e} of the largest logit",
        highlight=False,
    )


def _say_speed(
    console: Console, photos: Photos, threads: list[int], peers: str, seconds: float
) -> None:
    net = suites.Net(NAME, load_model, lambda batch: (photos.images[:batch],))
    plan = runner.plan(api.compile, peers, seconds)
    with console.status("measuring") as status:
        rows = [plan.run(net, 1, n, lambda s, n=n: status.update(f"{n} thread(s): {s}"))
                for n in threads]  # fmt: skip
    table.show(console, rows, machine.facts((NAME,), plan.peers, seconds), ())


def main(
    threads: Annotated[str, typer.Option(help="thread counts, by comma")] = "",
    peers: Annotated[
        str, typer.Option(help="by comma; inductor takes a minute of set-up")
    ] = "onnxruntime,openvino",
    seconds: Annotated[float, typer.Option(help="measuring time per thread count")] = 6.0,
    report: Annotated[Path, typer.Option(help="the explorer's file")] = Path("report.html"),
) -> None:
    """Compile EfficientNet-Lite0, compare answers and speed with eager, write a report."""
    console = runner.wide_console()
    try:
        cores = Governor().decision.cores
        counts = [int(n) for n in threads.split(",")] if threads else sorted({1, min(2, cores)})
        demo(console, counts, peers, seconds, report)
    except (LeptoncError, ValueError) as e:
        Console(stderr=True).print(f"leptonc: {e}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from e


if __name__ == "__main__":
    typer.run(main)
