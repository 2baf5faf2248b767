"""compress > checkpoint: a tree of tensors and plain values in one safetensors file, by one rename.

The tensors are the file's, the rest is JSON in its header: nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from leptonc.compress.recipe import CompressError


def save(path: Path, tree: Any) -> None:
    """Write ``tree`` (dicts, lists, tuples, tensors, numbers, texts, None) to ``path``.

    The file appears whole or not at all. Raises CompressError for a value of another type.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(tree, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        save_file(tensors, name, metadata={"tree": text})
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def load(path: Path) -> Any:
    """Return the tree in ``path``, tensors on the CPU. Raises CompressError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["tree"])
            return _unpacked(tree, {k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as e:
        raise CompressError(
            f"checkpoint {path} cannot be read: {e}; delete it, or pass resume=False"
        ) from e


def _packed(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``tree`` as JSON values; its tensors go to ``tensors``."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"dict": [[_packed(k, tensors), _packed(v, tensors)] for k, v in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {type(tree).__name__: [_packed(v, tensors) for v in tree]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise CompressError(f"checkpoint: cannot keep a {type(tree).__name__} of an optimizer's state")


def _unpacked(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in held}
    made = [_unpacked(v, tensors) for v in held]
    return tuple(made) if kind == "tuple" else made


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a ``state_dict`` on the CPU."""
    return {k: v.detach().to("cpu", copy=True) for k, v in state.items()}


def restore(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy weights into those of a module, wherever it is."""
    with torch.no_grad():
        for name, tensor in source.items():
            target[name].copy_(tensor)


__all__ = ["load", "on_cpu", "restore", "save"]
