"""numba_cpu > kernels > base: the kernel ABI, the ``kernel`` decorator and records for kernels.

A kernel is a plain function ``def f(args, tid, nt, cuts)``: ``args`` is the address of an
``int64[]`` record, ``tid`` of ``nt`` threads computes its own share, see :mod:`shares`. (``cuts``
may be left out where shares are equal.) It allocates nothing, raises nothing, and its result does
not depend on how it is shared. It is compiled on first use, once per machine::

    @kernel
    def relu(args, tid, nt, cuts): ...

    def make_gemm(rows, cols):
        def body(args, tid, nt, cuts): ...
        return make_kernel(body, name="gemm", params=(rows, cols))
"""

from __future__ import annotations

import abc
import ctypes
import functools
import hashlib
import struct
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, overload

import numpy as np

from leptonc.backends.numba_cpu.kernels.language import DeviceFunction
from leptonc.backends.numba_cpu.kernels.loaded_code import code_digest, digest_of_tools
from leptonc.backends.numba_cpu.kernels.machine_code import (
    CodeFile,
    NativeCode,
    kernel_dir,
    lanes,
    native_code,
)
from leptonc.backends.numba_cpu.kernels.syntax import KernelError
from leptonc.backends.numba_cpu.kernels.toolchain import ObjectCode, Optimized, of_function

__all__ = [
    "Kernel", "KernelError", "factory", "inline_njit", "kernel", "lanes", "make_kernel", "record",
]  # fmt: skip

SIGNATURE = "void(int64,int64,int64,int64)"
PATIENCE_S = 60.0  # that another process may take to compile a kernel that we wait for
_PROTOTYPE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)


N = TypeVar("N", bound="Native")


class Native(abc.ABC):
    """A native function, compiled or loaded on first use.

    Attributes:
        name: unique name, parameters included, e.g. ``"gemm[6,16]"``.
        module: qualified name of the module that defines it.
        fn: the Python function it is compiled from, or that writes its LLVM IR.
        kind: what else its machine code depends on, as text.
        parts: native functions that it calls and that are compiled by themselves.
        recipe: how another process gets it: a module, one of its functions, arguments; None for
            what is there when its own module is imported.
        compile_seconds: time spent compiling or loading; 0.0 before the first use.
        from_cache: whether the machine code came from disk (None before the first use).
    """

    def __init__(
        self, fn: types.FunctionType, name: str, kind: str, parts: tuple[Native, ...] = ()
    ) -> None:
        self.name, self.module, self.fn, self.kind = name, fn.__module__, fn, kind
        self.parts = parts
        self.recipe: tuple[str, str, tuple[str | int, ...]] | None = None
        self.compile_seconds = 0.0
        self.from_cache: bool | None = None
        self._lock = threading.Lock()
        self._native: NativeCode | None = None

    @property
    def address(self) -> int:
        """Address of the native function; compiles it when it is asked for the first time."""
        return (self._native or self.compile()).address

    def compile(self) -> NativeCode:
        """Compile or load it unless that is done; safe to call from several threads.

        While another process is at it, what it calls is compiled here.
        """
        if self.parts and not self.try_compile():
            for part in self.parts:
                part.try_compile()
        found = self._compiled(patience_s=PATIENCE_S)
        assert found is not None
        return found

    def try_compile(self) -> bool:
        """Compile or load it unless another process compiles it now; return success."""
        return self._compiled(patience_s=0.0) is not None

    def try_load(self) -> bool:
        """Load it if its machine code is on disk; return whether it is loaded now."""
        if self._native is not None:
            return True
        return self._file() is not None and self.ready and self.try_compile()

    def store(self) -> None:
        """See to it that the machine code is on disk, or that another process does."""
        file = self._file()
        if file is None or file.path.exists():
            return
        with file.claimed(0.0) as mine:
            if mine and not file.path.exists():
                self._save(file)

    @property
    def ready(self) -> bool:
        """Whether it and its parts are compiled, here or on disk; True where no disk is used."""
        file = None if self._native is not None else self._file()
        return file is None or (file.path.exists() and all(part.ready for part in self.parts))

    def _compiled(self, patience_s: float) -> NativeCode | None:
        with self._lock:
            if self._native is None:
                begin, others = time.perf_counter(), self._seconds_of_parts()
                self._native = self._build(patience_s)
                others = self._seconds_of_parts() - others
                self.compile_seconds += time.perf_counter() - begin - others
            return self._native

    def _seconds_of_parts(self) -> float:
        return sum(part.compile_seconds for part in self.parts)

    def _build(self, patience_s: float) -> NativeCode | None:
        """Return the machine code, from disk when it is there; None if another process is at it."""
        file = self._file()
        if file is None:
            made = self._object()
            self.from_cache = False
            return native_code(made.symbol, made.code)
        stored = file.load()
        self.from_cache = stored is not None
        if stored is not None:
            return stored
        with file.claimed(patience_s) as mine:
            if not mine and not patience_s:
                return None
            stored = file.load()  # by now another process may have stored it
            if stored is not None:
                return stored
            made = self._save(file)
        return native_code(made.symbol, made.code)

    def _file(self) -> CodeFile | None:
        """Return the file that holds the machine code or will; None where there is none."""
        directory = kernel_dir()
        if directory is None:
            return None
        return CodeFile(directory, f"{self.module}.{self.name}{self.kind}", self._stamp)

    @functools.cached_property
    def _stamp(self) -> str:
        return code_digest(self)

    @property
    def written_from(self) -> tuple[object, ...]:
        """What decides about the machine code, see :mod:`loaded_code`."""
        return self.name, self.kind, self.parts, self.fn, digest_of_tools(type(self)._module)

    def _save(self, file: CodeFile) -> ObjectCode:
        made = self._object()
        file.save(made.symbol, made.code)
        return made

    def _object(self) -> ObjectCode:
        return self._module().object_code()

    def assembly(self) -> str:
        """Return the function in assembly language, without its parts; compiles it anew."""
        return self._module().assembly()

    @abc.abstractmethod
    def _module(self) -> Optimized:
        """Return the function's code."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.module}.{self.name})"


class Kernel(Native):
    """A native function ``void(args, tid, nt, cuts)``."""

    def __init__(
        self,
        fn: types.FunctionType,
        name: str,
        params: tuple = (),
        signature: str = SIGNATURE,
        parts: tuple[Native, ...] = (),
        vectors: bool = False,
    ) -> None:
        named = f"{name}[{','.join(map(str, params))}]" if params else name
        super().__init__(fn, named, signature, parts)
        self._signature = signature
        self._short = vectors or bool(parts)
        self._call: Callable | None = None

    def _module(self) -> Optimized:
        return of_function(self.fn, _symbol(self.name), self._signature, short=self._short)

    @property
    def written_from(self) -> tuple[object, ...]:
        """What decides about the machine code, see :mod:`loaded_code`."""
        return *super().written_from, self._short

    def __call__(
        self, args: np.ndarray | int, tid: int = 0, nt: int = 1, cuts: np.ndarray | int = 0
    ) -> None:
        """Run thread ``tid`` of ``nt`` natively (tests, tuning); programs use the address."""
        if self._call is None:
            self._call = _PROTOTYPE(self.address)
        self._call(_address(args), tid, nt, _address(cuts))

    def run_all(self, args: np.ndarray, nt: int = 1, cuts: np.ndarray | int = 0) -> None:
        """Run the shares of all ``nt`` threads one after another."""
        for tid in range(nt):
            self(args, tid, nt, cuts)


class _Registry:
    """All kernels of the process by qualified name; asking twice for one name gives one object.

    The parts of kernels are among them: helper processes are told what to compile by name.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kernels: dict[tuple, Any] = {}

    def add(self, new: N) -> N:
        """Return the kernel already known under this name if its code is the same, else ``new``."""
        key = (new.module, new.name)
        with self._lock:
            old = self._kernels.get(key)
            if old is not None and old.fn.__code__ == new.fn.__code__:
                return old
            # A reloaded module may redefine its kernels; two of its functions may not share a name.
            if old is not None and old.fn.__qualname__ != new.fn.__qualname__:
                raise KernelError(f"two kernels of {new.module} are named {new.name}")
            self._kernels[key] = new
            return new

    def find(self, module: str, name: str) -> Native | None:
        """Return the kernel of this module and name if there is one."""
        with self._lock:
            return self._kernels.get((module, name))

    def __iter__(self) -> Iterator[Native]:
        with self._lock:
            return iter(tuple(self._kernels.values()))


KERNELS = _Registry()


@overload
def kernel(
    fn: Callable[..., None], *, parts: tuple[Native, ...] = (), vectors: bool = False
) -> Kernel: ...


@overload
def kernel(
    fn: None = None, *, parts: tuple[Native, ...] = (), vectors: bool = False
) -> Callable[[Callable[..., None]], Kernel]: ...


def kernel(
    fn: Callable[..., None] | None = None,
    *,
    parts: tuple[Native, ...] = (),
    vectors: bool = False,
):
    """Declare a module-level function as a kernel (decorator, with or without options).

    Args:
        fn: ``def f(args, tid, nt, cuts)`` without a closure.
        parts: what it calls of :mod:`part`, all of it: helpers compile that at the same time.
        vectors: whether its loops are written in vectors. Then LLVM looks for no more, nor where
            parts have the loops that matter, see :mod:`optimizer`.

    Raises:
        KernelError: ``fn`` is a closure: only :func:`make_kernel` can give that a stable name.
    """
    if fn is None:
        return lambda f: kernel(f, parts=parts, vectors=vectors)
    if fn.__closure__:
        raise KernelError(f"{fn.__qualname__} is a closure: use make_kernel(fn, name=, params=)")
    return KERNELS.add(Kernel(fn, fn.__name__, parts=parts, vectors=vectors))


def make_kernel(
    fn: types.FunctionType, name: str, params: tuple = (), vectors: bool = False
) -> Kernel:
    """Return the kernel made by a factory; ``name`` and ``params`` identify it within its module.

    Everything the closure depends on must follow from ``params`` (and the kernel sources): calling
    it again with the same name and parameters returns the same object. ``vectors``: see
    :func:`kernel`.
    """
    return KERNELS.add(Kernel(fn, name, tuple(params), vectors=vectors))


def factory(make: Callable[..., N]) -> Callable[..., N]:
    """Declare a module-level function that makes a kernel of names and numbers (decorator).

    It is called once for the same arguments, and other processes may call it for theirs.
    """

    @functools.cache
    @functools.wraps(make)
    def made(*params: str | int) -> N:
        found = make(*params)
        found.recipe = make.__module__, make.__name__, params
        return found

    return made


def inline_njit(fn: types.FunctionType | None = None, *, forceinline: bool = False):
    """Declare a helper of kernels (decorator, with or without options), see :mod:`language`.

    Args:
        fn: what kernels and other helpers call.
        forceinline: put it into its callers in any case: what they know is known in it, then.
    """
    if fn is None:
        return lambda f: inline_njit(f, forceinline=forceinline)
    return DeviceFunction(fn, forceinline)


def record(*slots: int | float | np.ndarray | np.generic) -> np.ndarray:
    """Return an ``int64[]`` record: ints as they are, floats as float64 bits, arrays as addresses.

    The caller keeps the arrays alive.
    """
    return np.array([slot_bits(slot) for slot in slots], dtype=np.int64)


def slot_bits(slot: int | float | np.ndarray | np.generic) -> int:
    """Return the signed 64-bit pattern of one record slot.

    Raises:
        KernelError: the slot is of a type that a record cannot hold.
    """
    if isinstance(slot, np.ndarray):
        return slot.ctypes.data
    if isinstance(slot, bool | int | np.integer | np.bool_):
        return int(slot)
    if isinstance(slot, float | np.floating):
        return struct.unpack("<q", struct.pack("<d", float(slot)))[0]
    raise KernelError(f"a record slot cannot hold {slot!r} ({type(slot).__name__})")


def _address(words: np.ndarray | int) -> int:
    return words.ctypes.data if isinstance(words, np.ndarray) else words


def _symbol(name: str) -> str:
    """Return the symbol of a kernel's machine code, as profilers show it."""
    clean = "".join(c if c.isalnum() else "_" for c in name)
    if len(clean) > 60:
        clean = clean[:50] + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"leptonc_{clean}"
