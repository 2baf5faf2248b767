"""capture > attributes: whether a model sets attributes of its modules while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from operator import is_not
from typing import Any

from torch import nn

_OWN = "torch.nn.modules."


class Attributes:
    """What the attributes of a model's modules are, containers one level deep.

    ``changed`` names the first that was another after ``kept()``, except for torch's own layers,
    which keep nothing but copies there (an LSTM its weights in a list); all are put back by then.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember the attributes of ``model`` and of all modules in it."""
        self._before = [(path, m, _held(m)) for path, m in model.named_modules()]
        self.changed = ""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put back what the block changes."""
        try:
            yield
        finally:
            for path, module, before in self._before:
                if name := _difference(before, _held(module)):
                    own = type(module).__module__.startswith(_OWN)
                    self.changed = self.changed or ("" if own else f"{path}.{name}".lstrip("."))
                    _put_back(module, before)


_Held = Mapping[str, tuple[Any, tuple[Any, ...]]]  # name -> value, what it contains


def _held(module: nn.Module) -> _Held:
    return {name: (value, _items(value)) for name, value in vars(module).items()}


def _items(value: Any) -> tuple[Any, ...]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return tuple(value) if isinstance(value, (list, set)) else ()


def _difference(before: _Held, after: _Held) -> str:
    """Return the name of an attribute that differs in identity or content, or ""."""
    for name in {**before, **after}:
        if name not in before or name not in after:
            return name
        (old, had), (new, has) = before[name], after[name]
        if old is not new or len(had) != len(has) or any(map(is_not, had, has)):
            return name
    return ""


def _put_back(module: nn.Module, before: _Held) -> None:
    attributes = vars(module)
    attributes.clear()
    for name, (value, items) in before.items():
        attributes[name] = value
        if isinstance(value, dict):
            value.clear()
            half = len(items) // 2
            value.update(zip(items[:half], items[half:], strict=True))
        elif isinstance(value, MutableSequence):
            value[:] = items
        elif isinstance(value, set):
            value.clear()
            value.update(items)
