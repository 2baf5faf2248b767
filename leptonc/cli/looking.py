"""Commands that look at a program, the passes and the machine: ir, passes, doctor."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from leptonc.cli.app import app
from leptonc.cli.names import model_of
from leptonc.cli.options import Inputs, Model, Pipeline, inputs_of, wide
from leptonc.errors import LeptoncError


@app.command()
def ir(
    model: Model,
    input: Inputs = None,
    pipeline: Pipeline = "O2",
    after: Annotated[str | None, typer.Option(help="stop after this pass")] = None,
    before: Annotated[bool, typer.Option(help="print the program as captured")] = False,
) -> None:
    """Print a model's IR, as captured or after passes."""
    row = _until(pipeline, after)  # a wrong name is told before the capture's seconds
    made, inputs = model_of(model), inputs_of(input)
    leptonc = importlib.import_module("leptonc")
    fn = leptonc.capture(made, inputs)
    if not before:
        fn = leptonc.optimize(fn, row)
    Console().print(fn, soft_wrap=True)


@app.command()
def passes() -> None:
    """List passes, their options and the named pipelines."""
    package = importlib.import_module("leptonc.passes")
    pipeline = importlib.import_module("leptonc.pipeline")
    table = Table("pass", "options", "what it does", box=None)
    for name in sorted(package.REGISTRY):
        cls = package.load(name)
        options = ", ".join(
            f"{f.name.replace('_', '-')}={str(f.default).lower()}" for f in pipeline.options(cls)
        )
        table.add_row(name, options, (cls.__doc__ or "").strip().splitlines()[0])
    console = wide()
    console.print(table)
    for name, text in package.PIPELINES.items():
        console.print(f"{name}: {text}", highlight=False, soft_wrap=True)


@app.command()
def doctor(
    clear: Annotated[bool, typer.Option(help="empty the compile cache")] = False,
) -> None:
    """Say what leptonc sees: processor, cores and quota, versions, cache."""
    report = importlib.import_module("leptonc.show.doctor")
    if clear:
        importlib.import_module("leptonc.runtime.cache").CompileCache().clear(kernels=True)
    table = Table(box=None, show_header=False)
    for name, text in report.facts():
        table.add_row(f"[bold]{name}[/bold]", text)
    wide().print(table)


def _until(pipeline: str, after: str | None) -> str:
    """Return the pipeline string cut behind the last pass named ``after``."""
    package = importlib.import_module("leptonc.passes")
    row = package.pipeline(pipeline)
    if after is None:
        return pipeline
    at = [i for i, p in enumerate(row) if after == p.NAME]
    if not at:
        names = ", ".join(dict.fromkeys(p.NAME for p in row))
        raise LeptoncError(f"pass {after!r} is not in this pipeline; it has: {names}")
    return ",".join(str(p) for p in row[: at[-1] + 1])
