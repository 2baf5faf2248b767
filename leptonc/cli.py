"""The ``leptonc`` command: compile, explore, profile, bisect, ir, passes, doctor, bench."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from leptonc.errors import LeptoncError

app = typer.Typer(
    help="An optimizing compiler for PyTorch inference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Model = Annotated[
    str, typer.Argument(help="MODULE:CALLABLE, e.g. torchvision.models:resnet18 or net.py:make")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="shape of an input, 1x3x224x224, or 1x16:i64; once per input"),
]
Threads = Annotated[int | None, typer.Option(min=1, help="at most this many threads")]
Pipeline = Annotated[str, typer.Option(help="O0 to O3, or a pipeline string")]
Tune = Annotated[bool | None, typer.Option(help="time the ways to compute a unit")]
Precision = Annotated[str, typer.Option(help="strict, fp32 or fast")]
_INPUT = re.compile(r"(\d+(?:x\d+)*|scalar)(?::(\w+))?")


def main() -> None:
    """Run the command line; a LeptoncError ends it with its text and exit status 1."""
    try:
        app()
    except LeptoncError as e:
        console = Console(stderr=True)
        console.print("[red]leptonc:[/red] ", end="")
        console.print(str(e), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _version(asked: bool) -> None:
    if asked:
        print(f"leptonc {importlib.metadata.version('leptonc')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="print the version")
    ] = False,
) -> None:
    """Take the options that belong to no command."""


@app.command()
def compile(
    model: Model,
    input: Inputs = None,
    target: Annotated[str, typer.Option(help="where it will run: cpu")] = "cpu",
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
    _writable("--json", json)
    made, inputs = _model(model), _inputs(input)
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
    _writable("--output", output)
    view = importlib.import_module("leptonc.show.explorer.view")
    view.writer(output)  # a wrong suffix is told before the compile's seconds
    made, inputs = _model(model), _inputs(input)
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
    _writable("--json", json)
    _writable("--trace", trace)
    made, inputs = _model(model), _inputs(input)
    net = importlib.import_module("leptonc").compile(
        made, inputs, pipeline=pipeline, threads=threads, precision=precision
    )
    found = net.profile(*inputs)
    console = _wide()
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
    _writable("--write", write)
    judge = None if metric is None else _named_in(metric)
    files = importlib.import_module("leptonc.bisect.files")
    made, inputs = _model(model), files.read_all(input, _inputs)
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
    made, inputs = _model(model), _inputs(input)
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
    console = _wide()
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
    _wide().print(table)


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
        api.compile, suite.split(","), _numbers("--threads", threads), _numbers("--batch", batch),
        peers, only.split(",") if only else None, seconds, json, chart, busy=busy,
    )  # fmt: skip


def _writable(option: str, path: Path | None) -> None:
    """Raise before a long computation if its result could not be written."""
    if path is not None and not path.resolve().parent.is_dir():
        raise LeptoncError(f"{option} {path}: there is no directory {path.resolve().parent}")


def _wide() -> Console:
    """Return standard output; where it is no terminal, wide enough that tables do not wrap."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise LeptoncError(f"{option} {text}: expected whole numbers, by comma: 1,2") from None


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


def _model(spec: str) -> Any:
    """Return the model that ``MODULE:CALLABLE`` makes (or is), in evaluation mode."""
    found = _named_in(spec)
    torch = importlib.import_module("torch")
    model = found if isinstance(found, torch.nn.Module) else _made(found, spec)
    return model.eval()


def _named_in(spec: str) -> Any:
    """Return what ``MODULE:NAME`` names."""
    where, _, name = spec.partition(":")
    if not where or not name:
        raise LeptoncError(f"{spec!r}: expected MODULE:CALLABLE, e.g. torchvision.models:resnet18")
    with _importable(where) as module_name:
        found: Any = _module(where, module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            _no_such_name(where, name, found, part)
        found = getattr(found, part)
    return found


def _module(where: str, name: str) -> Any:
    """Return the imported module; what it raises while it is imported is told as such."""
    try:
        if name.partition(".")[0] == "torchvision":
            importlib.import_module("leptonc.bench.vision").beside("torchvision.models")
        return importlib.import_module(name)
    except Exception as e:
        raise LeptoncError(f"cannot import {where!r}: {type(e).__name__}: {e}") from e


def _no_such_name(where: str, name: str, found: Any, part: str) -> NoReturn:
    known = [n for n in dir(found) if callable(getattr(found, n)) and not n.startswith("_")]
    close = difflib.get_close_matches(part, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise LeptoncError(f"{where} has no {name!r}{hint}")


def _made(make: Any, spec: str) -> Any:
    torch = importlib.import_module("torch")
    if not callable(make):
        raise LeptoncError(f"{spec} is {type(make).__name__}; expected a module or what makes one")
    try:
        model = make()
    except Exception as e:
        raise LeptoncError(
            f"{spec}() failed: {type(e).__name__}: {e}. It is called without arguments; write a "
            "function of your own that gives the model, and name that: net.py:make"
        ) from e
    if not isinstance(model, torch.nn.Module):
        raise LeptoncError(f"{spec}() gives {type(model).__name__}; expected a torch.nn.Module")
    return model


@contextlib.contextmanager
def _importable(where: str) -> Iterator[str]:
    """Make a path or a module of the working directory importable for a moment."""
    path = Path(where)
    if where.endswith(".py") and not path.is_file():
        raise LeptoncError(f"there is no file {where}")
    folder = str(path.parent.resolve()) if where.endswith(".py") else os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield path.stem if where.endswith(".py") else where
    finally:
        sys.path.remove(folder)


def _inputs(specs: list[str] | None) -> tuple[Any, ...]:
    """Return example tensors: normal floats, or small non-negative integers."""
    if not specs:
        raise LeptoncError("give the shape of each input, e.g. --input 1x3x224x224")
    torch = importlib.import_module("torch")
    meaning = importlib.import_module("leptonc.meaning")
    made: list[Any] = []
    generator = torch.Generator().manual_seed(0)
    for spec in specs:
        m = _INPUT.fullmatch(spec)
        known = {t.value: dtype for t, dtype in meaning.TORCH_DTYPES.items()}
        if m is None or (m[2] or "f32") not in known:
            raise LeptoncError(
                f"--input {spec}: expected a shape, 1x3x224x224, or a shape and a type, 1x16:i64; "
                f"the types are {', '.join(known)}"
            )
        shape = () if m[1] == "scalar" else tuple(int(n) for n in m[1].split("x"))
        dtype = known[m[2] or "f32"]
        if dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            made.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return tuple(made)


if __name__ == "__main__":
    main()
