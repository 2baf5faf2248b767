"""compress > prune > blocks: residual branches removed whole, those that matter least.

A block is an addition ``x + f(x)`` where ``f(x)`` has the shape of ``x``: without its branch it is
the identity (stochastic depth trains for it, Huang et al. 2016). What a branch is worth is the
error that its removal makes on calibration data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leptonc import meaning
from leptonc.compress.prune.groups import module_of
from leptonc.compress.prune.names import check_patterns, matches
from leptonc.compress.raised import names_of
from leptonc.compress.recipe import CompressError, Context, Edit, relative_error
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.binary import Add
from leptonc.ir.types import same_type


@dataclass(frozen=True)
class Branch:
    """A residual branch: the addition, what passes it by, and the constants that go with it."""

    add: Op
    passes: Value
    constants: tuple[str, ...]

    @property
    def where(self) -> str:
        """The module path that all its constants share, else of the first."""
        paths = [module_of(n).split(".") for n in self.constants]
        shared: list[str] = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                break
            shared.append(parts[0])
        return ".".join(shared or paths[0])


def branches(fn: Function) -> tuple[Branch, ...]:
    """Return the residual branches of ``fn``, innermost first among nested ones."""
    names = names_of(fn)
    above = _ancestors(fn)
    return tuple(b for op in fn.ops if (b := _branch(fn, op, above, names)) is not None)


def _branch(
    fn: Function, op: Op, above: dict[Value, frozenset[Value]], names: dict[Value, str]
) -> Branch | None:
    if not isinstance(op.kind, Add):
        return None
    for passes, branch in (op.operands, op.operands[::-1]):
        computed = passes not in names and passes in above[branch]
        if not computed or not same_type(passes.type, op.result.type):
            continue
        held = tuple(names[v] for v in _only_for(fn, op, branch) if v in names)
        if held:
            return Branch(op, passes, held)
    return None


def _ancestors(fn: Function) -> dict[Value, frozenset[Value]]:
    """Return what each value is computed from, itself left out."""
    found: dict[Value, frozenset[Value]] = dict.fromkeys(fn.params, frozenset())
    for op in fn.ops:
        mine = frozenset(op.operands).union(*(found[v] for v in op.operands))
        found.update(dict.fromkeys(op.results, mine))
    return found


def _only_for(fn: Function, add: Op, branch: Value) -> Iterator[Value]:
    """Yield the values that nothing but ``branch`` at ``add`` needs, in program order."""
    dead: set[Value] = set()
    returned = set(fn.returns)
    for op in reversed(fn.ops):
        idle = all(
            r not in returned
            and all(user is add if r is branch else set(user.results) <= dead
                    for user in fn.users[r])
            for r in op.results
        )  # fmt: skip
        if idle and (branch in op.results or any(fn.users[r] for r in op.results)):
            dead |= set(op.results)
    yield from (r for op in fn.ops for r in op.results if r in dead)


@dataclass(frozen=True)
class Bypass:
    """Removes the branch that has these constants: an edit's ``make``."""

    constants: tuple[str, ...]

    def __call__(self, fn: Function) -> Function:
        """Return ``fn`` without the branch; ``fn`` itself if there is no such branch."""
        found = next((b for b in branches(fn) if b.constants == self.constants), None)
        if found is None:
            return fn
        to = {found.add.result: found.passes}
        keep: set[Value] = {to.get(v, v) for v in fn.returns}
        ops: list[Op] = []
        for op in reversed(fn.ops):
            if op is not found.add and any(r in keep for r in op.results):
                operands = tuple(to.get(v, v) for v in op.operands)
                keep |= set(operands)
                ops.append(Op(op.kind, operands, op.results, op.origin))
        b = Builder(fn.name, params=list(fn.params), dims=fn.dims)
        for op in reversed(ops):
            b.append(op)
        return b.finish(*(to.get(v, v) for v in fn.returns))


def plan(fn: Function, ratio: float, context: Context, skip: Sequence[str]) -> list[Edit]:
    """Return an edit a branch for the ``ratio`` of all branches that make the least error.

    Raises:
        CompressError: no data, no branch, less than half a branch to remove.
    """
    found = branches(fn)
    if not found:
        raise CompressError(
            f"Prune(what='blocks'): {fn.name} has no residual branch x + f(x) of one shape"
        )
    check_patterns(skip, [b.where for b in found], "skip")
    left = [b for b in found if not matches(skip, [b.where])]
    count = math.floor(ratio * len(found) + 0.5)
    if not count or not left:
        raise CompressError(
            f"Prune({ratio}, what='blocks'): nothing to remove: {len(left)} of {len(found)} "
            "branches may go; give a larger ratio or skip less"
        )
    errors = [sensitivity(fn, b, context) for b in left]
    order = sorted(range(len(left)), key=lambda n: errors[n])[: min(count, len(left))]
    return [
        Edit(left[n].where, f"branch removed (error alone {errors[n]:.1e})",
             Bypass(left[n].constants))
        for n in sorted(order)
    ]  # fmt: skip


def sensitivity(fn: Function, branch: Branch, context: Context) -> float:
    """Return the relative error on the calibration data without ``branch`` alone."""
    data = context.need_data("Prune(what='blocks')")
    data.progress(f"sensitivity of {branch.where}")
    without = Bypass(branch.constants)(fn)
    found, wanted = [], []
    for batch in data.batches:
        found += meaning.run(without, *batch)
        wanted += meaning.run(fn, *batch)
    return relative_error(found, wanted)


__all__ = ["Branch", "Bypass", "branches", "plan", "sensitivity"]
