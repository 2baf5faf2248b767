"""numba_cpu > kernels > vectype: numba types of vector registers, helpers to build LLVM IR.

Everything here works on ``llvmlite`` values; :mod:`vec` wraps it into intrinsics that kernels call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import types
from numba.extending import models, register_model

from leptonc.backends.numba_cpu.kernels.base import lanes

LANES = lanes()

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
PTR = ir.PointerType()
VF = ir.VectorType(F32, LANES)
VI = ir.VectorType(I32, LANES)
VM = ir.VectorType(I1, LANES)


class VecF32(types.Type):
    """``<LANES x float>``: one register of float32."""

    def __init__(self) -> None:
        super().__init__(name=f"vec{LANES}f32")


class VecI32(types.Type):
    """``<LANES x i32>``: one register of int32."""

    def __init__(self) -> None:
        super().__init__(name=f"vec{LANES}i32")


class VecMask(types.Type):
    """``<LANES x i1>``: the result of a comparison."""

    def __init__(self) -> None:
        super().__init__(name=f"vec{LANES}i1")


def _primitive(llvm_type: ir.Type) -> type[models.PrimitiveModel]:
    """Return a data model that stores a numba type as one LLVM value."""

    class Model(models.PrimitiveModel):
        def __init__(self, dmm, fe_type) -> None:
            super().__init__(dmm, fe_type, llvm_type)

    return Model


_LLVM = {VecF32: VF, VecI32: VI, VecMask: VM}
REGISTERED = tuple(register_model(t)(_primitive(llvm)) for t, llvm in _LLVM.items())
vf32, vi32, vmask = VecF32(), VecI32(), VecMask()


def i64(value: int) -> ir.Constant:
    """Return the 64-bit constant ``value``."""
    return ir.Constant(I64, value)


def fconst(value: float) -> ir.Constant:
    """Return a vector whose lanes all hold ``value``."""
    return ir.Constant(VF, [float(value)] * LANES)


def iconst(value: int) -> ir.Constant:
    """Return an i32 vector whose lanes all hold ``value``."""
    return ir.Constant(VI, [value] * LANES)


def pointer(
    b: ir.IRBuilder, address: ir.Value, index: ir.Value | None = None, size: int = 4
) -> ir.Value:
    """Return the pointer to element ``index`` (of ``size`` bytes) from a byte address."""
    base = b.inttoptr(address, PTR)
    if index is None:
        return base
    return b.gep(base, [index], source_etype=ir.IntType(8 * size))


def floats_on(b: ir.IRBuilder, ptr: ir.Value, count: int) -> ir.Value:
    """Return the pointer ``count`` floats behind ``ptr``."""
    return b.gep(ptr, [i64(count)], source_etype=F32)


def load_vec(b: ir.IRBuilder, ptr: ir.Value) -> ir.Value:
    """Load ``LANES`` floats from an address that is only float-aligned."""
    return b.load(ptr, align=4, typ=VF)


def splat(b: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType = VF) -> ir.Value:
    """Return ``scalar`` in all lanes."""
    undef = ir.Constant(vector, ir.Undefined)
    one = b.insert_element(undef, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(
        one, undef, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    )


def shuffle(b: ir.IRBuilder, x: ir.Value, y: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Return the chosen lanes of ``x`` (numbers below its length) and ``y`` (the following)."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def first_lanes(b: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """Return the mask of lanes below ``count`` (i64, any value)."""
    low = b.select(b.icmp_signed("<", count, i64(0)), i64(0), count)
    few = b.select(b.icmp_signed(">", low, i64(LANES)), i64(LANES), low)
    lane = ir.Constant(VI, list(range(LANES)))
    return b.icmp_signed("<", lane, splat(b, b.trunc(few, I32), VI))


def call(b: ir.IRBuilder, name: str, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    """Call the LLVM intrinsic ``name`` (with its type suffix), declared on first use."""
    fn = b.module.globals.get(name)
    if fn is None:
        fn = ir.Function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(fn, args)


def call_float(b: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Call ``llvm.<name>`` on float vectors."""
    return call(b, f"llvm.{name}.v{LANES}f32", VF, args)


def fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """Return ``x * y + z``: fused where the machine can, never a library call."""
    return call_float(b, "fmuladd", x, y, z)


def masked_load(b: ir.IRBuilder, ptr: ir.Value, mask: ir.Value) -> ir.Value:
    """Load the masked lanes, 0 in the others; memory outside the mask is not touched."""
    align = ir.Constant(I32, 4)
    args = [ptr, align, mask, fconst(0.0)]
    return call(b, f"llvm.masked.load.v{LANES}f32.p0", VF, args)


def masked_store(b: ir.IRBuilder, value: ir.Value, ptr: ir.Value, mask: ir.Value) -> None:
    """Store the masked lanes; memory outside the mask is not touched."""
    args = [value, ptr, ir.Constant(I32, 4), mask]
    call(b, f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(), args)


def prefetch(b: ir.IRBuilder, ptr: ir.Value, level: int = 1, write: bool = False) -> None:
    """Ask for the cache line at ``ptr`` into the cache of ``level``; any address is allowed.

    What is used at once belongs into the first level. What is used later belongs into the second:
    it does not push out what is in use, and a core waits for more lines of it at a time (a dozen
    go to the first level, some forty to the second).
    """
    how, keep, data = (ir.Constant(I32, v) for v in (int(write), 4 - level, 1))
    call(b, "llvm.prefetch.p0", ir.VoidType(), [ptr, how, keep, data])


def shared_function(
    module: ir.Module,
    name: str,
    result: ir.Type,
    params: Sequence[ir.Type],
    body: Callable,
    inline: bool = False,
) -> ir.Function:
    """Return the module-local function ``name``; ``body(builder, *args)`` writes it on first use.

    It keeps big bodies (``exp``, microkernels) out of their callers: they are compiled once a
    module.
    """
    fn = module.globals.get(name)
    if fn is None:
        fn = ir.Function(module, ir.FunctionType(result, params), name)
        fn.linkage = "linkonce_odr"  # one copy, however many helpers bring it
        fn.attributes.add("nounwind")
        fn.attributes.add("alwaysinline" if inline else "noinline")
        builder = ir.IRBuilder(fn.append_basic_block("entry"))
        value = body(builder, *fn.args)
        if value is None:
            builder.ret_void()
        else:
            builder.ret(value)
    return fn
