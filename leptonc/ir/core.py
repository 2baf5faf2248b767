"""SSA core: kinds, values, ops, functions. Everything here is frozen.

Only ``Builder`` grows; ``Builder.finish`` seals its contents into a ``Function``.
"""

from __future__ import annotations

import dataclasses
import importlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from functools import cached_property
from typing import Any, ClassVar, TypeAlias, TypeVar, cast, dataclass_transform

import sympy  # pyright: ignore[reportMissingTypeStubs]

from leptonc.errors import InferError
from leptonc.ir.constants import Const
from leptonc.ir.dims import DimRange
from leptonc.ir.paint import Painted, Piece, block, listing, pieces
from leptonc.ir.types import TensorType

Types: TypeAlias = "tuple[TensorType, ...]"
K = TypeVar("K", bound="Kind")


class Trait(Flag):
    """What rewrites may assume about every op of a kind."""

    NONE = 0
    PURE = auto()  # same operands, same results; no effect; may be merged, dropped, folded
    COMMUTATIVE = auto()
    ELEMENTWISE = auto()  # result element i depends on element i of the (broadcast) operands
    VIEW = auto()  # moves no data: expressible as strides on the operand's buffer
    OPAQUE = auto()  # known only to torch


class Kind:
    """What an op does: one frozen subclass an op (see ``kind``), its fields the attributes.

    Kinds compare by class and exact attribute bits (``1``, ``1.0``, ``True``, ``0.0`` and ``-0.0``
    differ, NaN equals itself), so ``(kind, operands)`` is a CSE key.
    """

    NAME: ClassVar[str]
    TRAITS: ClassVar[Trait] = Trait.PURE

    @property
    def traits(self) -> Trait:
        """Traits of this very op; a kind may depend on its attributes for them."""
        return self.TRAITS

    def infer(self, args: Types) -> Types:
        """Return the result types. Raises InferError when ``args`` do not fit."""
        raise NotImplementedError(type(self).__name__)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Class and attribute bits: what equality and hashing compare."""
        return (self.NAME, *(_bits(v) for v in self.attributes.values()))

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attribute values by name, in declaration order."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every Kind is a dataclass
        return {f.name: getattr(self, f.name) for f in fields}

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kind) and self.key == other.key)

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass_transform(frozen_default=True, eq_default=False)
def kind(cls: type[K]) -> type[K]:
    """Class decorator of every kind: a frozen dataclass that keeps ``Kind``'s equality."""
    made = dataclass(frozen=True, eq=False)(cls)
    made.NAME  # noqa: B018  # a kind without a name fails here, at import
    return made


def _bits(value: Any) -> Any:
    if isinstance(value, bool):
        return ("b", value)
    if isinstance(value, float):
        return ("f", struct.pack("<d", value) if value == value else "nan")
    if isinstance(value, int):
        return ("i", value)
    if isinstance(value, tuple):
        return ("t", tuple(map(_bits, cast("tuple[Any, ...]", value))))
    if isinstance(value, sympy.Expr):
        return ("e", value)
    if isinstance(value, Enum):
        return ("n", value)
    if isinstance(value, Const):
        return ("c", value)
    if isinstance(value, Function):
        return ("u", value)  # a body is compared by identity
    return (type(value).__name__, value)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an op comes from in the user's model; survives rewrites."""

    module: str = ""  # module path, e.g. "layer1.0.conv1"
    source: str = ""  # "file.py:line"

    def __str__(self) -> str:
        return " ".join(p for p in (self.module, f"({self.source})" if self.source else "") if p)


NOWHERE = Origin()


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """One SSA value, compared by identity; ``hint`` only steers printing."""

    type: TensorType
    hint: str = ""

    def __repr__(self) -> str:
        return f"<Value %{self.hint or '_'}: {self.type}>"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Op(Painted):
    """One application of a kind."""

    kind: Kind
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    origin: Origin = NOWHERE

    @property
    def result(self) -> Value:
        """The one result of an op that has exactly one."""
        (value,) = self.results
        return value

    def __repr__(self) -> str:
        return f"<Op {_text().op_text(self)}>"

    def painted(self) -> Iterable[Piece]:
        """Return what notebooks and terminals show, piece by piece."""
        return pieces(_text().op_text(self))


@dataclass(frozen=True, eq=False, repr=False)
class Function(Painted):
    """A sealed, topologically ordered list of ops; ``dims`` declares its symbolic sizes."""

    name: str
    params: tuple[Value, ...]
    ops: tuple[Op, ...]
    returns: tuple[Value, ...]
    dims: tuple[DimRange, ...] = ()

    @cached_property
    def producer(self) -> Mapping[Value, Op]:
        """The op that makes each non-parameter value."""
        return {r: op for op in self.ops for r in op.results}

    @cached_property
    def use_count(self) -> Mapping[Value, int]:
        """How often each value is read, a ``return`` counting as a read."""
        counts = dict.fromkeys((*self.params, *self.producer), 0)
        for value in (*(v for op in self.ops for v in op.operands), *self.returns):
            counts[value] += 1
        return counts

    @cached_property
    def users(self) -> Mapping[Value, tuple[Op, ...]]:
        """The ops that read each value, in order, each once (returns not counted)."""
        found: dict[Value, list[Op]] = {v: [] for v in (*self.params, *self.producer)}
        for op in self.ops:
            for v in dict.fromkeys(op.operands):
                found[v].append(op)
        return {v: tuple(ops) for v, ops in found.items()}

    def __repr__(self) -> str:
        made = ", ".join(str(v.type) for v in self.returns)
        takes = ", ".join(str(v.type) for v in self.params)
        return f"<Function {self.name}({takes}) -> {made or 'nothing'}: {len(self.ops)} ops>"

    def painted(self) -> Iterable[Piece]:
        """Return what notebooks and terminals show, piece by piece."""
        return pieces(_text().dump(self))

    def _repr_html_(self) -> str:
        """Return the text form in colour; bodies of units are folded."""
        return block(listing(_text().dump(self)))


def _text() -> Any:
    """Return the module of the text form, which imports this one."""
    return importlib.import_module("leptonc.ir.text")


@dataclass
class Builder:
    """Appends ops, inferring result types, then seals them."""

    name: str
    params: list[Value] = field(default_factory=list[Value])
    ops: list[Op] = field(default_factory=list[Op])
    producer: dict[Value, Op] = field(default_factory=dict[Value, Op])
    dims: tuple[DimRange, ...] = ()
    origin: Origin = NOWHERE  # given to every op emitted while it is set

    def param(self, type_: TensorType, hint: str = "") -> Value:
        """Append a parameter."""
        self.params.append(Value(type_, hint))
        return self.params[-1]

    def emit(
        self, kind: Kind, *operands: Value, origin: Origin | None = None, hint: str = ""
    ) -> tuple[Value, ...]:
        """Append an op and return its results. Raises InferError naming the op and its origin."""
        where = self.origin if origin is None else origin
        try:
            types = kind.infer(tuple(v.type for v in operands))
        except InferError as e:
            raise InferError(f"{e}{f' at {where}' if where != NOWHERE else ''}") from e
        return self.append(Op(kind, operands, tuple(Value(t, hint) for t in types), where))

    def append(self, op: Op) -> tuple[Value, ...]:
        """Append a finished op as it is and return its results."""
        self.ops.append(op)
        for r in op.results:
            self.producer[r] = op
        return op.results

    def __call__(
        self, kind: Kind, *operands: Value, origin: Origin | None = None, hint: str = ""
    ) -> Value:
        """Emit an op of exactly one result and return that result."""
        (result,) = self.emit(kind, *operands, origin=origin, hint=hint)
        return result

    def finish(self, *returns: Value) -> Function:
        """Seal into a Function that returns ``returns``."""
        return Function(self.name, tuple(self.params), tuple(self.ops), returns, self.dims)
