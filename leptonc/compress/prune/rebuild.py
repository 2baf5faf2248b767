"""compress > prune > rebuild: a Function without some indices of its axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from leptonc.compress.prune.groups import Analysis
from leptonc.ir.core import Builder, Function, Kind, Op, Value
from leptonc.ir.kinds import contract, data, norm, shape
from leptonc.meaning import const_of, tensor_of


@dataclass(frozen=True)
class Cut:
    """Which indices of which axes are removed, by axis of the analysis."""

    analysis: Analysis
    gone: Mapping[int, set[int]]

    def at(self, value: Value, axis: int) -> set[int]:
        """Return the indices removed from one axis of a value."""
        number = self.analysis.relations.axes.get((value, axis))
        return set() if number is None else self.gone.get(self._rep(number), set())

    def shape(self, value: Value) -> tuple[object, ...]:
        """Return what is left of a value's shape."""
        return tuple(
            n - len(self.at(value, i)) if isinstance(n, int) else n
            for i, n in enumerate(value.type.shape)
        )

    def _rep(self, axis: int) -> int:
        return self.analysis.relations.rep(axis)


def _shaped(op: Op, cut: Cut) -> Kind:
    return dataclasses.replace(op.kind, shape=cut.shape(op.result))  # type: ignore[type-var]


def _sliced(op: Op, cut: Cut) -> Kind:
    kind, gone = op.kind, cut.at(op.operands[0], op.kind.attributes["axis"])
    assert isinstance(kind, shape.Slice)
    if not gone:
        return kind
    start, stop = int(kind.start), int(kind.stop)
    return dataclasses.replace(
        kind, start=start - sum(g < start for g in gone), stop=stop - sum(g < stop for g in gone)
    )


def _grouped(op: Op, cut: Cut) -> Kind:
    """Return the kind with as many groups as are left: they are removed whole."""
    groups, x = op.kind.attributes["groups"], op.operands[0]
    gone = cut.at(x, 1)
    if groups == 1 or not gone:
        return op.kind
    size = int(x.type.shape[1])
    left = groups * (size - len(gone)) // size
    return dataclasses.replace(op.kind, groups=left)  # type: ignore[type-var]


def _constant(op: Op, cut: Cut) -> Kind:
    assert isinstance(op.kind, data.Constant)
    tensor = made = tensor_of(op.kind.const)
    for axis, n in enumerate(tensor.shape):
        if gone := cut.at(op.result, axis):
            kept = [i for i in range(n) if i not in gone]
            made = made.index_select(axis, torch.tensor(kept, device=made.device))
    return op.kind if made is tensor else data.Constant(const_of(made.contiguous()))


# Kinds whose attributes hold sizes or counts that change with the channels.
ADAPT: Mapping[type[Kind], Callable[[Op, Cut], Kind]] = {
    data.Constant: _constant,
    data.Full: _shaped,
    shape.Reshape: _shaped,
    shape.Expand: _shaped,
    shape.Slice: _sliced,
    contract.Conv: _grouped,
    contract.ConvTranspose: _grouped,
    norm.GroupNorm: _grouped,
}


def without(analysis: Analysis, gone: Mapping[int, set[int]]) -> Function:
    """Return the analysed Function without the indices ``gone`` of its axes; types re-inferred."""
    cut, fn = Cut(analysis, gone), analysis.fn
    b = Builder(fn.name, params=list(fn.params), dims=fn.dims)
    made: dict[Value, Value] = {p: p for p in fn.params}
    for op in fn.ops:
        adapt = ADAPT.get(type(op.kind))
        kind = op.kind if adapt is None else adapt(op, cut)
        types = kind.infer(tuple(made[v].type for v in op.operands))
        results = tuple(Value(t, v.hint) for t, v in zip(types, op.results, strict=True))
        for old, new in zip(op.results, results, strict=True):
            if tuple(new.type.shape) != cut.shape(old):
                raise AssertionError(f"{op}: {new.type} where {cut.shape(old)} are left")
        b.append(Op(kind, tuple(made[v] for v in op.operands), results, op.origin))
        made.update(zip(op.results, results, strict=True))
    return b.finish(*(made[v] for v in fn.returns))


__all__ = ["Cut", "without"]
