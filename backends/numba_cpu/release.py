"""numba_cpu > release: plain weights go once kernels have them packed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from leptonc import meaning
from leptonc.backends.numba_cpu.schedule import TorchStep
from leptonc.ir.constants import Const
from leptonc.ir.core import Function
from leptonc.ir.text import constants
from leptonc.meaning import SMALL


def release(functions: Iterable[Function], steps: Sequence[Any]) -> None:
    """Let the constants of static ``functions`` go that no step of their program reads itself."""
    kept = {c.digest for c in read_by_torch(steps)}
    for fn in functions:
        for const in every_constant(fn):
            if nbytes(const) > SMALL and const.digest not in kept:
                const.release(meaning.stand_in(const.type))


def every_constant(fn: Function) -> Iterator[Const]:
    """Yield the constants of ``fn`` and of its units, equal ones too."""
    for op in fn.ops:
        for value in op.kind.attributes.values():
            if isinstance(value, Const):
                yield value
            elif isinstance(value, Function):
                yield from every_constant(value)


def read_by_torch(steps: Sequence[Any]) -> Iterator[Const]:
    """Yield the constants of the steps that run through torch."""
    for step in steps:
        if isinstance(step, TorchStep):
            yield from constants(step.body).values()


def nbytes(const: Const) -> int:
    """Return the bytes of a constant of static shape."""
    return int(const.type.numel) * const.type.dtype.nbytes
