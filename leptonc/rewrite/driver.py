"""Sweep driver: applies rules to a fixed point in forward sweeps, each linear in the ops.

Ops that no rule touches are reused as they are, and the op that replaces another takes over its
result value, so a rewrite costs what it changes and names and origins survive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from leptonc.errors import InferError, LeptoncError
from leptonc.ir.core import NOWHERE, Builder, Function, Kind, Op, Trait, Value
from leptonc.ir.kinds.data import Constant, Full
from leptonc.rewrite.match import match
from leptonc.rewrite.rule import Match, Rule, Skip
from leptonc.rewrite.trace import Trace, named, readers_text

Index: TypeAlias = "Mapping[type[Kind], tuple[Rule, ...]]"
_CHAIN = 16  # rewrites of one op in a row within one sweep; the next sweep goes on


class NoFixedPoint(LeptoncError):
    """Rules that keep rewriting one another's output."""


def index_rules(rules: Iterable[Rule]) -> Index:
    """Return the rules by the kind of their root, in order."""
    found: dict[type[Kind], list[Rule]] = {}
    for rule in rules:
        for kind in rule.lhs.kinds:
            found.setdefault(kind, []).append(rule)
    return {k: tuple(v) for k, v in found.items()}


def rewrite(fn: Function, rules: Sequence[Rule], trace: Trace, max_sweeps: int = 8) -> Function:
    """Return ``fn`` with ``rules`` applied until none fires; ``fn`` itself if none did.

    Raises:
        NoFixedPoint: rules still fire in sweep ``max_sweeps``; the text names them.
    """
    index, fired = index_rules(rules), list[Rule]()
    for _ in range(max_sweeps):
        sweep = _Sweep(fn, index, trace)
        after = sweep.run()
        if after is fn:
            sweep.tell_refusals()
            return fn
        fn, fired = after, sweep.fired
    still = ", ".join(sorted({r.name for r in fired})) or "no sweep allowed"
    raise NoFixedPoint(
        f"{trace.pass_ or 'rewrite'}: {fn.name} still changes after {max_sweeps} sweeps ({still}); "
        "raise max-sweeps, or two rules undo each other"
    )


def drop_dead(fn: Function) -> Function:
    """Return ``fn`` without pure ops that nothing reads; ``fn`` itself if there are none."""
    live: set[Value] = set(fn.returns)
    kept: list[Op] = []
    for op in reversed(fn.ops):
        if Trait.PURE not in op.kind.traits or not live.isdisjoint(op.results):
            kept.append(op)
            live.update(op.operands)
    if len(kept) == len(fn.ops):
        return fn
    return Function(fn.name, fn.params, tuple(reversed(kept)), fn.returns, fn.dims)


class _Sweep:
    """One forward pass over ``fn``: operands are rewritten before their readers."""

    def __init__(self, fn: Function, index: Index, trace: Trace) -> None:
        self.fn, self.index, self.trace = fn, index, trace
        self.b = Builder(fn.name, list(fn.params), dims=fn.dims)
        self.new: dict[Value, Value] = {}  # replaced values
        self.uses: dict[Value, int] = dict(fn.use_count)
        self.fired: list[Rule] = []
        self.refused: list[tuple[Op, Rule, str]] = []

    def run(self) -> Function:
        new, b = self.new, self.b
        for op in self.fn.ops:
            if new and not new.keys().isdisjoint(op.operands):
                operands = tuple(new.get(v, v) for v in op.operands)
                op = Op(op.kind, operands, op.results, op.origin)
            b.append(op)
            if type(op.kind) in self.index and len(op.results) == 1:
                self.rewrite_last()
        if not self.fired:
            return self.fn
        return drop_dead(b.finish(*(new.get(v, v) for v in self.fn.returns)))

    def tell_refusals(self) -> None:
        """Record what the rules declined. Only the last sweep's: earlier ones may not stand."""
        for op, rule, reason in self.refused:
            self.trace.missed(op, reason, rule.name)

    def rewrite_last(self) -> None:
        """Rewrite the op just appended, and what replaces it, while rules fire."""
        for _ in range(_CHAIN):
            if self.trace.spent:
                return
            op = self.b.ops[-1]
            rules = self.index.get(type(op.kind), ())
            if not any(self.apply(rule, op) for rule in rules) or not self.b.ops:
                return
            if self.b.ops[-1].results != op.results:
                return  # replaced by a value that was there before

    def apply(self, rule: Rule, op: Op) -> bool:
        """Apply one rule at ``op``, the last one appended; return whether it fired."""
        m = match(rule.lhs, op, self.b.producer)
        if m is None:
            return False
        mark = len(self.b.ops)
        out = self.build(rule, m)
        if isinstance(out, Value):
            self.commit(rule, m, out, mark)
            return True
        for dropped in self.b.ops[mark:]:
            for r in dropped.results:
                del self.b.producer[r]
        del self.b.ops[mark:]
        if out is not None:
            self.refused.append((op, rule, out.reason))
        return False

    def build(self, rule: Rule, m: Match) -> Value | Skip | None:
        """Return what the right side makes of a match, or why it must not be used."""
        self.b.origin = m.root.origin
        try:
            out = rule.rhs(m, self.b)
        except InferError as e:
            return Skip(f"the replacement does not fit: {e}")
        except Exception as e:
            e.add_note(f"in rule {rule.name} at {named(m.root)}")
            raise
        finally:
            self.b.origin = NOWHERE
        if not isinstance(out, Value) or out is m.root.result:
            return out if isinstance(out, Skip) else None
        if out.type != m.root.result.type:
            return Skip(f"the replacement is {out.type}, not {m.root.result.type}")
        return self.other_reader(rule, m) or out

    def other_reader(self, rule: Rule, m: Match) -> Skip | None:
        """Return a Skip when a value guarded by ``once`` is read outside the match."""
        for op in _guards(rule, m):
            v = op.result
            inside = sum(o.operands.count(v) for o in m.matched)
            if self.uses.get(v, 0) > inside:
                users = readers_text(self.fn.users.get(v, ()), besides=m.matched)
                name = f"%{v.hint}" if v.hint else f"the {op.kind.NAME}'s result"
                return Skip(f"{name} is also read by {users or 'the caller'}")
        return None

    def commit(self, rule: Rule, m: Match, out: Value, mark: int) -> None:
        """Put ``out`` in the root's place and keep the use counts true."""
        b, root = self.b, m.root
        old = root.result
        made = b.ops[mark:]
        for op in made:
            for v in op.operands:
                self.uses[v] = self.uses.get(v, 0) + 1
        if made and made[-1].results == (out,):
            last = Op(made[-1].kind, made[-1].operands, (old,), made[-1].origin)
            b.ops[-1] = last
            del b.producer[out]
            b.producer[old] = last
        else:
            self.new[old] = out
            self.uses[out] = self.uses.get(out, 0) + self.uses.get(old, 0)
        del b.ops[mark - 1]
        self.release(root)
        self.fired.append(rule)
        self.trace.applied(root, rule.law, rule.name)

    def release(self, op: Op) -> None:
        """Count off the reads of an op that is gone, and of what only it kept alive."""
        stack = [op]
        while stack:
            for v in stack.pop().operands:
                self.uses[v] = self.uses.get(v, 1) - 1
                maker = self.b.producer.get(v)
                if self.uses[v] == 0 and maker is not None and Trait.PURE in maker.kind.traits:
                    stack.append(maker)


def _guards(rule: Rule, m: Match) -> Iterable[Op]:
    """Return the matched ops whose result must have no reader outside the match."""
    if not rule.once:
        return (op for op in m.guarded if op is not m.root)
    return (op for op in m.matched if op is not m.root and not _is_cheap(op))


def _is_cheap(op: Op) -> bool:
    """Whether keeping the op for another reader costs nothing."""
    return isinstance(op.kind, (Constant, Full)) or Trait.VIEW in op.kind.traits
