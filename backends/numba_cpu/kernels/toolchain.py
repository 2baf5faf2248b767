"""numba_cpu > kernels > toolchain: from a Python function to object code, optimized exactly once.

All that a kernel needs is written into one LLVM module in which only its entry is visible; that is
optimized and assembled for this processor.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir
from numba.core import config, sigutils, target_extension
from numba.core.codegen import CPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.types import void

from leptonc.backends.numba_cpu.kernels.language import NAME, TARGET
from leptonc.backends.numba_cpu.kernels.machine_code import target_features
from leptonc.backends.numba_cpu.kernels.operands import NOTHING
from leptonc.backends.numba_cpu.kernels.optimizer import mark_inlined, optimize, optimize_shortly
from leptonc.backends.numba_cpu.kernels.statements import ModuleWriter


@dataclass(frozen=True)
class ObjectCode:
    """Object code for this machine, and the symbol of its entry."""

    symbol: str
    code: bytes


@dataclass(frozen=True)
class Optimized:
    """A module of LLVM IR, optimized for this machine, and the symbol of its entry."""

    symbol: str
    module: llvm.ModuleRef
    machine: llvm.TargetMachine

    def object_code(self) -> ObjectCode:
        """Return it as object code."""
        return ObjectCode(self.symbol, self.machine.emit_object(self.module))

    def assembly(self) -> str:
        """Return it as text in assembly language."""
        return self.machine.emit_assembly(self.module)


@functools.cache
def _machine(codegen: CPUCodegen) -> llvm.TargetMachine:
    """Return what code is generated for: numba's choice for this processor, with our features."""
    options: dict[str, Any] = {"opt": config.OPT}
    codegen._customize_tm_options(options)
    options.update(cpu=llvm.get_host_cpu_name(), features=target_features())
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)


def of_function(
    fn: types.FunctionType, symbol: str, signature: str, *, short: bool = False
) -> Optimized:
    """Return a kernel as a C function of ``signature``, e.g. ``"void(int64)"``.

    ``short``: whether the short way of :mod:`optimizer` is enough.

    Raises:
        KernelError: the function is nothing that kernels are written in.
    """
    kinds, result = sigutils.normalize_signature(signature)
    shape = NOTHING if result == void else result

    def write(module: llvmlite.ir.Module) -> None:
        with target_extension.target_override(NAME):
            TARGET.target_context.refresh()  # what was declared since
            ModuleWriter(module).kernel(fn, symbol, kinds, shape)
        if short:
            mark_inlined(module)

    return of_writer(symbol, write, short=short)


@global_compiler_lock
def of_writer(
    symbol: str, write: Callable[[llvmlite.ir.Module], None], *, short: bool = False
) -> Optimized:
    """Return what ``write`` puts into an empty module; ``symbol`` is its entry."""
    codegen = TARGET.target_context.codegen()
    written = codegen._create_empty_module(symbol)
    write(written)
    module = llvm.parse_assembly(str(written))
    machine = _machine(codegen)
    (optimize_shortly if short else optimize)(module, machine)
    return Optimized(symbol, module, machine)
