"""Bisect > by_pass: the guilty pass of a pipeline, and the rewrite in it that did it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from leptonc import check, meaning
from leptonc.bisect.judge import Judge
from leptonc.bisect.slices import values_of, work_of
from leptonc.ir.core import Function, Op, Value
from leptonc.pipeline import Step
from leptonc.rewrite.trace import Trace

_LINEAR = 16  # so many passes are tried one after another


@dataclass(frozen=True)
class Rewrite:
    """One rewrite that a pass applied: the ``number``-th of ``total``, on ``before``."""

    number: int
    total: int
    before: Function
    op: Op | None
    reason: str
    rule: str


@dataclass
class _Log(Trace):
    """A trace that keeps the rewrites in the order they were applied."""

    log: list[tuple[Op | str, str, str]] = field(default_factory=list[tuple[Op | str, str, str]])

    def applied(self, op: Op | str, reason: str, rule: str = "") -> None:
        """Keep the rewrite, and record it as ever."""
        self.log.append((op, reason, rule))
        super().applied(op, reason, rule)


def guilty_step(steps: Sequence[Step], inputs: Sequence[Tensor], judge: Judge) -> Step | None:
    """Return a pass whose input is right and whose result is wrong; None if the last is right.

    Of a short pipeline it is the first one. Of a long one some such pass is found by halving: what
    was captured is right and the end is wrong, so there is one between, whatever happens there.
    """
    changed = [s for s in steps if s.changed]

    def wrong(at: int) -> bool:
        return judge(meaning.run(changed[at].after, *inputs)) is not None

    if not changed or not wrong(len(changed) - 1):
        return None
    if len(changed) <= _LINEAR:
        return next(s for i, s in enumerate(changed) if i == len(changed) - 1 or wrong(i))
    return changed[_turn(len(changed), lambda n: wrong(n - 1)) - 1]


def guilty_rewrite(step: Step, inputs: Sequence[Tensor], judge: Judge) -> Rewrite | None:
    """Return the rewrite of a guilty pass with which its result goes wrong.

    None for a pass that applies none, or that cannot stop before its first.
    """

    def run(limit: int | None) -> tuple[_Log, Function]:
        log = _Log(step.pass_.NAME, limit)
        return log, step.pass_.run(step.before, log)

    def wrong(limit: int) -> bool:
        return judge(meaning.run(run(limit)[1], *inputs)) is not None

    total = len(run(None)[0].log)
    if not total or wrong(0):
        return None
    number = _turn(total, wrong)
    before, (log, _) = run(number - 1)[1], run(number)
    if len(log.log) < number:
        return None
    what, reason, rule = log.log[number - 1]
    op = None if isinstance(what, str) else _same_op(what, before)
    return Rewrite(number, total, before, op, reason, rule)


def _turn(last: int, wrong: Callable[[int], bool]) -> int:
    """Return an n in 1..last with n wrong and n - 1 right, where 0 is right and ``last`` wrong."""
    right, bad = 0, last
    while bad - right > 1:
        middle = (right + bad) // 2
        right, bad = (right, middle) if wrong(middle) else (middle, bad)
    return bad


def _same_op(op: Op, fn: Function) -> Op | None:
    """Return the op of ``fn`` that makes the same value, or one that looks the same."""
    for r in op.results:
        if r in fn.producer:
            return fn.producer[r]
    looks = (op.kind.NAME, op.origin, [r.hint for r in op.results])
    like = [o for o in work_of(fn) if (o.kind.NAME, o.origin, [r.hint for r in o.results]) == looks]
    return like[0] if like else None


def first_difference(step: Step, inputs: Sequence[Tensor], precision: str) -> Op | None:
    """Return the op before a pass whose value is first another one after it."""
    pairs = _pairs(step.before, step.after)
    if not pairs:
        return None
    wanted = {b for b, _ in pairs}
    plain = values_of(step.before, inputs, wanted)
    exact = values_of(step.before, inputs, wanted, wide=True)
    got = values_of(step.after, inputs, {a for _, a in pairs})
    for b, a in pairs:
        reference = check.Reference((), (exact[b],), (plain[b],), check.FACTORS[precision])
        if reference.worst((got[a],)) is not None:
            return step.before.producer[b]
    return None


def _pairs(before: Function, after: Function) -> list[tuple[Value, Value]]:
    """Return the values that stand in both functions: the same ones, or of the same name."""
    old = {v for op in work_of(before) for v in op.results}
    names: dict[str, list[Value]] = {}
    for v in old:
        names.setdefault(v.hint, []).append(v)
    found: list[tuple[Value, Value]] = []
    for v in (v for op in work_of(after) for v in op.results):
        like = [v] if v in old else names.get(v.hint, []) if v.hint else []
        if len(like) == 1 and like[0].type.shape == v.type.shape:
            found.append((like[0], v))
    found += [
        (b, a)
        for b, a in zip(before.returns, after.returns, strict=True)
        if b in before.producer and (b, a) not in found
    ]
    return found
