"""numba_cpu > kernels > loaded_code: the code that writes a kernel's machine code, as a digest.

A kernel is a function that numba compiles, and what writes LLVM IR for it is ordinary Python:
nested functions, methods, tables of functions, constants. From the kernel's function on we walk
all that its code can reach: what it names in its module, cells of closures, defaults, classes with
their bases, fields of frozen data. Of other packages only names count, their versions are part of
the fingerprint. Nothing in the digest differs between two processes that loaded the same code.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import itertools
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types as numba_types
from numba.core.extending import _Intrinsic

from leptonc.backends.numba_cpu.kernels.language import DeviceFunction

#: A module's table of what it registers with numba: kernels reach that without naming it.
REGISTERED = "REGISTERED"
WRITTEN_FROM = "written_from"

_FOREIGN = sys.stdlib_module_names | {"llvmlite", "numba", "numpy"}
# One object each, however often it is named. Tuples and numbers are none: whether two equal ones
# are the same object depends on how their module was loaded.
_SHARED = {types.FunctionType, type, types.ModuleType, dict, list, DeviceFunction, _Intrinsic}
# What Python adds to a class (once its instances are copied, too) and decorators do; numba's number
# of a pass differs with its imports.
_NO_CODE = frozenset({
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__slots__",
    "__match_args__", "__dataclass_params__", "__dataclass_fields__", "__abstractmethods__",
    "__orig_bases__", "__parameters__", "__qualname__", "__firstlineno__", "__slotnames__",
    "__static_attributes__", "_abc_impl", "_is_protocol", "_is_runtime_protocol", "pass_id",
})  # fmt: skip


class Described(NamedTuple):
    """An object as text, and what it consists of or names; the text of that comes after it."""

    text: str
    inner: tuple[object, ...] = ()


def code_digest(*roots: object) -> str:
    """Return 32 hex digits over the loaded code of ``roots`` and everything of ours they reach.

    The fingerprint covers the files; this covers what was really loaded, should a file have changed
    since.
    """
    return hashlib.sha256("\0".join(reached(roots)).encode()).hexdigest()[:32]


@functools.cache
def digest_of_tools(*tools: Hashable) -> str:
    """Return :func:`code_digest`, computed once a process: of code that many kernels share."""
    return code_digest(*tools)


@functools.cache
def _digest_of_table(module: types.ModuleType) -> str:
    """Return a digest of what a module registers; its functions do not name the table again."""
    texts = reached(vars(module)[REGISTERED], known=(module,))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def code_size(root: object) -> int:
    """Return a figure that grows with what there is to compile for ``root``."""
    return sum(map(len, reached((root,))))


def reached(roots: Iterable[object], known: Iterable[object] = ()) -> Iterator[str]:
    """Yield a text for each object that ``roots`` reach, in an order that their code decides.

    An object that comes again is told by the number of its first time: so a table whose functions
    change places is another table.
    """
    seen = {id(one): (i, one) for i, one in enumerate(known)}  # the objects: ids stay theirs
    todo = [*roots][::-1]
    while todo:
        value = todo.pop()
        describe, shared = _how(type(value))
        if shared:
            if id(value) in seen:
                yield f"again {seen[id(value)][0]}"
                continue
            seen[id(value)] = len(seen), value
        text, inner = describe(value)
        yield f"{text} {len(inner)}" if inner else text
        todo += inner[::-1]


@functools.cache
def _how(kind: type) -> tuple[Callable[[Any], Described], bool]:
    """Return what describes objects of a class, and whether each of them is one however often.

    The bases tell. ``dispatch`` and ``issubclass`` would ask numba's abstract classes, too, and
    each of those remembers every answer.
    """
    describe = next(described.registry[c] for c in kind.__mro__ if c in described.registry)
    return describe, not _SHARED.isdisjoint(kind.__mro__)


@functools.singledispatch
def described(value: object) -> Described:
    """Return the text of one object and what the walk goes on with: here of any other instance.

    An object may say in ``written_from`` what decides about its machine code: then that is all.
    Data that cannot change is described by its fields, other objects by their class alone.
    """
    kind = type(value)
    if hasattr(kind, WRITTEN_FROM):
        return Described(kind.__qualname__, getattr(value, WRITTEN_FROM))
    params = getattr(kind, "__dataclass_params__", None)
    if params is not None and params.frozen:
        fields = (getattr(value, f.name) for f in dataclasses.fields(value))
        return Described("data", (kind, *fields))
    return Described("object", (kind,))


@described.register(int)
@described.register(float)
@described.register(complex)
@described.register(str)
@described.register(bytes)
@described.register(type(None))
@described.register(type(Ellipsis))
@described.register(range)
@described.register(slice)
def _(value: object) -> Described:
    return Described(repr(value))


@described.register
def _(value: tuple) -> Described:
    named = () if type(value) is tuple else (type(value),)
    return Described("tuple", (*named, *value))


@described.register(set)
@described.register(frozenset)
def _(value: Iterable) -> Described:
    return Described("set", tuple(sorted(value, key=repr)))


@described.register
def _(value: list) -> Described:
    return Described("list", tuple(value))


@described.register(dict)
@described.register(types.MappingProxyType)
def _(value: Mapping) -> Described:
    return Described("table", tuple(itertools.chain.from_iterable(value.items())))


@described.register
def _(value: types.FunctionType) -> Described:
    if not is_ours(value.__module__):
        return Described(f"{value.__module__}.{value.__qualname__}")
    cells = tuple(_content(cell) for cell in value.__closure__ or ())
    keywords = (value.__kwdefaults__,) if value.__kwdefaults__ else ()
    code = read(value.__code__)
    inner = (value.__defaults__, *keywords, *cells, *_named(value.__globals__, code.names))
    home = sys.modules.get(value.__module__)
    return Described(f"{value.__qualname__} {code.text}", (home, *inner))


@described.register
def _(value: type) -> Described:
    name = f"{value.__module__}.{value.__qualname__}"
    if not is_ours(value.__module__):
        return Described(name)
    inside = (item for item in vars(value).items() if item[0] not in _NO_CODE)
    if issubclass(value, enum.Enum):  # members and methods, not Python's own tables of them
        inside = (i for i in inside if i[0][0] != "_" or isinstance(i[1], types.FunctionType))
    flat = itertools.chain.from_iterable(inside)
    return Described(name, (sys.modules.get(value.__module__), *value.__bases__, *flat))


@described.register
def _(value: types.BuiltinFunctionType) -> Described:
    return Described(value.__qualname__)


@described.register
def _(value: types.ModuleType) -> Described:
    # a function names what else it uses of the module
    table = vars(value).get(REGISTERED) if is_ours(value.__name__) else None
    return Described(value.__name__, (_digest_of_table(value),) if table else ())


@described.register
def _(value: DeviceFunction) -> Described:
    return Described("helper", (value.py_func, value.forceinline))


@described.register
def _(value: _Intrinsic) -> Described:
    return Described("intrinsic", (value._defn, value._prefer_literal))


@described.register
def _(value: types.MethodType) -> Described:
    return Described("method", (value.__func__, value.__self__))


@described.register(staticmethod)
@described.register(classmethod)
def _(value: staticmethod | classmethod) -> Described:
    return Described(type(value).__name__, (value.__func__,))


@described.register
def _(value: property) -> Described:
    return Described("property", (value.fget, value.fset, value.fdel))


@described.register
def _(value: functools.cached_property) -> Described:
    return Described("property", (value.func,))


@described.register
def _(value: functools.partial) -> Described:
    return Described("partial", (value.func, value.args, value.keywords))


@described.register
def _(value: functools._lru_cache_wrapper) -> Described:
    return Described("cached", (value.__wrapped__,))


@described.register(enum.Enum)
@described.register(enum.IntEnum)  # which is a number as well
def _(value: enum.Enum) -> Described:
    return Described("member", (type(value), value.name, value.value))


@described.register(ir.Type)
@described.register(ir.Value)
def _(value: ir.Type | ir.Value) -> Described:
    return Described(str(value))


@described.register
def _(value: numba_types.Type) -> Described:
    ours = is_ours(type(value).__module__)
    return Described(str(value), (type(value),) if ours else ())


@described.register(np.ndarray)
@described.register(np.generic)
def _(value: np.ndarray | np.generic) -> Described:
    return Described(f"{value.dtype.str}{value.shape}{value.tobytes().hex()}")


@described.register
def _(value: np.dtype) -> Described:
    return Described(value.str)


def is_ours(module: str | None) -> bool:
    """Return whether the code of a module is walked; of other packages only the names count."""
    return (module or "builtins").partition(".")[0] not in _FOREIGN


class Code(NamedTuple):
    """Code as text, its constants and the functions inside it too, and all names in it."""

    text: str
    names: tuple[str, ...]


@functools.cache
def read(code: types.CodeType) -> Code:
    """Return what there is in code, in that of comprehensions and functions inside it too."""
    head = f"{code.co_name} {code.co_argcount} {code.co_names} {code.co_code.hex()}"
    inside = (read(c).names for c in code.co_consts if isinstance(c, types.CodeType))
    names = dict.fromkeys(itertools.chain(code.co_names, *inside))
    return Code(f"{head} {_text_of_constant(code.co_consts)}", tuple(names))


def _text_of_constant(value: object) -> str:
    if isinstance(value, types.CodeType):
        return read(value).text
    if isinstance(value, tuple):
        return f"({' '.join(map(_text_of_constant, value))})"
    if isinstance(value, frozenset):
        return f"set {sorted(map(_text_of_constant, value))}"
    return repr(value)


def _content(cell: types.CellType) -> object:
    """Return what is in a cell; its text if nothing is yet, as while its class is being made."""
    try:
        return cell.cell_contents
    except ValueError:
        return "empty"


def _named(place: Mapping[str, Any], names: Iterable[str]) -> tuple[object, ...]:
    """Return globals of these names, and what is so named in modules among them."""
    found = [place[name] for name in names if name in place]
    ours = [v for v in found if isinstance(v, types.ModuleType) and is_ours(v.__name__)]
    inside = [vars(module)[name] for module in ours for name in names if name in vars(module)]
    return (*found, *inside)
