"""numba_cpu > kernels > part: large functions of kernels, compiled and kept by themselves.

A kernel whose driver is Python and whose inner loops are LLVM IR takes long to compile as a whole,
and two kernels with the same loops compile them twice. A part is such a function: an object file of
its own, like a kernel in all but its signature. The driver's code names it, and the loader puts its
address there; or the driver finds the address in its record, where a network needs but one of some
parts of the same signature. So several processes compile one kernel together, and what is common
exists once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.base import KERNELS, Native
from leptonc.backends.numba_cpu.kernels.loaded_code import digest_of_tools
from leptonc.backends.numba_cpu.kernels.machine_code import LINKED
from leptonc.backends.numba_cpu.kernels.toolchain import Optimized, of_writer


class Part(Native):
    """A native function without a result that kernels call by its symbol."""

    def __init__(self, body: Callable[..., None], name: str, params: Sequence[ir.Type]) -> None:
        super().__init__(body, name, "part")
        self.symbol = f"leptonc_{name}"
        self._type = ir.FunctionType(ir.VoidType(), params)

    @property
    def written_from(self) -> tuple[object, ...]:
        """What decides about the machine code and about calls of it, see :mod:`loaded_code`."""
        own = (Part.code, Part.call, Part._declared, Part._write)
        return *super().written_from, str(self._type), digest_of_tools(*own)

    def code(self, context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> Any:
        """Write the code of an intrinsic that takes the part's arguments: a call."""
        self.call(builder, args)
        return context.get_dummy_value()

    def call(self, b: ir.IRBuilder, args: Sequence[ir.Value]) -> None:
        """Write a call of the part into a kernel or one of its helpers."""
        b.call(b.module.globals.get(self.symbol) or self._declared(b.module), args)

    def _declared(self, module: ir.Module) -> ir.Function:
        fn = ir.Function(module, self._type, self.symbol)
        fn.attributes.add("nounwind")
        return fn

    def _module(self) -> Optimized:
        return of_writer(self.symbol, self._write)

    def _write(self, module: ir.Module) -> None:
        fn = self._declared(module)
        builder = ir.IRBuilder(fn.append_basic_block("entry"))
        self.fn(builder, *fn.args)
        builder.ret_void()


def part(name: str, params: Sequence[ir.Type]) -> Callable[[Callable[..., None]], Part]:
    """Declare a module-level function as what writes a part (decorator): ``body(builder, *args)``.

    Args:
        name: unique among parts.
        params: LLVM types of the part's arguments.
    """

    def declare(body: Callable[..., None]) -> Part:
        new = KERNELS.add(Part(body, name, params))
        LINKED[new.symbol] = new
        return new

    return declare
