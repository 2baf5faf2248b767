"""Runs lowered ops without the scheduler, every buffer in guarded memory of its own.

``run_op(kind, *tensors)`` lowers one op and returns its results; ``check_op`` compares them with
torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.base import Native, slot_bits
from leptonc.backends.numba_cpu.kernels.shares import ONE
from leptonc.backends.numba_cpu.legal import Yes
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm, ConvShape, costs
from leptonc.backends.numba_cpu.lower.core import ConstPool, Lowering
from leptonc.backends.numba_cpu.schedule import Scratch, Slot, Step
from leptonc.backends.numba_cpu.views import Buffer, Ref, View, dense
from leptonc.ir.core import Builder, Function, Kind, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import TensorType

_TOPICS = (
    "elementwise", "shape", "reduce", "norm", "data", "contract", "conv", "pool", "attention",
    "recurrent", "quantized", "code_rows",
)  # fmt: skip
_GUARD = 0xA5
_MARGIN = 256


def choose(shape: ConvShape, precision: str, near: bool = False) -> Algorithm:
    """Return the algorithm that the cost model thinks fastest."""
    found = costs(shape, precision, near)
    return min(found, key=lambda a: found[a])


def lowerings() -> dict[type[Kind], tuple[Callable, Callable]]:
    """Return claims and lowerings of every topic."""
    table: dict[type[Kind], tuple[Callable, Callable]] = {}
    for topic in _TOPICS:
        name = f"leptonc.backends.numba_cpu.lower.{topic}"
        if importlib.util.find_spec(name) is not None:
            table.update(importlib.import_module(name).LOWER)
    return table


class Memory:
    """Memory for buffers by identity; ``check`` finds writes beyond their ends."""

    def __init__(self, consts: Sequence[np.ndarray], scratch: int, threads: int) -> None:
        self.blocks: dict[Buffer, np.ndarray] = {}
        self.consts, self.stride = consts, scratch + 64
        self.scratch = np.zeros(self.stride * threads + 128, np.uint8)

    def address(self, buffer: Buffer) -> int:
        """Return where ``buffer`` starts."""
        if buffer.space == "const":
            return self.consts[buffer.index].ctypes.data
        if buffer not in self.blocks:
            self.blocks[buffer] = np.full(buffer.nbytes + 2 * _MARGIN, _GUARD, np.uint8)
            if buffer.space == "status":
                self.blocks[buffer][:] = 0
        return self.blocks[buffer].ctypes.data + _MARGIN

    def check(self) -> None:
        """Raise AssertionError if a kernel wrote outside a buffer."""
        for buffer, block in self.blocks.items():
            if buffer.space != "status":
                ends = np.concatenate([block[:_MARGIN], block[_MARGIN + buffer.nbytes :]])
                assert (ends == _GUARD).all(), f"wrote outside {buffer}"

    def word(self, slot: Slot) -> int:
        """Return a record slot's 64 bits."""
        if isinstance(slot, Ref):
            return self.address(slot.buffer) + slot.byte_offset
        if isinstance(slot, Scratch):
            base = -(-self.scratch.ctypes.data // 64) * 64
            return self.stride if slot.stride else base + slot.byte_offset
        return slot.address if isinstance(slot, Native) else slot_bits(slot)


def storage(t: Tensor) -> np.ndarray:
    """Return the bytes of a tensor's elements in memory order."""
    order = sorted(range(t.dim()), key=lambda a: (-t.stride(a), a))
    return t.permute(order).contiguous().view(-1).view(torch.uint8).numpy()


def physical(t: Tensor, order: Sequence[int] | None) -> Tensor:
    """Return ``t`` stored in the physical axis order."""
    if order is None:
        return t.contiguous()
    back = [list(order).index(i) for i in range(t.dim())]
    return t.permute(*order).contiguous().permute(*back)


def some_cuts(threads: int, seed: int) -> np.ndarray | int:
    """Return shares for threads as kernels take them: of any size, or for some seeds equal."""
    if seed % 3 == 0:
        return 0
    sizes = np.random.default_rng(seed).integers(1, 100, threads)
    return np.array([0, *(ONE * np.cumsum(sizes) // sizes.sum())], np.int64)


class Run:
    """One lowered function: call it with tensors, as often as wanted.

    Args:
        fn: the function; its parameters' layouts are those of their types.
        threads: shares of every step.
        lower: lowers the body; default: op by op.
    """

    def __init__(self, fn: Function, threads: int = 1, lower: Callable | None = None) -> None:
        self.fn, self.threads = fn, threads
        self.ctx = ctx = Lowering(ConstPool(), threads)
        ctx.makers = dict(fn.producer)
        for i, v in enumerate(fn.params):
            nbytes = int(v.type.numel) * v.type.dtype.nbytes
            ctx.views[v] = dense(Buffer("input", nbytes, i), v.type)
        for i, v in enumerate(fn.returns):
            if v not in fn.params:
                nbytes = int(v.type.numel) * v.type.dtype.nbytes
                ctx.outputs[v] = dense(Buffer("output", nbytes, i), v.type)
        if lower is None or lower(ctx, fn) is False:
            _by_op(ctx, fn)
        self.outputs = tuple(ctx.view(v) for v in fn.returns)
        self.cuts = some_cuts(threads, zlib.crc32(str(fn).encode()))
        self.steps = [s for s in ctx.steps if isinstance(s, Step)]
        self.memory = Memory(ctx.pool.arrays, ctx.scratch_bytes, threads)
        self.records = [
            np.array([self.memory.word(s) for s in st.slots], np.int64) for st in self.steps
        ]

    def bind(self, *tensors: Tensor) -> None:
        """Copy operands into place."""
        for v, t in zip(self.fn.params, tensors, strict=True):
            view = self.ctx.views[v]
            raw = storage(physical(t, v.type.layout)) if t.numel() else np.zeros(0, np.uint8)
            self.memory.address(view.buffer)
            self.memory.blocks[view.buffer][_MARGIN : _MARGIN + raw.size] = raw

    def run(self) -> None:
        """Run all steps, their shares equal or not."""
        for step, record in zip(self.steps, self.records, strict=True):
            nt = 1 if step.serial else self.threads
            step.kernel.run_all(record, nt, self.cuts if nt > 1 else 0)

    def results(self) -> tuple[Tensor, ...]:
        """Return copies of the results."""
        self.memory.check()
        for buffer, block in self.memory.blocks.items():
            if buffer.space == "status" and block.any():
                index = np.flatnonzero(block[_MARGIN:].view(np.int64))[0]
                raise IndexError(self.ctx.errors[index])
        return tuple(self._tensor(v) for v in self.outputs)

    def _tensor(self, view: View) -> Tensor:
        plain = [abs(s) for s in view.strides]
        start = view.offset + sum(
            (n - 1) * s for n, s in zip(view.shape, view.strides, strict=True) if s < 0
        )
        address = self.memory.address(view.buffer) + start * view.dtype.nbytes
        t = meaning.tensor_at(address, view.dtype, view.shape, plain)
        return t.flip([a for a, s in enumerate(view.strides) if s < 0]).clone()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Bind, run, return the results."""
        self.bind(*tensors)
        self.run()
        return self.results()


def _by_op(ctx: Lowering, fn: Function) -> None:
    table = lowerings()
    for op in fn.ops:
        if not isinstance(op.kind, Constant) and op.kind.NAME != "full":
            claim, lower = table[type(op.kind)]
            answer = claim(op)
            assert isinstance(answer, Yes), answer
            lower(ctx, op)


def make(
    kind: Kind,
    tensors: Sequence[Tensor],
    layouts: Sequence[Sequence[int] | None] | None = None,
    consts: Sequence[int] = (),
    result_layouts: Sequence[Sequence[int] | None] | None = None,
) -> Function:
    """Return the function of one op; operands named in ``consts`` become constants."""
    b = Builder("one")
    layouts = layouts or [None] * len(tensors)
    operands: list[Value] = []
    for i, (t, layout) in enumerate(zip(tensors, layouts, strict=True)):
        if i in consts:
            operands.append(b(Constant(meaning.const_of(t.contiguous()))))
        else:
            plain = meaning.type_of(t)
            typed = TensorType(plain.dtype, plain.shape, None if layout is None else tuple(layout))
            operands.append(b.param(typed, f"x{i}"))
    results = b.emit(kind, *operands)
    if result_layouts is not None:
        op = b.ops.pop()
        results = tuple(
            Value(TensorType(r.type.dtype, r.type.shape, None if o is None else tuple(o)))
            for r, o in zip(results, result_layouts, strict=True)
        )
        b.append(Op(op.kind, op.operands, results))
    return b.finish(*results)


def run_op(
    kind: Kind,
    *tensors: Tensor,
    layouts: Sequence[Sequence[int] | None] | None = None,
    consts: Sequence[int] = (),
    result_layouts: Sequence[Sequence[int] | None] | None = None,
    threads: int = 1,
) -> tuple[Tensor, ...]:
    """Return the results of one op, computed natively."""
    fn = make(kind, tensors, layouts, consts, result_layouts)
    return Run(fn, threads)(*(t for i, t in enumerate(tensors) if i not in consts))


def check_op(
    kind: Kind,
    *tensors: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    threads: Sequence[int] = (1, 2, 3),
    **options,
) -> None:
    """Compare with torch; results must not depend on the number of threads, bit for bit."""
    want = meaning.apply(kind, *tensors)
    first: tuple[Tensor, ...] | None = None
    for nt in threads:
        got = run_op(kind, *tensors, threads=nt, **options)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == w.dtype and g.shape == w.shape, (g.dtype, g.shape, w.dtype, w.shape)
            torch.testing.assert_close(g, w, rtol=rtol, atol=atol, equal_nan=True)
        if first is None:
            first = got
        for g, f in zip(got, first, strict=True):
            same = (g == f) | (g != g) & (f != f) if g.dtype.is_floating_point else g == f
            assert bool(same.all()), f"{kind.NAME}: {nt} threads give other bits"
