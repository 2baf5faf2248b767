"""The short way through LLVM: the same results as its own pipeline, from less code."""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite import ir

from leptonc.backends.numba_cpu.kernels import optimizer, toolchain
from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, record
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, vadd, vload_n, vstore_n

pytestmark = pytest.mark.numba


@inline_njit
def twice(x):
    return vadd(x, x)


def doubled(args, tid, nt):
    """Slots: ``f32[n]``, n, ``f32[n]``: twice the first."""
    n = arg(args, 1)
    for i in range(0, n, LANES):
        vstore_n(arg(args, 2), i, twice(vload_n(arg(args, 0), i, n - i)), n - i)


@pytest.mark.parametrize("vectors", [False, True])
def test_both_ways_compute_the_same(vectors):
    x = np.arange(77, dtype=np.float32)
    out = np.zeros(80, np.float32)
    made = Kernel(doubled, f"doubled_{vectors}", vectors=vectors)
    made(record(x, len(x), out))
    np.testing.assert_array_equal(out[:77], 2 * x)
    assert (out[77:] == 0).all()
    assert "call" not in made.assembly()  # the helper is part of it


def test_the_way_is_part_of_what_the_code_is_kept_under():
    one, other = (Kernel(doubled, "doubled", vectors=v) for v in (False, True))
    assert one.written_from != other.written_from


def test_helpers_that_are_small_or_called_once_are_inlined():
    module, kind = ir.Module(), ir.FunctionType(ir.VoidType(), [])

    def function(name: str, calls: list[ir.Function], size: int = 0) -> ir.Function:
        fn = ir.Function(module, kind, name)
        b = ir.IRBuilder(fn.append_basic_block())
        for callee in calls:
            b.call(callee, [])
        for _ in range(size):
            b.alloca(ir.IntType(64))
        b.ret_void()
        fn.linkage = "internal"
        return fn

    outside = ir.Function(module, kind, "outside")
    large = function("large", [outside], optimizer.SMALL)
    small = function("small", [outside])
    once = function("once", [large, small], 2 * optimizer.SMALL)
    entry = function("entry", [once, large, small])
    entry.linkage = "external"
    optimizer.mark_inlined(module)
    inlined = {f.name for f in module.functions if "alwaysinline" in f.attributes}
    assert inlined == {"small", "once"}


def test_llvm_knows_the_passes():
    assert toolchain.optimize_shortly is optimizer.optimize_shortly
    passes = dir(optimizer.llvm.create_new_module_pass_manager())
    assert {f"add_{name}_pass" for name in optimizer.SHORT} <= set(passes)
