"""Patterns: the left sides of rules. Data, so that tests can enumerate and instantiate them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from leptonc.ir.core import Kind
from leptonc.ir.types import TensorType


@dataclass(frozen=True)
class Var:
    """Matches any value, or those whose type ``where`` accepts.

    The same name must match the same value throughout a pattern, the name of a ``Node`` included.
    """

    name: str
    where: Callable[[TensorType], bool] | None = None


@dataclass(frozen=True)
class Lit:
    """Matches a ``Full``: any if ``value`` is None, else one of that number.

    ``-0.0`` is not ``0.0``. ``rtol`` widens the comparison, for constants that models write with
    few digits.
    """

    value: float | None = None
    name: str = ""
    rtol: float = 0.0


@dataclass(frozen=True)
class Node:
    """Matches the one result of an op of ``kind`` (or of one of several), captured as ``name``.

    Operands of a COMMUTATIVE kind match in either order. ``where`` is a predicate on the kind. With
    ``once`` the value must have no reader outside the match, else the rule is skipped with a remark
    that names the other reader.
    """

    kind: type[Kind] | tuple[type[Kind], ...]
    args: tuple[Pattern, ...] = ()
    name: str = ""
    where: Callable[[Any], bool] | None = None
    once: bool = False

    @property
    def kinds(self) -> tuple[type[Kind], ...]:
        """The kinds this node accepts."""
        return self.kind if isinstance(self.kind, tuple) else (self.kind,)


@dataclass(frozen=True)
class Opt:
    """A trailing operand that may be absent (a bias, a mask)."""

    pattern: Pattern


@dataclass(frozen=True)
class Many:
    """All remaining operands, one or more, captured as a tuple."""

    name: str


@dataclass(frozen=True)
class Either:
    """The first of several patterns that matches."""

    options: tuple[Pattern, ...]


Pattern: TypeAlias = "Var | Lit | Node | Opt | Many | Either"


def maybe(kind: type[Kind], inner: Pattern, name: str = "") -> Either:
    """Return the pattern ``kind(inner)`` or plain ``inner``."""
    return Either((Node(kind, (inner,), name), inner))


def inner_nodes(pattern: Pattern) -> tuple[Node, ...]:
    """Return every node of ``pattern``, itself first."""
    if isinstance(pattern, Node):
        return (pattern, *(n for a in pattern.args for n in inner_nodes(a)))
    if isinstance(pattern, Opt):
        return inner_nodes(pattern.pattern)
    if isinstance(pattern, Either):
        return tuple(n for p in pattern.options for n in inner_nodes(p))
    return ()
