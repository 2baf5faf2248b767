"""The command's application, to which the modules of commands add theirs."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer
from rich.console import Console

from leptonc.errors import LeptoncError

app = typer.Typer(
    help="An optimizing compiler for PyTorch inference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
