"""Rules: a law in one line, how exact it is, its left side, and how to build its right side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, TypeAlias, TypeVar

from leptonc.ir.core import Builder, Kind, Op, Value
from leptonc.ir.kinds.data import Full
from leptonc.rewrite.pattern import Node

K = TypeVar("K", bound=Kind)
Hint: TypeAlias = "str | Kind | float"


class Level(Enum):
    """How the two sides of a law compare, strictest first."""

    BITWISE = "bitwise"  # the same bits, NaN and -0.0 included
    VALUE = "value"  # equal as real numbers; the sign of a zero may change
    REASSOC = "reassoc"  # float sums and products reordered: equal up to rounding
    BOUNDED = "bounded"  # an approximation with a stated bound


@dataclass(frozen=True)
class Exactness:
    """How equal the two sides are; the rule's derived test asserts exactly this.

    ``bound`` (of BOUNDED) is the largest error, relative to the largest magnitude among the
    operands and the result.
    """

    level: Level
    bound: float = 0.0

    BITWISE: ClassVar[Exactness]
    VALUE: ClassVar[Exactness]
    REASSOC: ClassVar[Exactness]

    @staticmethod
    def bounded(bound: float) -> Exactness:
        """Return BOUNDED with its bound."""
        return Exactness(Level.BOUNDED, bound)

    def __str__(self) -> str:
        return self.level.value + (f"({self.bound:g})" if self.bound else "")


Exactness.BITWISE = Exactness(Level.BITWISE)
Exactness.VALUE = Exactness(Level.VALUE)
Exactness.REASSOC = Exactness(Level.REASSOC)


@dataclass(frozen=True)
class Skip:
    """A match that the rule declines; the reason becomes a remark."""

    reason: str


@dataclass(frozen=True)
class Match:
    """What a left side captured."""

    root: Op
    values: Mapping[str, Value]
    ops: Mapping[str, Op]
    lists: Mapping[str, tuple[Value, ...]]
    matched: tuple[Op, ...]  # every op of the match, the root among them
    guarded: tuple[Op, ...]  # those that a ``once`` node matched

    def __getitem__(self, name: str) -> Value:
        """Return the value captured as ``name``."""
        return self.values[name]

    def get(self, name: str) -> Value | None:
        """Return the value of an optional capture, or None where it was absent."""
        return self.values.get(name)

    def kind(self, name: str, cls: type[K]) -> K:
        """Return the captured op's kind, typed as ``cls``. Raises TypeError if it is another."""
        found = self.ops[name].kind
        if not isinstance(found, cls):
            raise TypeError(f"{name} is {found.NAME}, not {cls.__name__}")
        return found

    def lit(self, name: str) -> float:
        """Return the number of a captured ``Lit`` (ints as they are)."""
        value = self.kind(name, Full).value
        if not isinstance(value, (bool, int, float)):
            raise TypeError(f"{name} is the symbolic size {value}")
        return value


Build: TypeAlias = "Callable[[Match, Builder], Value | Skip | None]"


@dataclass(frozen=True, eq=False)
class Rule:
    """``lhs`` -> ``rhs``, which stands for ``law`` and is true as far as ``exact`` says.

    ``rhs`` emits into the builder and returns the value that replaces the root's result (of the
    same type), None where the rule does not apply after all, or ``Skip`` with the reason why not.
    With ``once`` every inner node but views, constants and fulls is guarded.

    ``hints`` helps the derived tests draw instances: type texts (``f32[2,3]``) for a ``Var``, kinds
    for a named ``Node``, numbers for a named ``Lit``; the values at one position belong together.
    ``examples`` are whole functions as text, for left sides that no draw would hit.
    """

    name: str
    law: str
    exact: Exactness
    lhs: Node
    rhs: Build
    once: bool = False
    hints: Mapping[str, Sequence[Hint]] = field(default_factory=dict[str, Sequence[Hint]])
    examples: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Rule {self.name}: {self.law}>"
