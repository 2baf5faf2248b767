"""Where things come from in the user's model: module paths, source lines, argument names."""

from __future__ import annotations

import inspect
import re
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from os import sep
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from leptonc.ir.core import Origin

_TORCH = str(Path(torch.__file__).parent) + sep  # torchvision lies next to it
_STDLIB = sysconfig.get_paths()["stdlib"]
_HERE = str(Path(__file__).parent) + sep
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_REPEAT = re.compile(r"@\d+")  # torch marks the second call of one module as path@1
_LOCAL = re.compile(r"^L\['\w+'\]\.?")  # Dynamo's name for the variable that holds the model
SHIM = "leptonc_inner"  # the attribute under which a wrapped model stands


def origin_of(node: Node) -> Origin:
    """Return the module path and the innermost source line outside torch of a graph node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    path = "" if path.startswith("_empty_nn_module_stack") else _REPEAT.sub("", path)
    path = _LOCAL.sub("", path)
    if path == SHIM or path.startswith(SHIM + "."):
        path = path[len(SHIM) + 1 :]
    file, line = _user_frame(node)
    return Origin(path, f"{Path(file).name}:{line}" if file else "")


def source_files(nodes: Iterable[Node]) -> dict[str, str]:
    """Return the path of the file behind each source line (``net.py:12``) of some graph nodes.

    Two files of one name whose equal lines both make ops are not told apart: the first counts.
    """
    found: dict[str, str] = {}
    for node in nodes:
        file, line = _user_frame(node)
        if file:
            found.setdefault(f"{Path(file).name}:{line}", file)
    return found


def _user_frame(node: Node) -> tuple[str, str]:
    """Return file and line of the innermost frame outside torch; empty where there is none."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    return next(((f, n) for f, n in reversed(frames) if is_user_file(f)), ("", ""))


def is_user_file(path: str) -> bool:
    """Whether a frame of this file belongs to neither torch, leptonc's capture nor the runtime."""
    if path.startswith((_TORCH, _HERE, "<")):
        return False
    return not path.startswith(_STDLIB) or "site-packages" in path


def user_line(error: BaseException) -> str:
    """Return ``file:line: code`` of the innermost user frame of an error's traceback, or ""."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [f for f in traceback.extract_tb(seen.__traceback__) if is_user_file(f.filename)]
        inner = [f for f in frames if f.name != "<module>"] or frames
        if inner:
            f = inner[-1]
            return f"{f.filename}:{f.lineno}" + (f": {f.line}" if f.line else "")
        seen = seen.__cause__ or seen.__context__
    return ""


def argument_names(model: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[str]:
    """Return a readable name (``batch['ids'][0]``) for every flat leaf of ``(args, kwargs)``."""
    heads = [*positional_names(model, len(args)), *kwargs]
    names: list[str] = []
    for head, value in zip(heads, [*args, *kwargs.values()], strict=True):
        leaves, _ = pytree.tree_flatten_with_path(value)
        names += [head + pytree.keystr(path) for path, _ in leaves]
    return names


def signature_of(model: Any) -> inspect.Signature | None:
    """Return the signature of ``model.forward``, or None where it has none."""
    try:
        return inspect.signature(model.forward)
    except (AttributeError, TypeError, ValueError):
        return None


def positional_names(model: Any, count: int, *, every: bool = False) -> list[str]:
    """Return the names of the first ``count`` positional arguments of ``model.forward``.

    With ``every``, those of the arguments that may follow by position come behind them.
    """
    signature = signature_of(model)
    names: list[str] = []
    for p in signature.parameters.values() if signature else ():
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(count - len(names))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    names += [f"args[{i}]" for i in range(len(names), count)]
    return names if every else names[:count]
