"""Kinds that hold something larger: an opaque torch call, a compute unit with its body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from leptonc.errors import InferError
from leptonc.ir.core import Function, Kind, Trait, Types, kind
from leptonc.ir.kinds.base import arity
from leptonc.ir.paint import Painted, Piece
from leptonc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Arg:
    """Placeholder for operand ``index`` inside the argument template of a ``TorchOp``."""

    index: int

    def __str__(self) -> str:
        return f"${self.index}"


@kind
class TorchOp(Kind):
    """An ATen call that has no kind of its own; it runs through torch.

    ``target`` is the overload's name (``aten.grid_sampler.default``); ``args`` and ``kwargs``
    (pairs of name and value) are templates of literals, tuples and ``Arg`` placeholders; ``types``
    are the result types found at capture.
    """

    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    types: tuple[TensorType, ...]
    pure: bool = True
    NAME: ClassVar[str] = "torch_op"

    @property
    def traits(self) -> Trait:
        """Opaque; pure unless the op is random or has an effect."""
        return Trait.OPAQUE | (Trait.PURE if self.pure else Trait.NONE)

    def infer(self, args: Types) -> Types:
        """Return ``types``."""
        return self.types


@kind
class Unit(Kind, Painted):
    """A compute unit: a convex group of ops that runs, is timed and checked on its own.

    ``body`` takes the operands as parameters and returns the results. ``pattern`` names what fuse
    recognised (``conv``, ``attention``, ``chain``, ...); it steers no semantics.
    """

    body: Function
    name: str = ""
    pattern: str = ""
    NAME: ClassVar[str] = "unit"

    @property
    def traits(self) -> Trait:
        """Pure when every op of the body is."""
        pure = all(Trait.PURE in op.kind.traits for op in self.body.ops)
        return Trait.PURE if pure else Trait.NONE

    def infer(self, args: Types) -> Types:
        """Return the body's return types. Raises InferError when operands do not fit its params."""
        arity(self, args, len(self.body.params))
        for a, p in zip(args, self.body.params, strict=True):
            if a != p.type and a.logical() != p.type.logical():
                raise InferError(f"unit: operand {a} does not fit parameter {p.type}")
        return tuple(v.type for v in self.body.returns)

    def __repr__(self) -> str:
        return f"<Unit {self.name or '_'} [{self.pattern or 'op'}]: {len(self.body.ops)} ops>"

    def painted(self) -> Iterable[Piece]:
        """Return what notebooks and terminals show, piece by piece."""
        yield "head", f"unit {self.name or '_'}"
        yield "note", f" [{self.pattern or 'op'}]\n"
        yield from self.body.painted()


KINDS: tuple[type[Kind], ...] = (TorchOp, Unit)
