"""Commands that measure: bench."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from leptonc.cli.app import app
from leptonc.cli.options import numbers


@app.command()
def bench(
    suite: Annotated[str, typer.Option(help="tiny, cnn, encoder, zoo, kernels; by comma")] = "tiny",
    threads: Annotated[str, typer.Option(help="thread counts, by comma")] = "1,2",
    batch: Annotated[str, typer.Option(help="batch sizes, by comma")] = "1",
    peers: Annotated[str, typer.Option(help="all, none, or names by comma")] = "all",
    only: Annotated[str | None, typer.Option(help="only these nets, by comma")] = None,
    seconds: Annotated[float, typer.Option(help="time per net and thread count, in seconds")] = 6.0,
    json: Annotated[Path | None, typer.Option(help="write all figures to this file")] = None,
    chart: Annotated[Path | None, typer.Option(help="draw the table into this PNG")] = None,
    busy: Annotated[int, typer.Option(help="processes that spin on the same cores")] = 0,
) -> None:
    """Measure leptonc against its peers, interleaved in one run."""
    runner = importlib.import_module("leptonc.bench.runner")
    api = importlib.import_module("leptonc.api")
    runner.main(
        api.compile, suite.split(","), numbers("--threads", threads), numbers("--batch", batch),
        peers, only.split(",") if only else None, seconds, json, chart, busy=busy,
    )  # fmt: skip
