"""numba_cpu > kernels > optimizer: which of LLVM's passes run on the module of a kernel.

Two ways. LLVM's own pipeline looks for vectors, for loops to unroll and for what is worth inlining,
over and over. Kernels whose loops are written in vectors, or are parts, leave it nothing to find:
for them a dozenth of that time does, helpers inlined by a plain rule, values in registers, common
ones computed once, dead ones not at all. Code comes out smaller, and networks are as fast.
"""

from __future__ import annotations

import llvmlite.binding as llvm
import llvmlite.ir
from numba.core import config
from numba.core.llvm_bindings import create_pass_builder

#: Passes of the short way, in order: methods ``add_*_pass`` of a pass manager.
SHORT = (
    "always_inliner", "sroa", "simplify_cfg", "instruction_combine", "new_gvn", "simplify_cfg",
    "aggressive_dce",
)  # fmt: skip
SMALL = 30  # instructions: helpers up to this size are inlined wherever they are called


def optimize(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Run LLVM's own pipeline on a module."""
    vectorize = {"loop_vectorize": config.LOOP_VECTORIZE, "slp_vectorize": config.SLP_VECTORIZE}
    builder = create_pass_builder(machine, opt=config.OPT, **vectorize)
    builder.getModulePassManager().run(module, builder)


def optimize_shortly(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Run the short way on a module whose helpers :func:`mark_inlined` has seen."""
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    passes = llvm.create_new_module_pass_manager()
    for name in SHORT:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)


def mark_inlined(module: llvmlite.ir.Module) -> None:
    """Mark which internal functions become part of their callers: small ones, and of one call."""
    calls: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for fn in module.functions:
        instructions = [i for block in fn.blocks for i in block.instructions]
        sizes[fn.name] = len(instructions)
        for i in instructions:
            name = getattr(getattr(i, "callee", None), "name", None)
            if name is not None:
                calls[name] = calls.get(name, 0) + 1
    for fn in module.functions:
        inlined = calls.get(fn.name) == 1 or sizes[fn.name] <= SMALL
        if inlined and fn.linkage == "internal" and fn.blocks:
            fn.attributes.add("alwaysinline")
