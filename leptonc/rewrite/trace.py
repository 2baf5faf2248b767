"""Trace: what a pass did, what it declined, and why. Remarks reach the report.

A pass calls ``trace.applied(op, "...")``, ``trace.missed(op, "...")`` or ``trace.note(op, "...")``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from leptonc.ir.core import NOWHERE, Op, Origin, Value
from leptonc.ir.kinds.region import TorchOp
from leptonc.ir.paint import Painted, Piece


class RemarkKind(Enum):
    """What a remark says about its op."""

    APPLIED = "applied"  # the op was rewritten
    MISSED = "missed"  # the pass wanted to, and a guard declined
    NOTE = "note"


_ROLES = {RemarkKind.APPLIED: "good", RemarkKind.MISSED: "bad", RemarkKind.NOTE: "note"}


@dataclass(frozen=True, slots=True)
class Remark(Painted):
    """One thing a pass has to say about one op.

    ``what`` names the op (kind and value name), ``rule`` the rewrite rule if there was one.
    """

    pass_: str
    kind: RemarkKind
    what: str
    reason: str
    origin: Origin = NOWHERE
    rule: str = ""

    def __str__(self) -> str:
        at = f" at {self.origin}" if self.origin != NOWHERE else ""
        by = f"/{self.rule}" if self.rule else ""
        return f"{self.pass_}{by} {self.kind.value}: {self.what}{at}: {self.reason}"

    def painted(self) -> Iterator[Piece]:
        """Return what notebooks and terminals show, piece by piece."""
        yield "head", f"{self.pass_}/{self.rule}" if self.rule else self.pass_
        yield _ROLES[self.kind], f" {self.kind.value}: "
        yield "kind", self.what
        yield "note", f" at {self.origin}" if self.origin != NOWHERE else ""
        yield "", f": {self.reason}"


@dataclass
class Trace:
    """Collects the remarks of one run of one pass; equal remarks are kept once.

    With a ``limit`` the pass stops after that many rewrites and leaves the rest as it is: what it
    did last is then the only difference to a run with a limit of one less. Passes that cannot stop
    midway (layout, partition) ignore it.
    """

    pass_: str = ""
    limit: int | None = None
    fired: Counter[str] = field(default_factory=Counter[str])
    _remarks: dict[Remark, None] = field(default_factory=dict[Remark, None])

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The remarks, in the order they were made."""
        return tuple(self._remarks)

    @property
    def spent(self) -> bool:
        """Whether the limit is reached: no further rewrite may be applied."""
        return self.limit is not None and self.fired.total() >= self.limit

    def applied(self, op: Op | str, reason: str, rule: str = "") -> None:
        """Record that ``op`` was rewritten."""
        self.fired[rule or self.pass_] += 1
        self._add(RemarkKind.APPLIED, op, reason, rule)

    def missed(self, op: Op | str, reason: str, rule: str = "") -> None:
        """Record that a rewrite of ``op`` was declined, and why."""
        self._add(RemarkKind.MISSED, op, reason, rule)

    def note(self, op: Op | str, reason: str, rule: str = "") -> None:
        """Record anything else worth telling about ``op``."""
        self._add(RemarkKind.NOTE, op, reason, rule)

    def _add(self, kind: RemarkKind, op: Op | str, reason: str, rule: str) -> None:
        what, origin = (op, NOWHERE) if isinstance(op, str) else (describe(op), op.origin)
        self._remarks.setdefault(Remark(self.pass_, kind, what, reason, origin, rule))


def describe(op: Op) -> str:
    """Return ``kind %name`` for messages; a nameless result shows as its type."""
    return f"{kind_name(op)} {', '.join(map(value_text, op.results))}"


def kind_name(op: Op) -> str:
    """Return what an op does in one word; of an op that only torch knows, torch's own name."""
    return op.kind.target if isinstance(op.kind, TorchOp) else op.kind.NAME


def named(op: Op) -> str:
    """Return ``module (kind %name)``: how a reason names another op than the remark's own."""
    return f"{op.origin.module} ({describe(op)})" if op.origin.module else describe(op)


def value_text(value: Value) -> str:
    """Return ``%name`` of a value, or its type where it has no name."""
    return f"%{value.hint}" if value.hint else f"({value.type})"


def readers_text(users: Iterable[Op], besides: Iterable[Op] = ()) -> str:
    """Return the names of ``users`` other than ``besides`` for a refusal's text."""
    skip = {id(op) for op in besides}
    names = [named(op) for op in users if id(op) not in skip]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
