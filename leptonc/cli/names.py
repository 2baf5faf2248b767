"""What ``MODULE:CALLABLE`` names: imported from a path or a module, told in one line where not."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from leptonc.errors import LeptoncError


def model_of(spec: str) -> Any:
    """Return the model that ``MODULE:CALLABLE`` makes (or is), in evaluation mode."""
    found = named_in(spec)
    torch = importlib.import_module("torch")
    model = found if isinstance(found, torch.nn.Module) else _made(found, spec)
    return model.eval()


def named_in(spec: str) -> Any:
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
