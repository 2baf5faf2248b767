"""Commands that compile a model: compile, explore, profile, bisect."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax

from leptonc.cli.app import app
from leptonc.cli.names import model_of, named_in
from leptonc.cli.options import (
    Inputs,
    Model,
    Pipeline,
    Precision,
    Threads,
    Tune,
    inputs_of,
    wide,
    writable,
)


@app.command()
def compile(
    model: Model,
    input: Inputs = None,
    target: Annotated[
        str, typer.Option(help="cpu, cpu:N (processes), cuda or cuda:N (devices)")
    ] = "cpu",
    pipeline: Pipeline = "O2",
    threads: Threads = None,
    verify: Annotated[str, typer.Option(help="off, final, unit or pass")] = "final",
    precision: Precision = "fp32",
    remarks: Annotated[bool, typer.Option(help="say why rewrites were refused")] = False,
    explain: Annotated[bool, typer.Option(help="say how each unit is computed, and why")] = False,
    about: Annotated[
        list[str] | None,
        typer.Option(help="say everything about a module, unit or value, by its name"),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the report to this file")] = None,
    source: Annotated[bool, typer.Option(help="print the emitted schedule")] = False,
    cache: Annotated[bool, typer.Option(help="use the compile cache")] = True,
    tune: Tune = None,
) -> None:
    """Compile a model, check it against eager and print the report."""
    writable("--json", json)
    made, inputs = model_of(model), inputs_of(input)
    net = importlib.import_module("leptonc").compile(
        made, inputs, target=target, pipeline=pipeline, threads=threads,
        verify=verify, precision=precision, cache=cache, tune=tune,
    )  # fmt: skip
    console, card = Console(), importlib.import_module("leptonc.show.card")
    console.print(card.coloured(net.report(remarks=remarks)), soft_wrap=True)
    if explain:
        console.print(net.explain(), highlight=False, markup=False, soft_wrap=True)
    for name in about or ():
        console.print(net.explain(name), highlight=False, markup=False, soft_wrap=True)
    if json is not None:
        json.write_text(net.report(format="json"), encoding="utf-8")
    if source:
        console.print(Syntax(net.source, "python", word_wrap=True))


@app.command()
def explore(
    model: Model,
    input: Inputs = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="x.html, x.json (Model Explorer) or x.dot")
    ] = Path("explorer.html"),
    pipeline: Pipeline = "O2",
    threads: Threads = None,
    precision: Precision = "fp32",
    tune: Tune = None,
) -> None:
    """Compile and measure a model and write every stage of it as one page for a browser."""
    writable("--output", output)
    view = importlib.import_module("leptonc.show.explorer.view")
    view.writer(output)  # a wrong suffix is told before the compile's seconds
    made, inputs = model_of(model), inputs_of(input)
    net = importlib.import_module("leptonc").compile(
        made, inputs, pipeline=pipeline, threads=threads, precision=precision, tune=tune
    )
    net.profile(*inputs)
    console = Console()
    console.print(f"explorer: {net.explore(output)}", highlight=False, soft_wrap=True)


@app.command()
def profile(
    model: Model,
    input: Inputs = None,
    pipeline: Pipeline = "O2",
    threads: Threads = None,
    precision: Precision = "fp32",
    json: Annotated[Path | None, typer.Option(help="write all figures to this file")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="write the timeline to this file, for ui.perfetto.dev")
    ] = None,
) -> None:
    """Measure where a compiled model's time goes, unit by unit and thread by thread."""
    writable("--json", json)
    writable("--trace", trace)
    made, inputs = model_of(model), inputs_of(input)
    net = importlib.import_module("leptonc").compile(
        made, inputs, pipeline=pipeline, threads=threads, precision=precision
    )
    found = net.profile(*inputs)
    console = wide()
    console.print(found, highlight=False)
    if json is not None:
        json.write_text(found.to_json(), encoding="utf-8")
    if trace is not None:
        found.chrome_trace(trace)
        console.print(f"trace: {trace} (open it in ui.perfetto.dev)", highlight=False)


@app.command()
def bisect(
    model: Model,
    input: Annotated[
        list[str] | None,
        typer.Option("--input", help="inputs.pt, .npz, .npy or .safetensors, or a shape as above"),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="MODULE:CALLABLE that judges outputs, more is better")
    ] = None,
    drop: Annotated[float, typer.Option(help="how much lower the metric may be")] = 0.0,
    pipeline: Pipeline = "O2",
    threads: Threads = None,
    precision: Precision = "fp32",
    tune: Tune = None,
    write: Annotated[Path | None, typer.Option(help="write the test to this file")] = None,
) -> None:
    """Find the pass, rule or unit that makes a compiled model's result differ; 1 if there is one.

    The model is compiled without checks and without the cache, and run beside eager on the inputs.
    """
    writable("--write", write)
    judge = None if metric is None else named_in(metric)
    files = importlib.import_module("leptonc.bisect.files")
    made, inputs = model_of(model), files.read_all(input, inputs_of)
    net = importlib.import_module("leptonc").compile(
        made, inputs, pipeline=pipeline, threads=threads, precision=precision, tune=tune,
        verify="off", cache=False,
    )  # fmt: skip
    verdict = net.bisect(inputs, judge, drop)
    Console().print(str(verdict), highlight=False, markup=False, soft_wrap=True, end="")
    if write is not None and verdict.test:
        verdict.write(write)
        print(f"test: {write}")
    if verdict.guilty:
        raise typer.Exit(1)
