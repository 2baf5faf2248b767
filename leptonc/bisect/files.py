"""Bisect > files: inputs from a file; none of its formats runs code that the file brings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from leptonc.errors import InputError

_NUMBERED = re.compile(r"(?:arr_)?\d+")


def read_inputs(path: Path) -> tuple[Any, ...] | dict[str, Any]:
    """Return the arguments that a file holds: positional ones, or by name.

    ``.pt`` holds a tensor, a sequence or a dict of arguments (read with ``weights_only``);
    ``.npy`` one array; ``.npz`` and ``.safetensors`` arrays by the argument's name, or numbered
    (``arr_0``, ``1``) for positional ones.

    Raises:
        InputError: no such file, another suffix, or a file that cannot be read safely.
    """
    if path.suffix not in _READERS:
        raise InputError(f"{path}: inputs are read from {', '.join(_READERS)}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        found = _READERS[path.suffix](path)
    except Exception as e:  # each reader has errors of its own
        raise InputError(f"cannot read {path}: {type(e).__name__}: {e}") from e
    if isinstance(found, Mapping):
        return dict(found)
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def read_all(specs: Sequence[str] | None, shaped: Callable[[Any], tuple[Any, ...]]) -> Any:
    """Return the arguments that a command line's inputs give together, in order.

    What is no file's name is given to ``shaped``, and so is None. Raises InputError.
    """
    if not specs or not any(Path(s).suffix in _READERS for s in specs):
        return shaped(specs)
    made: list[Any] = []
    for spec in specs:
        found = read_inputs(Path(spec)) if Path(spec).suffix in _READERS else shaped([spec])
        if not isinstance(found, dict):
            made.extend(found)
        elif len(specs) == 1:
            return found
        else:
            raise InputError(f"{spec} names its arguments: give no other input beside it")
    return tuple(made)


def _named(found: Mapping[str, torch.Tensor]) -> Any:
    """Return tensors in the order of their numbers if all names are numbers, else by name."""
    if all(_NUMBERED.fullmatch(name) for name in found):
        return [found[n] for n in sorted(found, key=lambda n: int(n.removeprefix("arr_")))]
    return found


def _npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        return _named({n: torch.from_numpy(arrays[n]) for n in arrays.files})


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".pt": lambda p: torch.load(p, weights_only=True, map_location="cpu"),
    ".pth": lambda p: torch.load(p, weights_only=True, map_location="cpu"),
    ".npy": lambda p: torch.from_numpy(np.load(p, allow_pickle=False)),
    ".npz": _npz,
    ".safetensors": lambda p: _named(safetensors.torch.load_file(p)),
}
