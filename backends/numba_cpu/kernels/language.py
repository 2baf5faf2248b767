"""numba_cpu > kernels > language: the part of numba's language that kernels are written in.

A kernel is made of integers, floats, tuples, ranges and our own intrinsics. numba's CPU target also
knows arrays, strings, containers, dates and random numbers: it imports them (scipy with them) when
the first function is compiled, looks for news of all of them whenever it types an intrinsic, and
asks them what an addition might mean. Kernels and their helpers have a target of their own, which
does not: what is installed here is all there is.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.core import cpu, fastmathpass, target_extension, types, typing
from numba.core.registry import CPUDispatcher, CPUTarget
from numba.core.typing import templates

NAME = "leptonc_kernels"  # of the target, for numba


class Language(target_extension.CPU):
    """Says which of numba's declarations are for kernels: all that are for CPUs."""


class _TypingContext(typing.BaseContext):
    """Knows the types of what kernels may call."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[object, tuple[types.Type, ...]], object] = {}

    def resolve_function_type(
        self, func: object, args: tuple[types.Type, ...], kws: dict[str, types.Type]
    ) -> object:
        """Return the signature of a call; of an operator or intrinsic it is found only once.

        All that is declared is there before the first kernel: what was found stays true.
        """
        if kws or not isinstance(func, types.Function):
            return super().resolve_function_type(func, args, kws)
        found = self._known.get((func, args))
        if found is None:
            found = self._known[func, args] = super().resolve_function_type(func, args, kws)
        return found

    def _load_builtins(self) -> None:
        from numba.core.typing import builtins, collections  # noqa: F401, PLC0415

        self.install_registry(templates.builtin_registry)

    def resolve_value_type(self, val: object) -> types.Type:
        """Return the type of a constant; a module or what is declared here is no array or list.

        numba would ask first whether it is one, or a function of cffi, and import what can tell.
        """
        plain = isinstance(val, int | float | tuple)
        return (not plain and self._get_global_type(val)) or super().resolve_value_type(val)

    def load_additional_registries(self) -> None:
        """Declare the functions of ``math``."""
        from numba.core.typing import mathdecl  # noqa: PLC0415

        self.install_registry(mathdecl.registry)


class _TargetContext(cpu.CPUContext):
    """Knows the code of what kernels may call."""

    def load_additional_registries(self) -> None:
        """Declare numbers, ranges, tuples and ``math``; the rest of numba is not there."""
        from numba.cpython import (  # noqa: PLC0415
            builtins,  # noqa: F401
            iterators,  # noqa: F401
            listobj,  # noqa: F401
            mathimpl,
            numbers,  # noqa: F401
            rangeobj,  # noqa: F401
            slicing,  # noqa: F401
            tupleobj,  # noqa: F401
        )

        self.install_registry(mathimpl.registry)

    def post_lowering(self, mod: ir.Module, library: object) -> None:
        """Set the flags of arithmetic; numba's runtime is not linked: kernels allocate nothing."""
        if self.fastmath:
            fastmathpass.rewrite_module(mod, self.fastmath)


class _Target(CPUTarget):
    @functools.cached_property
    def _toplevel_typing_context(self) -> _TypingContext:
        return _TypingContext()

    @functools.cached_property
    def _toplevel_target_context(self) -> _TargetContext:
        return _TargetContext(self.typing_context, NAME)


target_extension.target_registry[NAME] = Language
TARGET = _Target(NAME)


class KernelDispatcher(CPUDispatcher):
    """A device function: compiled when a kernel that calls it is."""

    targetdescr = TARGET

    def get_call_template(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Any:
        """Return how a call is typed; a whole number that is constant is typed as any other.

        numba would compile a helper once more for each constant it is called with. LLVM finds
        constants in what it inlines, and helpers that need them ask for ``forceinline``.
        """
        plain = (types.unliteral(a) if isinstance(a, types.IntegerLiteral) else a for a in args)
        return super().get_call_template(tuple(plain), kws)


target_extension.dispatcher_registry[Language] = KernelDispatcher
REGISTERED = (Language, KernelDispatcher)
