"""numba_cpu > kernels > language: what kernels are written in, and what numba knows of it.

A kernel is Python: integers, floats and registers, tuples, ranges, conditions, calls of helpers
(:class:`DeviceFunction`), of ``math`` and of intrinsics, which are numba's. Names mean what they
mean in Python; what is known while the code is written (globals, closures, tuples of them) costs
nothing. It allocates nothing and raises nothing: division by zero gives 0, as numba has it.

numba's extensions (intrinsics, types) are what registers are made of, and its target converts
numbers and writes ``math``. The rest, functions and their control flow, is written by
:mod:`statements` and :mod:`expressions`: numba's own way from bytecode over its IR and type
inference takes a second for a kernel, ten times as long. Of numba's declarations those of numbers,
tuples and ``math`` are installed, not its arrays, strings and containers, which would be imported
(scipy with them).
"""

from __future__ import annotations

import functools
import types as python
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cpu, target_extension, types, typing
from numba.core.registry import CPUTarget

from leptonc.backends.numba_cpu.kernels.syntax import KernelError

NAME = "leptonc_kernels"  # of the target, for numba


@dataclass(frozen=True)
class DeviceFunction:
    """A helper: a function that kernels call, each of which gets its own copy.

    Attributes:
        py_func: the function; Python may call it, too.
        forceinline: whether LLVM must put it into its callers, so that what they know is known.
    """

    py_func: python.FunctionType
    forceinline: bool = False


class Operators:
    """What operators mean for types of our own; modules fill it when they are imported.

    Which of them are there differs between processes, so kernels are told apart by what a module
    lists as ``REGISTERED``, see :mod:`loaded_code`.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[types.Type, Callable[..., ir.Value]]] = {}

    def define(
        self, op: object, kinds: tuple[types.Type, ...], result: types.Type,
        write: Callable[..., ir.Value],
    ) -> None:  # fmt: skip
        """Say that ``op`` of operands of ``kinds`` is what ``write(builder, *values)`` writes."""
        self._known[op, *kinds] = result, write

    def find(
        self, op: object, kinds: tuple[types.Type, ...]
    ) -> tuple[types.Type, Callable[..., ir.Value]] | None:
        """Return the result's type and what writes it, if there is such an operator."""
        return self._known.get((op, *kinds))

    def writers(self) -> list[Callable[..., ir.Value]]:
        """Return all that writes operators."""
        return [write for _, write in self._known.values()]


OPERATORS = Operators()


class Language(target_extension.CPU):
    """Says which of numba's declarations are for kernels: all that are for CPUs."""


class _TypingContext(typing.BaseContext):
    """What an intrinsic is asked for its type with; it knows none of numba's functions."""

    def load_additional_registries(self) -> None:
        """Declare nothing: numba would build a table of all it knows, a tenth of a second."""

    def _load_builtins(self) -> None:
        pass


class _TargetContext(cpu.CPUContext):
    """Knows the code of what kernels may call."""

    def load_additional_registries(self) -> None:
        """Declare numbers, tuples and ``math``; the rest of numba is not there."""
        from numba.cpython import (  # noqa: PLC0415
            builtins,  # noqa: F401
            mathimpl,
            numbers,  # noqa: F401
            tupleobj,  # noqa: F401
        )

        self.install_registry(mathimpl.registry)

    def add_linking_libs(self, libs: Iterable[object]) -> None:
        """Refuse what numba would compile by itself: the code of a kernel is one module."""
        if tuple(libs):
            raise KernelError("numba would have to compile a function of its own for this")


class _Target(CPUTarget):
    @functools.cached_property
    def _toplevel_typing_context(self) -> _TypingContext:
        return _TypingContext()

    @functools.cached_property
    def _toplevel_target_context(self) -> _TargetContext:
        return _TargetContext(self.typing_context, NAME)


target_extension.target_registry[NAME] = Language
TARGET = _Target(NAME)


class _Contexts:
    """Where numba looks for the contexts of a target; kernels have no dispatcher."""

    targetdescr = TARGET


target_extension.dispatcher_registry[Language] = _Contexts
