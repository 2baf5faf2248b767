"""Options that several commands take, and what they make of them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from leptonc.errors import LeptoncError

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


def writable(option: str, path: Path | None) -> None:
    """Raise before a long computation if its result could not be written."""
    if path is not None and not path.resolve().parent.is_dir():
        raise LeptoncError(f"{option} {path}: there is no directory {path.resolve().parent}")


def wide() -> Console:
    """Return standard output; where it is no terminal, wide enough that tables do not wrap."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def numbers(option: str, text: str) -> list[int]:
    """Return whole numbers given by comma; LeptoncError names the option else."""
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise LeptoncError(f"{option} {text}: expected whole numbers, by comma: 1,2") from None


def inputs_of(specs: list[str] | None) -> tuple[Any, ...]:
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
