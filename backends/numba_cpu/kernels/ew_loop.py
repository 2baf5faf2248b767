"""numba_cpu > kernels > ew_loop: one elementary operation over arrays as a native function.

An operation is ``void(dst, a, b, c, n, p)``: ``n`` elements of up to three operands at byte
addresses
``a``, ``b``, ``c`` give ``n`` elements at ``dst``; ``p`` is the address of its parameters (64-bit
words).
The whole loop is written as LLVM IR for any element type: nothing is left for numba to infer, so an
operation compiles in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import KERNELS, Kernel
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    LANES,
    PTR,
    i64,
)

OP_SIGNATURE = "void(int64,int64,int64,int64,int64,int64)"

# Element types in memory; bool is one byte, a value of it one bit.
MEMORY: dict[str, ir.Type] = {
    "f32": F32, "f64": F64, "i64": I64, "i32": I32, "i16": I16, "i8": I8, "u8": I8, "bool": I8,
    "bf16": I16, "f16": I16,
}  # fmt: skip
SIZE = {
    "f32": 4, "f64": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1,
    "bf16": 2, "f16": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Lanes:
    """What a body may use besides its operands: ``width`` elements at once, parameters at ``p``."""

    b: ir.IRBuilder
    width: int
    p: ir.Value

    def const(self, element: ir.Type, value: float | int) -> ir.Constant:
        """Return ``value`` in every lane."""
        if self.width == 1:
            return ir.Constant(element, value)
        return ir.Constant(ir.VectorType(element, self.width), [value] * self.width)

    def vector(self, element: ir.Type) -> ir.Type:
        """Return the type that holds ``width`` elements."""
        return element if self.width == 1 else ir.VectorType(element, self.width)

    def splat(self, x: ir.Value) -> ir.Value:
        """Return scalar ``x`` in every lane."""
        if self.width == 1:
            return x
        kind = ir.VectorType(x.type, self.width)
        undef = ir.Constant(kind, ir.Undefined)
        one = self.b.insert_element(undef, x, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return self.b.shuffle_vector(one, undef, zeros)

    def param(self, index: int, element: ir.Type) -> ir.Value:
        """Return parameter ``index`` (a float64 or an int64) in every lane, as ``element``."""
        base = self.b.inttoptr(self.p, PTR)
        whole = F64 if isinstance(element, (ir.FloatType, ir.DoubleType)) else I64
        at = self.b.gep(base, [i64(index)], source_etype=whole)
        word = self.b.load(at, align=8, typ=whole)
        if element == F32:
            word = self.b.fptrunc(word, F32)
        elif element != whole:
            word = self.b.trunc(word, element)
        return self.splat(word)


Body = Callable[..., ir.Value]


def operation(
    name: str, ins: Sequence[str], out: str, body: Body, width: int = LANES, unroll: int = 1
) -> Kernel:
    """Return the native operation ``name``: ``body(lanes, *values) -> value`` over whole arrays.

    Args:
        name: unique among operations of the same element types.
        ins: element types of the operands (keys of ``MEMORY``), at most three.
        out: element type of the result.
        body: writes the code for ``width`` elements; bool values are ``i1``.
        width: elements at once; 1 for code that is called element by element.
        unroll: groups of ``width`` per round of the loop; cheap bodies gain from several.
    """
    loop = _loop(tuple(ins), out, body, width, unroll)

    def fn(dst, a, b, c, n, p):
        loop(dst, a, b, c, n, p)

    params = (*ins, out)
    return KERNELS.add(Kernel(fn, f"ew_{name}", params, signature=OP_SIGNATURE))


def _call_op():
    """Return the intrinsic ``call_op(fn, dst, a, b, c, n, p)``: call an operation by address."""

    def code(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 6)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return intrinsic(
        lambda ctx, fn, dst, a, b, c, n, p: (types.void(*[types.int64] * 7), code),
    )


def _copy_bytes():
    """Return the intrinsic ``copy_bytes(to, source, n)``: C's memcpy."""

    def code(context, builder, sig, args):
        to, source = (builder.inttoptr(a, PTR) for a in args[:2])
        memcpy(builder, to, source, args[2])
        return context.get_dummy_value()

    return intrinsic(lambda ctx, to, source, n: (types.void(*[types.int64] * 3), code))


def memcpy(b: ir.IRBuilder, to: ir.Value, source: ir.Value, nbytes: ir.Value) -> None:
    """Copy ``nbytes`` between areas that do not overlap."""
    name = "llvm.memcpy.p0.p0.i64"
    kind = ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I1])
    fn = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    b.call(fn, [to, source, nbytes, ir.Constant(I1, 0)])


call_op = _call_op()
copy_bytes = _copy_bytes()


def _loop(ins: tuple[str, ...], out: str, body: Body, width: int, unroll: int):
    """Return the intrinsic that runs ``body`` over ``n`` elements."""

    def code(context, builder, sig, args):
        _Writer(builder, ins, out, body, width, unroll).write(args)
        return context.get_dummy_value()

    return intrinsic(
        lambda ctx, dst, a, b, c, n, p: (types.void(*[types.int64] * 6), code),
    )


@dataclass
class _Writer:
    """Writes the loop; the last, short group of elements goes through buffers on the stack."""

    b: ir.IRBuilder
    ins: tuple[str, ...]
    out: str
    body: Body
    width: int
    unroll: int

    def write(self, args: Sequence[ir.Value]) -> None:
        b, step = self.b, i64(self.width)
        dst, n, p = args[0], args[4], args[5]
        names = (*self.ins, self.out)
        bases = [b.inttoptr(a, PTR) for a in (*args[1 : 1 + len(self.ins)], dst)]
        buffers = [self._buffer(t) for t in names] if self.width > 1 else []
        start = self._fast(n, p, bases) if self.unroll > 1 else i64(0)
        before = b.block
        head, work, end = (b.append_basic_block(x) for x in ("head", "work", "end"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(start, before)
        b.cbranch(b.icmp_signed("<", i, n), work, end)
        b.position_at_end(work)
        pointers = self._at(bases, i)
        if self.width > 1:
            self._group(i, n, p, pointers, buffers, end)
        else:
            self._apply(pointers, p)
        i.add_incoming(b.add(i, step), b.block)
        b.branch(head)
        b.position_at_end(end)

    def _at(self, bases: Sequence[ir.Value], i: ir.Value) -> list[ir.Value]:
        """Return the addresses of element ``i`` of the operands and the result."""
        names = (*self.ins, self.out)
        return [
            self.b.gep(base, [i], source_etype=MEMORY[t])
            for base, t in zip(bases, names, strict=True)
        ]

    def _fast(self, n: ir.Value, p: ir.Value, bases: Sequence[ir.Value]) -> ir.Value:
        """Write the loop over whole rounds of several groups; return where it stops."""
        b, step = self.b, self.unroll * self.width
        before = b.block
        head, work, end = (b.append_basic_block(x) for x in ("fast", "rounds", "rest"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(i64(0), before)
        following = b.add(i, i64(step))
        b.cbranch(b.icmp_signed("<=", following, n), work, end)
        b.position_at_end(work)
        for k in range(self.unroll):
            self._apply(self._at(bases, b.add(i, i64(k * self.width))), p)
        i.add_incoming(following, b.block)
        b.branch(head)
        b.position_at_end(end)
        return i

    def _group(self, i, n, p, pointers, buffers, end) -> None:
        """Write one group of ``width`` elements, or of what is left, then leave at ``end``."""
        b, names = self.b, (*self.ins, self.out)
        left = b.sub(n, i)
        short = b.icmp_signed("<", left, i64(self.width))
        whole = b.block
        fill, both, spill, more = (
            b.append_basic_block(x) for x in ("fill", "both", "spill", "more")
        )
        b.cbranch(short, fill, both)
        b.position_at_end(fill)
        for t, source, buffer in zip(self.ins, pointers, buffers, strict=False):
            memcpy(b, buffer, source, b.mul(left, i64(SIZE[t])))
        b.branch(both)
        b.position_at_end(both)
        chosen = []
        for pointer, buffer in zip(pointers, buffers, strict=True):
            phi = b.phi(PTR)
            phi.add_incoming(pointer, whole)
            phi.add_incoming(buffer, fill)
            chosen.append(phi)
        self._apply(chosen, p)
        b.cbranch(short, spill, more)
        b.position_at_end(spill)
        memcpy(b, pointers[-1], buffers[-1], b.mul(left, i64(SIZE[names[-1]])))
        b.branch(end)
        b.position_at_end(more)

    def _buffer(self, t: str) -> ir.Value:
        """Return ``width`` zeros on the stack."""
        kind = ir.VectorType(MEMORY[t], self.width)
        with self.b.goto_entry_block():
            raw = self.b.alloca(kind)
        buffer = self.b.bitcast(raw, PTR)
        self.b.store(ir.Constant(kind, None), buffer, align=SIZE[t])
        return buffer

    def _apply(self, pointers: Sequence[ir.Value], p: ir.Value) -> None:
        """Load the operands, write the body, store its result."""
        b, lanes = self.b, Lanes(self.b, self.width, p)
        values = []
        for t, pointer in zip(self.ins, pointers, strict=False):
            v = b.load(pointer, align=SIZE[t], typ=lanes.vector(MEMORY[t]))
            if t == "bool":
                v = b.icmp_unsigned("!=", v, lanes.const(I8, 0))
            values.append(v)
        result = self.body(lanes, *values)
        if self.out == "bool":
            result = b.zext(result, lanes.vector(I8))
        b.store(result, pointers[-1], align=SIZE[self.out])
