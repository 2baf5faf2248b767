"""Run every rank of a sharded function in this process, op by op in lock step.

What a group of processes computes, without the processes: a plan is checked with it, and so is
every sharding rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from leptonc.errors import InputError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.specialize import Specializer
from leptonc.meaning.collective import TOGETHER
from leptonc.meaning.interpreter import apply, bind_dims

Observer = Callable[[Op, Sequence[tuple[Tensor, ...]]], None]


def run_ranks(
    fn: Function,
    tables: Mapping[str, Sequence[int]],
    inputs: Sequence[Tensor],
    observe: Observer | None = None,
) -> list[tuple[Tensor, ...]]:
    """Return what each rank returns when all are given the same ``inputs``.

    Args:
        fn: the function of every rank; ``tables`` and the shapes of ``inputs`` bind its sizes.
        tables: for each symbol of the ranks (``rank``, sizes and offsets of parts) its values, one
            a rank.
        inputs: one tensor a parameter.
        observe: called with each op and its results, a tuple a rank.

    Raises:
        InputError: inputs do not fit, or ranks disagree about a part.
    """
    worlds = {len(values) for values in tables.values()}
    if len(worlds) != 1:
        raise InputError(f"{fn.name}: tables of {sorted(worlds)} ranks; each needs all of them")
    (world,) = worlds
    shapes = [tuple(t.shape) for t in inputs]
    own = [{name: values[r] for name, values in tables.items()} for r in range(world)]
    fixed = [Specializer(bind_dims(fn, shapes, sizes)) for sizes in own]
    values: list[dict[Value, Tensor]] = [
        dict(zip(fn.params, inputs, strict=True)) for _ in range(world)
    ]
    left = dict(fn.use_count)
    with torch.no_grad():
        for op in fn.ops:
            results = _step(op, fixed, values)
            for held, made in zip(values, results, strict=True):
                held.update(zip(op.results, made, strict=True))
            if observe is not None:
                observe(op, results)
            _forget(op, left, values)
    return [tuple(held[v] for v in fn.returns) for held in values]


def _step(
    op: Op, fixed: Sequence[Specializer], values: Sequence[Mapping[Value, Tensor]]
) -> list[tuple[Tensor, ...]]:
    """Return the results of one op on every rank."""
    kinds = [f.kind(op.kind) for f in fixed]
    together = TOGETHER.get(type(op.kind))
    if together is not None:
        (operand,) = op.operands
        return [(t,) for t in together(kinds, [held[operand] for held in values])]
    return [
        apply(k, *(held[v] for v in op.operands)) for k, held in zip(kinds, values, strict=True)
    ]


def _forget(op: Op, left: dict[Value, int], values: Sequence[dict[Value, Tensor]]) -> None:
    """Give back the memory of operands whose last reader was ``op``."""
    for v in op.operands:
        left[v] -= 1
    for v in (*op.operands, *op.results):
        if not left[v]:
            for held in values:
                held.pop(v, None)
