"""numba_cpu > kernels > toolchain: from a Python function to object code, optimized exactly once.

numba would optimize and assemble every helper by itself, then again inside each of its callers, and
would wrap it for Python. Here helpers stay plain LLVM modules: a kernel links all it needs into one
module in which only its entry is visible, and that is optimized and assembled. Measured, this
halves the time a kernel takes. numba's own pipeline does the rest.
"""

from __future__ import annotations

import ctypes
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir
import numba
from llvmlite.binding import Linkage
from numba import _dynfunc
from numba.core import (
    compiler,
    config,
    ir,
    lowering,
    sigutils,
    target_extension,
    typed_passes,
    untyped_passes,
)
from numba.core.codegen import CPUCodegen, CPUCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.llvm_bindings import create_pass_builder
from numba.core.typed_passes import NativeLowering

from leptonc.backends.numba_cpu.kernels.language import NAME, TARGET, Language
from leptonc.backends.numba_cpu.kernels.machine_code import target_features


class _Library(CPUCodeLibrary):
    """LLVM code of one function and of what it calls: linked, neither optimized nor assembled."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        """Link the helpers in; each of them carries its own already."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_function_names(self) -> list[str]:
        """Return the names of all functions that are defined here."""
        return [fn.name for fn in self._final_module.functions if not fn.is_declaration]


class _Lower(lowering.Lower):
    """Writes the LLVM code of one function."""

    def lower_inst(self, inst: ir.Inst) -> None:
        """Write an instruction; nearly all assign, and numba would first turn them into text."""
        if isinstance(inst, ir.Assign):
            value = self.lower_assign(self.typeof(inst.target.name), inst)
            self.storevar(value, inst.target.name)
        else:
            super().lower_inst(inst)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Lowers into a :class:`_Library`; what numba sees as the function cannot be called."""

    _name = "leptonc_lowering"

    @property
    def lowering_class(self) -> type[_Lower]:
        """What writes the LLVM code."""
        return _Lower

    def run_pass(self, state: Any) -> bool:
        """Lower the typed function."""
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        wanted, state.flags.no_compile = state.flags.no_compile, True
        super().run_pass(state)
        state.flags.no_compile = wanted
        if not wanted:
            fndesc, env = state.cr.fndesc, state.cr.env
            cfunc = _dynfunc.make_function(
                fndesc.lookup_module(), fndesc.qualname, "", _address(_refuse), env,
                (state.library,),
            )  # fmt: skip
            state.targetctx.insert_user_function(cfunc, fndesc, [state.library])
            state.cr = state.cr._replace(cfunc=cfunc)
        return True


@ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
def _refuse(_self: object, _args: object, _kwargs: object) -> object:
    raise NotImplementedError("a device function exists inside kernels only")


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


# Array expressions, ``with``, nested functions, ``inline``, ``raise``, ``literally``, references
# that end with a variable: kernels have none. (numba's inliner would import arrays; LLVM inlines,
# and always what asks for ``forceinline``.)
_IDLE = (
    untyped_passes.WithLifting,
    untyped_passes.InlineClosureLikes,
    untyped_passes.InlineInlinables,
    untyped_passes.RewriteDynamicRaises,
    untyped_passes.MakeFunctionToJitFunction,
    untyped_passes.FindLiterallyCalls,
    untyped_passes.LiteralUnroll,
    untyped_passes.LiteralPropagationSubPipelinePass,
    typed_passes.InlineOverloads,
    typed_passes.NopythonRewrites,
    typed_passes.NoPythonSupportedFeatureValidation,
    typed_passes.DumpParforDiagnostics,
    typed_passes.IRLegalization,
)


class KernelPipeline(compiler.Compiler):
    """numba's pipeline for kernels and their helpers."""

    def define_pipelines(self) -> list[Any]:
        """Return numba's passes without those that kernels give nothing to do."""
        (pipeline,) = super().define_pipelines()
        pipeline.passes = [
            (_Lowering if step is NativeLowering else step, why)
            for step, why in pipeline.passes
            if step not in _IDLE
        ]
        pipeline.finalize()
        return [pipeline]


def device_function(**options: Any) -> Callable[[Callable], Any]:
    """Return the decorator of helpers: numba's ``jit`` for functions that only kernels call."""
    ours = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}
    return numba.jit(**{**ours, "pipeline_class": KernelPipeline, "_target": NAME, **options})


# What numba writes in Python itself: ``min``, ``max``, ``bool``.
target_extension.jit_registry[Language] = device_function
REGISTERED = (device_function,)


@dataclass(frozen=True)
class ObjectCode:
    """Object code for this machine; ``portable`` unless it holds addresses of this process."""

    symbol: str
    code: bytes
    portable: bool


@functools.cache
def _machine(codegen: CPUCodegen) -> llvm.TargetMachine:
    """Return what code is generated for: numba's choice for this processor, with our features."""
    options: dict[str, Any] = {"opt": config.OPT}
    codegen._customize_tm_options(options)
    options.update(cpu=llvm.get_host_cpu_name(), features=target_features())
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)


@global_compiler_lock
def compile_object(
    fn: types.FunctionType, signature: str, fastmath: set[str], level: int = config.OPT
) -> ObjectCode:
    """Return ``fn`` compiled as a C function of ``signature``, e.g. ``"void(int64)"``.

    ``level``: 3, or 2 for code whose loops are elsewhere: they are not copied for each condition.
    """
    args, result = sigutils.normalize_signature(signature)
    target = TARGET
    flags = compiler.Flags()
    options = {
        "nopython": True, "error_model": "numpy", "boundscheck": False, "_nrt": False,
        "no_cpython_wrapper": True, "fastmath": fastmath,
    }  # fmt: skip
    target.options.parse_as_flags(flags, options)
    flags.no_compile = True
    with target_extension.target_override(NAME):
        compiled = compiler.compile_extra(
            target.typing_context, target.target_context, fn, args, result, flags, {},
            pipeline_class=KernelPipeline,
        )  # fmt: skip
    library, symbol = compiled.library, compiled.fndesc.llvm_cfunc_wrapper_name
    library.finalize()
    module = library._final_module
    for f in module.functions:
        if not f.is_declaration and f.name != symbol:
            f.linkage = Linkage.internal
    machine = _optimized(module, library._codegen, level)
    library._verify_declare_only_symbols()
    library._finalize_dynamic_globals()  # those that are still there
    code = machine.emit_object(module)
    fixed = library._dynamic_globals or library._reload_init or b"NRT_" in code
    return ObjectCode(symbol, code, not fixed)


@global_compiler_lock
def assemble_object(symbol: str, write: Callable[[llvmlite.ir.Module], None]) -> ObjectCode:
    """Return what ``write`` puts into an empty module, compiled; ``symbol`` is its entry."""
    codegen = TARGET.target_context.codegen()
    written = codegen._create_empty_module(symbol)
    write(written)
    module = llvm.parse_assembly(str(written))
    return ObjectCode(symbol, _optimized(module, codegen).emit_object(module), True)


def _optimized(
    module: llvm.ModuleRef, codegen: CPUCodegen, level: int = config.OPT
) -> llvm.TargetMachine:
    """Optimize a module; return what it can be assembled with."""
    machine = _machine(codegen)
    vectorize = {"loop_vectorize": config.LOOP_VECTORIZE, "slp_vectorize": config.SLP_VECTORIZE}
    builder = create_pass_builder(machine, opt=min(level, config.OPT), **vectorize)
    builder.getModulePassManager().run(module, builder)
    return machine
