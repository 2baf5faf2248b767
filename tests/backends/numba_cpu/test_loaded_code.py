"""The digest of a kernel changes with all code that writes its machine code, with nothing else."""

from __future__ import annotations

import copy
import importlib
import os
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from numba.core.datamodel import registry

from leptonc.backends import numba_cpu
from leptonc.backends.numba_cpu import kernels
from leptonc.backends.numba_cpu.kernels import language, loaded_code, syntax, toolchain
from leptonc.backends.numba_cpu.kernels.base import KERNELS, Native
from leptonc.backends.numba_cpu.kernels.loaded_code import code_digest, reached
from leptonc.backends.numba_cpu.kernels.part import Part

pytestmark = pytest.mark.numba
ROOT = Path(__file__).parents[3]
PLACES = (numba_cpu, kernels)
MODULES = [
    f"{place.__name__}.{found.name}"
    for place in PLACES
    for found in pkgutil.iter_modules(place.__path__)
    if not found.ispkg
]

# Sources of ``kernel``; VALUE is the one thing that differs.
SOURCES = {
    "method": """
class Writer:
    def write(self): return VALUE
def kernel(): Writer().write()
""",
    "method of a base": """
class Base:
    def write(self): return VALUE
class Writer(Base): pass
def kernel(): Writer().write()
""",
    "method of a class in a table": """
class Writer:
    def write(self): return VALUE
TABLE = {"a": [(0, Writer)]}
def kernel(): TABLE["a"][0][1]().write()
""",
    "static method": """
class Writer:
    @staticmethod
    def write(): return VALUE
def kernel(): Writer.write()
""",
    "class method": """
class Writer:
    @classmethod
    def write(cls): return VALUE
def kernel(): Writer.write()
""",
    "property": """
class Writer:
    @property
    def width(self): return VALUE
def kernel(): Writer().width
""",
    "cached property": """
class Writer:
    @functools.cached_property
    def width(self): return VALUE
def kernel(): Writer().width
""",
    "constant of a class": """
class Writer:
    WIDTH = VALUE
def kernel(): Writer.WIDTH
""",
    "comprehension": "def kernel(): [x + VALUE for x in range(3)]",
    "name in a comprehension": """
WIDTH = VALUE
def kernel(): return [x + WIDTH for x in range(3)]
""",
    "name in a function in a function": """
def width(): return VALUE
def kernel():
    def inner():
        return lambda: width()
    return inner
""",
    "lambda": """
width = lambda: VALUE
def kernel(): width()
""",
    "set of constants": "def kernel(x): return x in {3, 4, VALUE}",
    "default": "def kernel(x=VALUE): return x",
    "default of a keyword": "def kernel(*, x=VALUE): return x",
    "closure": """
def make(value):
    def kernel(): return value
    return kernel
kernel = make(VALUE)
""",
    "partial": """
def width(x): return x
narrow = functools.partial(width, VALUE)
def kernel(): narrow()
""",
    "cached": """
@functools.cache
def width(): return VALUE
def kernel(): width()
""",
    "table of functions": """
TABLE = {"a": lambda: 0, "b": lambda: VALUE}
def kernel(name): TABLE[name]()
""",
    "order of known functions": """
def f(): return 1
def g(): return 2
TABLE = {1: {"a": f, "b": g}, 2: {"a": g, "b": f}}[VALUE]
def kernel(name): f(); g(); TABLE[name]()
""",
    "function in frozen data": """
@dataclasses.dataclass(frozen=True)
class Form:
    write: object
FORM = Form(lambda: VALUE)
def kernel(): FORM.write()
""",
    "field of frozen data": """
@dataclasses.dataclass(frozen=True)
class Form:
    width: int
FORM = Form(VALUE)
def kernel(): FORM.width
""",
    "default of a field": """
@dataclasses.dataclass(frozen=True)
class Form:
    width: int = VALUE
def kernel(): Form().width
""",
    "factory of a field": """
@dataclasses.dataclass(frozen=True)
class Form:
    width: object = dataclasses.field(default_factory=lambda: VALUE)
def kernel(): Form().width
""",
    "named tuple": """
class Form(typing.NamedTuple):
    width: int
FORM = Form(VALUE)
def kernel(): FORM.width
""",
    "method of a named tuple": """
class Form(typing.NamedTuple):
    width: int
    def write(self): return VALUE
FORM = Form(0)
def kernel(): FORM.write()
""",
    "bound method": """
class Writer:
    def write(self): return VALUE
write = Writer().write
def kernel(): write()
""",
    "member of an enum": """
class Kind(enum.Enum):
    A = VALUE
def kernel(): Kind.A
""",
    "method of an enum": """
class Kind(enum.Enum):
    A = 1
    def write(self): return VALUE
def kernel(): Kind.A.write()
""",
    "method of a number's enum": """
class Kind(enum.IntEnum):
    A = 1
    def write(self): return VALUE
KIND = Kind.A
def kernel(): KIND.write()
""",
    "attribute of a module": """
def width(): return VALUE
here = sys.modules[__name__]
def kernel(): here.width()
""",
    "what is registered": """
def width(): return VALUE
REGISTERED = (width,)
def kernel(): pass
""",
    "option of a helper": """
@inline_njit(forceinline=VALUE > 1)
def width(): return 1.0
def kernel(): width()
""",
    "intrinsic": """
@intrinsic
def width(typingctx):
    def build(context, builder, sig, args): return VALUE
    return types.int64(), build
def kernel(): width()
""",
    "type of llvm": """
WIDE = ir.VectorType(ir.IntType(8), VALUE)
def kernel(): WIDE
""",
    "array": """
POINTS = np.array([1, VALUE])
def kernel(): POINTS
""",
}
HEAD = """
import dataclasses, enum, functools, sys, typing
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from leptonc.backends.numba_cpu.kernels.base import inline_njit
"""


def load(source: str, value: int, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a new module of this source, as importing it would."""
    module = types.ModuleType("leptonc_written_for_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(HEAD + source.replace("VALUE", str(value)), "<test>", "exec"), vars(module))
    return module


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_a_changed_constant_changes_the_digest(source: str, monkeypatch) -> None:
    one, same, other = (code_digest(load(source, value, monkeypatch).kernel) for value in (1, 1, 2))
    assert one == same
    assert one != other


def test_what_a_kernel_does_not_reach_changes_nothing(monkeypatch) -> None:
    source = "def other(): return VALUE\ndef kernel(): return 1"
    one, other = (code_digest(load(source, value, monkeypatch).kernel) for value in (1, 2))
    assert one == other


def test_an_object_that_is_not_frozen_counts_by_its_class(monkeypatch) -> None:
    source = "class Memory: pass\nmemory = Memory()\ndef kernel(): return memory"
    module = load(source, 1, monkeypatch)
    before = code_digest(module.kernel)
    module.memory.calls = 7
    assert code_digest(module.kernel) == before


def test_a_copy_of_an_instance_does_not_change_its_class(monkeypatch) -> None:
    source = "class Data: pass\ndata = Data()\ndef kernel(): return Data"
    module = load(source, 1, monkeypatch)
    before, names = code_digest(module.kernel), set(vars(module.Data))
    copy.copy(module.data)
    assert set(vars(module.Data)) > names
    assert code_digest(module.kernel) == before


@pytest.fixture(scope="module")
def every() -> tuple[Native, ...]:
    """Return all kernels and parts that modules declare."""
    for name in MODULES:
        importlib.import_module(name)
    return tuple(sorted((k for k in KERNELS if k.module in MODULES), key=repr))


# What may differ between processes: which modules are there, in which order they were imported, and
# the seed of hashes.
ELSEWHERE = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
from leptonc.backends.numba_cpu.kernels.base import KERNELS
from leptonc.backends.numba_cpu.kernels.loaded_code import code_digest
for k in KERNELS:
    print(repr(k), k._stamp)
print(code_digest(eval(sys.argv[1], {"__name__": "leptonc"})))
"""
SET = "lambda x: x in {'a', 'b', 'c', 'd', 'e'}"


def test_digests_are_the_same_in_every_process(every) -> None:
    here = {f"{k!r} {k._stamp}" for k in every}
    here.add(code_digest(eval(SET, {"__name__": "leptonc"})))
    done = subprocess.run(
        [sys.executable, "-B", "-c", ELSEWHERE, SET, *MODULES[::-2]],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        check=True, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    found = set(done.stdout.splitlines())
    assert len(found) > 20 and found <= here


def all_texts(native: Native) -> str:
    """Return the texts behind a kernel's digest, those too of which it holds only a digest."""
    tools = [f for f in vars(Part).values() if isinstance(f, types.FunctionType)]
    text = "\0".join((*reached((native,)), *reached((type(native)._module, *tools))))
    loaded = [sys.modules[name] for name in MODULES]
    tables = [m for m in loaded if hasattr(m, loaded_code.REGISTERED)]
    assert tables
    held = [m.REGISTERED for m in tables if loaded_code._digest_of_table(m) in text]
    return "\0".join((text, *(t for table in held for t in reached(table))))


class Written(Exception):
    """The LLVM IR is there: nothing of ours runs any more."""


def codes_that_write(native: Native, monkeypatch: pytest.MonkeyPatch) -> set[types.CodeType]:
    """Return all code of ours that runs while ``native`` is compiled, and that is compiled."""
    found: set[types.CodeType] = set()
    compiled = syntax.tree_of.__code__

    def stop(*_: object) -> None:
        raise Written

    def watch(frame: types.FrameType, event: str, _arg: object) -> None:
        if event != "call":
            return
        code, names = frame.f_code, frame.f_globals
        if code is compiled:
            code, names = (getattr(frame.f_locals["fn"], a) for a in ("__code__", "__globals__"))
        if str(names.get("__name__")).startswith(numba_cpu.__name__):
            found.add(code)

    for way in ("optimize", "optimize_shortly"):
        monkeypatch.setattr(toolchain, way, stop)
    sys.setprofile(watch)
    try:
        native._object()
    except Written:
        pass
    finally:
        sys.setprofile(None)
    return found


def unreached(native: Native, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of what writes ``native`` and is not in its digest."""
    text = all_texts(native)
    ran = codes_that_write(native, monkeypatch)
    assert len(ran) > 10
    return [c.co_qualname for c in ran if loaded_code.read(c).text not in text]


@pytest.mark.parametrize("name", ["nothing", "copy_rows", "lines", "wino_in_4x4_3x3"])
def test_all_code_that_writes_a_kernel_is_in_its_digest(every, name: str, monkeypatch) -> None:
    (native,) = (k for k in every if k.name == name)
    assert not unreached(native, monkeypatch)


@pytest.mark.slow
def test_all_code_that_writes_any_kernel_is_in_its_digest(every, monkeypatch) -> None:
    missing = {k.name: unreached(k, monkeypatch) for k in every}
    assert not {name: codes for name, codes in missing.items() if codes}


def test_what_modules_register_is_in_their_table(every) -> None:
    functions = language.OPERATORS.writers()
    registered = {
        f for f in (*functions, *registry.default_manager._handlers.values())
        if f.__module__ in MODULES
    }  # fmt: skip
    assert len(registered) > 8
    for one in registered:
        table = getattr(sys.modules[one.__module__], loaded_code.REGISTERED)
        told = [*table, *(item for entry in table if isinstance(entry, tuple) for item in entry)]
        assert one in told
