"""numba_cpu > kernels > ir_loops: loops, branches and interleaved parts of functions in LLVM IR."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.vectype import i64

Writing = Generator[None, None, Any]  # yields between instructions, so that others come between


class Loop:
    """A loop that runs at least once; ``values`` go from turn to turn."""

    def __init__(self, b: ir.IRBuilder, name: str, starts: Iterable[ir.Value]) -> None:
        self.b, before, starts = b, b.block, list(starts)
        self.block, self.end = (b.append_basic_block(n) for n in (name, f"{name}_end"))
        b.branch(self.block)
        b.position_at_end(self.block)
        self.values = [b.phi(v.type) for v in starts]
        self._enter(starts, before)

    def _enter(self, values: Iterable[ir.Value], block: ir.Block) -> None:
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, block)

    def close(self, more: ir.Value, values: Iterable[ir.Value]) -> None:
        """Go on with ``values`` while ``more``."""
        self._enter(values, self.b.block)
        self.b.cbranch(more, self.block, self.end)
        self.b.position_at_end(self.end)


def counted(
    b: ir.IRBuilder, count: ir.Value, values: Iterable[ir.Value], body: Callable
) -> list[ir.Value]:
    """Write ``for i in range(count): values = body(i, values)``, count >= 1; return values."""
    loop = Loop(b, "loop", [i64(0), *values])
    i, *inner = loop.values
    new = list(body(i, inner))
    after = b.add(i, i64(1))
    loop.close(b.icmp_signed("<", after, count), [after, *new])
    return new


def when(
    b: ir.IRBuilder, condition: ir.Value, values: list[ir.Value], body: Callable
) -> list[ir.Value]:
    """Return ``body(values)`` where the condition holds, else ``values``."""
    before, then, end = b.block, b.append_basic_block("then"), b.append_basic_block("end")
    b.cbranch(condition, then, end)
    b.position_at_end(then)
    made = body(values)
    after = b.block
    b.branch(end)
    b.position_at_end(end)
    phis = [b.phi(v.type) for v in values]
    for phi, old, new in zip(phis, values, made, strict=True):
        phi.add_incoming(old, before)
        phi.add_incoming(new, after)
    return phis


def case_of(
    b: ir.IRBuilder, value: ir.Value, cases: Iterable[int], body: Callable[[int], None]
) -> None:
    """Write ``body(case)`` of each of the cases; that of ``value`` runs, or nothing."""
    end = b.append_basic_block("end")
    switch = b.switch(value, end)
    for case in cases:
        here = b.append_basic_block("case")
        switch.add_case(i64(case), here)
        b.position_at_end(here)
        body(case)
        b.branch(end)
    b.position_at_end(end)


def opaque(b: ir.IRBuilder, value: ir.Value, register: str = "r") -> ir.Value:
    """Return a value that LLVM knows nothing about: a loop that counts with it is not unrolled.

    ``register``: the kind that holds it, "v" for a vector.

    Each load of a loop that is unrolled passes over lines that others read, and what a processor
    asks for ahead of a load follows its own steps.
    """
    same = ir.InlineAsm(ir.FunctionType(value.type, [value.type]), "", f"={register},0")
    return b.call(same, [value])


def each(values: Iterable[Any], do: Callable[[Any], ir.Value]) -> Writing:
    """Return ``do`` of each value."""
    made = []
    for value in values:
        made.append(do(value))
        yield
    return made
