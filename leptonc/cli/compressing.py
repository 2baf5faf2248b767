"""Commands that make a model smaller at some loss: compress."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from leptonc.cli.app import app
from leptonc.cli.names import model_of
from leptonc.cli.options import Inputs, Model, Threads, inputs_of, writable


@app.command()
def compress(
    model: Model,
    recipes: Annotated[
        str,
        typer.Argument(help="by comma: prune{ratio=0.5},quantize{forms=float+int8+w8}, low-rank"),
    ],
    input: Inputs = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="calibration inputs: .npz, .safetensors, .npy or .pt, one or more batches each; "
            "once per file; default: the example inputs",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="of what recipes draw")] = 0,
    measure: Annotated[bool, typer.Option(help="measure the time after every step")] = False,
    remarks: Annotated[bool, typer.Option(help="say what was left alone, and why")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="compile and save to this directory")
    ] = None,
    threads: Threads = None,
) -> None:
    """Compress a model by recipes and print the ledger of lossy steps; save it compiled."""
    writable("--output", output)
    # a wrong recipe is told before the model is made
    chosen = importlib.import_module("leptonc.compress.as_pass").recipes_of(recipes)
    made, inputs = model_of(model), inputs_of(input)
    leptonc = importlib.import_module("leptonc")
    batches = _batches(data, inputs)
    small = leptonc.compress(made, inputs, *chosen, data=batches, seed=seed)
    ledger, console = small.ledger.measure() if measure else small.ledger, Console()
    print(ledger, end="")
    print(f"calibrated on {len(batches)} batches" if data else "calibrated on the example inputs")
    for remark in small.remarks if remarks else ():
        console.print(str(remark), highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        where = leptonc.compile(small, inputs, threads=threads).save(output)
        console.print(f"saved: {where}", highlight=False, soft_wrap=True)


def _batches(files: Sequence[str] | None, example: tuple[Any, ...]) -> list[Any]:
    """Return the calibration batches of all files; the example without any."""
    if not files:
        return [example]
    read = importlib.import_module("leptonc.bisect.files").read_inputs
    return [batch for name in files for batch in _cut(read(Path(name)), example)]


def _cut(found: Any, example: tuple[Any, ...]) -> list[Any]:
    """Return arguments cut along their first axis into batches of the example's size.

    What is no multiple of it is left as it is, to be refused by name.
    """
    named = isinstance(found, dict)
    tensors = list(found.values()) if named else list(found)
    size, length = _rows(example), _rows(tensors)
    if not size or not length or length % size:
        return [found]
    parts = zip(*(t.split(size) for t in tensors), strict=True)
    return [dict(zip(found, p, strict=True)) if named else p for p in parts]


def _rows(tensors: Sequence[Any]) -> int:
    """Return the size of the first axis of all tensors; 0 where they have none in common."""
    sizes = {t.shape[0] if t.dim() else 0 for t in tensors}
    return sizes.pop() if len(sizes) == 1 else 0
