"""capture > structure: how arguments and results are arranged, as JSON.

torch can write such a structure, too, but its reader imports modules that the text names. This one
imports nothing: containers of Python's own are known by name, another class is taken only if it is
loaded and registered with torch's pytrees already, or handed over; otherwise a stand-in with the
same fields takes its place, and whoever reads is told.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch.utils import _pytree as pytree

from leptonc.capture.plain import decode, encode
from leptonc.capture.record import Record
from leptonc.capture.shim import Box
from leptonc.errors import ArtifactError

_PLAIN: Mapping[str, type] = MappingProxyType({
    "tuple": tuple, "list": list, "dict": dict, "ordered_dict": OrderedDict, "deque": deque,
})  # fmt: skip
_PLAIN_NAMES = {cls: name for name, cls in _PLAIN.items()}
_FACTORIES = {f.__name__: f for f in (list, dict, int, float, tuple, set, str, bool)}
_DEEPEST = 100  # levels; Python itself takes no more brackets than twice as many
_LEAF = pytree.tree_structure(0)


def class_name(cls: type) -> str:
    """Return the name under which a class is found again."""
    return f"{cls.__module__}:{cls.__qualname__}"


# ----- writing ------------------------------------------------------------------------------------


def written(spec: pytree.TreeSpec) -> Any:
    """Return ``spec`` as what JSON can write. Raises ArtifactError: a class that has no such form.

    A leaf is None, all else ``[how, content, children]``.
    """
    if spec.is_leaf():
        return None
    kind, context = spec.type, spec.context
    how, content = _head(kind, context, spec.num_children)
    return [how, content, [written(child) for child in spec.children()]]


def _head(kind: Any, context: Any, count: int) -> tuple[str, Any]:
    if kind in _PLAIN_NAMES:
        return _PLAIN_NAMES[kind], encode(context)
    if kind is defaultdict:
        factory, keys = context
        name = None if factory is None else getattr(factory, "__name__", "")
        if name is not None and _FACTORIES.get(name) is not factory:
            raise ArtifactError(f"a defaultdict of {factory!r} cannot be saved; return a dict")
        return "defaultdict", [name, encode(keys)]
    if kind is namedtuple:
        return "namedtuple", [class_name(context), list(context._fields)]
    if kind is Box:
        cls, names = context
        return "dataclass", [class_name(cls), list(names)]
    if kind is Record:
        name, names, absent = context
        return "record", [name, list(names), list(absent)]
    try:
        return "class", [class_name(kind), encode(context), count]
    except ArtifactError as error:
        raise ArtifactError(f"a {class_name(kind)} cannot be saved: {error}") from None


# ----- reading ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Reader:
    """Reads structures back.

    Attributes:
        classes: classes that may be used, by ``class_name``.
        missing: names of classes that were not there, in the order they were met.
    """

    classes: Mapping[str, type] = dataclasses.field(default_factory=dict[str, type])
    missing: list[str] = dataclasses.field(default_factory=list[str])

    def spec(self, data: Any, depth: int = 0) -> pytree.TreeSpec:
        """Return the structure that ``written`` wrote. Raises ArtifactError for anything else."""
        if data is None:
            return _LEAF
        if depth > _DEEPEST:
            raise ArtifactError(f"a structure of more than {_DEEPEST} levels is not read")
        try:
            how, content, children = data
            read = [self.spec(child, depth + 1) for child in children]
            kind, context = _READERS[how](self, content, len(read))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise ArtifactError(f"not a saved structure: {str(data)[:80]} ({error})") from None
        return pytree.TreeSpec(kind, context, read)

    def found(self, name: str, fits: Callable[[Any], bool]) -> type | None:
        """Return the class of this name if it is loaded and ``fits``; nothing is imported."""
        if not isinstance(name, str):
            raise TypeError("expected a name")
        cls = self.classes.get(name) or _loaded(name)
        if isinstance(cls, type) and fits(cls):
            return cls
        if name not in self.missing:
            self.missing.append(name)
        return None

    def _plain(self, kind: type, content: Any, count: int) -> tuple[Any, Any]:
        context = decode(content)
        if kind in (dict, OrderedDict):
            _check_names(context, count)
        return kind, context

    def _defaultdict(self, content: Any, count: int) -> tuple[Any, Any]:
        name, keys = content[0], decode(content[1])
        _check_names(keys, count)
        return defaultdict, [None if name is None else _FACTORIES[name], keys]

    def _namedtuple(self, content: Any, count: int) -> tuple[Any, Any]:
        name, fields = content
        _check_names(fields, count)

        def fits(cls: Any) -> bool:
            return issubclass(cls, tuple) and getattr(cls, "_fields", None) == tuple(fields)

        return namedtuple, self.found(name, fits) or namedtuple(_short(name), fields)

    def _dataclass(self, content: Any, count: int) -> tuple[Any, Any]:
        name, names = content
        _check_names(names, count)
        # Classes that are not registered are not used unless they were handed over: their
        # constructors run.
        cls = self.found(name, lambda c: name in self.classes and dataclasses.is_dataclass(c))
        if cls is None:
            return Record, (_short(name), tuple(names), ())
        return Box, (cls, tuple(names))

    def _record(self, content: Any, count: int) -> tuple[Any, Any]:
        name, names, absent = content
        _check_names(names, count)
        return Record, (str(name), tuple(names), tuple(absent))

    def _class(self, content: Any, count: int) -> tuple[Any, Any]:
        name, context = content[0], decode(content[1])
        cls = self.found(name, lambda c: c in pytree.SUPPORTED_NODES)
        if cls is not None:
            return cls, context
        names, absent = _fields(context, count)
        return Record, (_short(name), names, absent)


def _fields(context: Any, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a class's fields, and of those that are None, from its context.

    transformers keeps the list of names there, torch's own dataclasses that and the absent ones.
    """
    match context:
        case [[*names], [*absent]] if len(names) == count and _all_text([*names, *absent]):
            return tuple(names), tuple(absent)
        case [*names] if len(names) == count and _all_text(names):
            return tuple(names), ()
        case _:
            return tuple(f"field{i}" for i in range(count)), ()


def _all_text(names: Sequence[Any]) -> bool:
    return all(isinstance(n, str) for n in names)


def _check_names(names: Any, count: int) -> None:
    if not isinstance(names, (list, tuple)) or len(names) != count or len({*names}) != count:
        raise ValueError(f"{count} parts, named {names!r}")


def _loaded(name: str) -> Any:
    """Return what this process already holds under a name."""
    module, _, path = name.partition(":")
    at: Any = sys.modules.get(module)
    for part in path.split("."):
        # getattr might run code that imports more
        at = getattr(at, "__dict__", {}).get(part)
    return at


def _short(name: str) -> str:
    return name.rpartition(":")[2].rpartition(".")[2]


def _reader_of(kind: type) -> Callable[[Reader, Any, int], tuple[Any, Any]]:
    return lambda reader, content, count: reader._plain(kind, content, count)


_READERS: Mapping[str, Callable[[Reader, Any, int], tuple[Any, Any]]] = MappingProxyType({
    **{name: _reader_of(kind) for name, kind in _PLAIN.items()},
    "defaultdict": Reader._defaultdict,
    "namedtuple": Reader._namedtuple,
    "dataclass": Reader._dataclass,
    "record": Reader._record,
    "class": Reader._class,
})  # fmt: skip
