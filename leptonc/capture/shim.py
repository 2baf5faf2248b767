"""A wrapper for models that return plain dataclasses, which torch.export cannot take apart."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from leptonc.capture.origin import SHIM


@dataclasses.dataclass(frozen=True)
class Box:
    """A dataclass instance as a pytree node; unflattening one gives the user's class again."""

    cls: type
    names: tuple[str, ...]
    values: tuple[Any, ...]


def _unbox(values: Iterable[Any], context: Any) -> Any:
    cls, names = context  # the class and the names of its fields
    return cls(**dict(zip(names, values, strict=True)))


pytree.register_pytree_node(Box, lambda b: (list(b.values), (b.cls, b.names)), _unbox)


def needs_shim(error: BaseException) -> bool:
    """Whether an export failed for the type of the result."""
    text = str(error).lower()
    return "output" in text and ("unsupported" in text or "of type" in text or "pytree" in text)


class Shim(torch.nn.Module):
    """Runs the model and returns the flat leaves of its result.

    The structure goes to ``keep``, not to an attribute: torch.export puts those back.
    """

    def __init__(self, inner: torch.nn.Module, keep: Callable[[pytree.TreeSpec], None]) -> None:
        super().__init__()
        setattr(self, SHIM, inner)
        self.training = inner.training

        def forward(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
            leaves, spec = pytree.tree_flatten(boxed(inner(*args, **kwargs)))
            keep(spec)
            return tuple(leaves)

        forward.__signature__ = inspect.signature(inner.forward)  # type: ignore[attr-defined]
        self.forward = forward


def boxed(result: Any) -> Any:
    """Return ``result`` with every dataclass instance as a ``Box``."""

    def box(leaf: Any) -> Any:
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        names = tuple(f.name for f in dataclasses.fields(leaf) if f.init)
        return Box(type(leaf), names, tuple(boxed(getattr(leaf, n)) for n in names))

    return pytree.tree_map(box, result)
