"""``fuse``: put ops that should run as one into compute units.

Nine patterns, in this order: ``contract`` (a linear, convolution or matmul with its epilogue),
``int8`` (a product of codes with its epilogue, codes out included), ``codes`` (a linear layer on
rows of codes that have scales of their own), ``pooled`` (a mean of codes that becomes codes),
``peaks`` (a convolution and the 2x2 max-pool of its result), ``banded`` (a depthwise convolution
and the 1x1 convolutions around it), ``scaled`` (an image times a gate and the 1x1 convolution of
it), ``norm`` (a residual add and the norm that reads it), ``chain`` (elementwise ops over one
shape).
Each op is in at most one unit; what is in none is left to ``partition``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.norm import LayerNorm, RmsNorm
from leptonc.passes.fusing.axes import same_memory
from leptonc.passes.fusing.bands import around, windows
from leptonc.passes.fusing.bias import fold_bias
from leptonc.passes.fusing.chain import grow_chains
from leptonc.passes.fusing.codes import (
    codes_per_reader,
    find_code_rows,
    find_codes,
    find_pooled,
    integer_roots,
    reads_rows,
)
from leptonc.passes.fusing.contract import find_chain, roots
from leptonc.passes.fusing.peaks import peaks, pools
from leptonc.passes.fusing.quotient import Quotient
from leptonc.passes.fusing.scaled import scaled, scalings
from leptonc.passes.fusing.units import make_unit, outputs_of, unit_name, without_dead_sources
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Trace, named, value_text

BETWEEN = "another op would have to run between them"


@dataclass(frozen=True)
class Fuse(Pass):
    """Build units out of contractions, norms and elementwise chains of at most ``max_ops`` ops."""

    max_ops: int = 24
    NAME: ClassVar[str] = "fuse"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with units; ``fn`` itself when there is nothing to fuse."""
        biased = codes_per_reader(fold_bias(fn, trace))
        groups = _Groups(biased, Quotient(biased))
        _contractions(groups, trace)
        _products_of_codes(groups, trace)
        _peaks(groups, trace)
        _bands(groups, trace)
        _scalings(groups, trace)
        _norms(groups, trace)
        for g in grow_chains(biased, groups.quotient, groups.taken, self.max_ops, trace):
            groups.pattern[g] = "chain"
        if not groups.pattern:
            return fn if biased is fn else without_dead_sources(biased)
        return groups.build(trace)


@dataclass
class _Groups:
    """The groups so far: the pattern of each, and which ops are in one."""

    fn: Function
    quotient: Quotient
    pattern: dict[int, str] = field(default_factory=dict[int, str])
    taken: dict[int, str] = field(default_factory=dict[int, str])

    def take(self, ops: list[Op], pattern: str) -> bool:
        """Make one group of ``ops``; False if that would close a cycle."""
        for a, b in pairwise(ops):
            if not self.quotient.merge(a, b):
                return False
        self.pattern[self.quotient.group(ops[0])] = pattern
        name = unit_name(ops)
        self.taken.update((id(op), name) for op in ops)
        return True

    def chain(self, op: Op) -> tuple[Op, ...]:
        """Return the ops of the group of ``op``."""
        return self.quotient.ops(self.quotient.group(op))

    def build(self, trace: Trace) -> Function:
        """Return the function with every group that has a pattern as a unit."""
        fn, returned = self.fn, set(self.fn.returns)
        ops: list[Op] = []
        for g in self.quotient.groups():
            members = self.quotient.ops(g)
            if g not in self.pattern or trace.spent:
                ops.extend(members)
                continue
            outputs = outputs_of(members, fn, returned)
            unit = make_unit(members, outputs, fn.producer, fn.dims, self.pattern[g])
            text = f"{len(members)} ops run as one: {unit_name(members)}"
            trace.applied(unit, text, self.pattern[g])
            ops.append(unit)
        return without_dead_sources(Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims))


def _contractions(groups: _Groups, trace: Trace) -> None:
    for root in roots(groups.fn):
        ops = find_chain(root, groups.fn, groups.taken, trace)
        if len(ops) > 1 and not groups.take(ops, "contract"):
            trace.missed(root, f"not run with {value_text(ops[-1].result)}: {BETWEEN}")


def _products_of_codes(groups: _Groups, trace: Trace) -> None:
    for root in integer_roots(groups.fn):
        by_rows = reads_rows(root, groups.fn)
        find = find_code_rows if by_rows else find_codes
        ops = find(root, groups.fn, groups.taken)
        if len(ops) > 1 and not groups.take(ops, "codes" if by_rows else "int8"):
            trace.missed(root, f"not run with {value_text(ops[-1].result)}: {BETWEEN}")
    for ops in find_pooled(groups.fn, groups.taken):
        if not groups.take(ops, "pooled"):
            trace.missed(ops[0], f"not run with {value_text(ops[1].result)}: {BETWEEN}")


def _peaks(groups: _Groups, trace: Trace) -> None:
    for pool in pools(groups.fn):
        ops = peaks(pool, groups.fn, groups.chain)
        if isinstance(ops, str):
            if ops:
                trace.missed(pool, f"not run with the convolution before it: {ops}")
        elif not groups.take(ops, "peaks"):
            trace.missed(pool, f"not run with the convolution before it: {BETWEEN}")


def _bands(groups: _Groups, trace: Trace) -> None:
    for window in windows(groups.fn):
        chains = around(window, groups.fn, groups.chain)
        if isinstance(chains, str):
            trace.missed(window, f"not run in bands with its neighbours: {chains}")
        elif not groups.take([op for chain in chains for op in chain], "banded"):
            trace.missed(window, f"not run in bands with its neighbours: {BETWEEN}")


def _scalings(groups: _Groups, trace: Trace) -> None:
    for scaling, conv in scalings(groups.fn):
        ops = scaled(scaling, conv, groups.fn, groups.taken, groups.chain)
        if isinstance(ops, str):
            trace.missed(scaling, f"not run with {named(conv)}: {ops}")
        elif not groups.take(ops, "scaled"):
            trace.missed(scaling, f"not run with {named(conv)}: {BETWEEN}")


def _norms(groups: _Groups, trace: Trace) -> None:
    fn = groups.fn
    for op in fn.ops:
        if not isinstance(op.kind, (LayerNorm, RmsNorm)) or id(op) in groups.taken:
            continue
        add = fn.producer.get(op.operands[0])
        if add is None or not isinstance(add.kind, Add):
            continue
        without = f"not run with the sum {value_text(add.result)} before it:"
        if id(add) in groups.taken:
            trace.missed(op, f"{without} {groups.taken[id(add)]} does that already")
        elif not all(same_memory(v.type, add.result.type) for v in add.operands):
            trace.missed(op, f"{without} its summands differ in shape or in layout")
        elif not groups.take([add, op], "norm"):
            trace.missed(op, f"{without} {BETWEEN}")
