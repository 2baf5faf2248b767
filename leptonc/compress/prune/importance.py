"""compress > prune > importance: what each unit of a group is worth.

Magnitude: norm of all its weights (Li et al., ICLR 2017; summed over the group as in Fang et al.,
CVPR 2023). Taylor: ``(sum w * dL/dw)^2`` (Molchanov et al., CVPR 2019). Activation: mean of
``|activation|`` on calibration data (Hu et al. 2016 count zeros; a mean also serves GELU).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.compress.prune.groups import Analysis, Group, Slot
from leptonc.compress.recipe import Calibration, CompressError, Context
from leptonc.ir.core import Function, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.specialize import Specializer
from leptonc.meaning import tensor_of

Scorer: TypeAlias = Callable[[Group, Mapping[str, Tensor]], Tensor]
Loss: TypeAlias = Callable[[tuple[Tensor, ...]], Tensor]
Importance: TypeAlias = str | Scorer
Held: TypeAlias = tuple[str, int, tuple[tuple[int, ...], ...]]  # as in Group.constants


def scores(
    analysis: Analysis,
    groups: Sequence[Group],
    importance: Importance,
    context: Context,
    loss: Loss | None = None,
) -> list[Tensor]:
    """Return the worth of every unit of every group, ``f64[units]`` each; larger is kept longer.

    Args:
        analysis: of the Function that ``groups`` are of.
        groups: what is ranked.
        importance: ``"magnitude"`` (``"l2"``), ``"l1"``, ``"taylor"``, ``"activation"``, or a
            function of the group and all constants by name that returns ``[units]``.
        context: calibration data for ``"taylor"`` and ``"activation"``.
        loss: of the results of a batch, for ``"taylor"``; their sum of squares by default.

    Raises:
        CompressError: missing data, an unknown importance, scores of another shape or not finite.
    """
    held = {name: _tensor(analysis.fn, value) for value, name in analysis.names.items()}
    if callable(importance):
        found = [_checked(g, importance(g, held)) for g in groups]
    elif importance in POWER:
        found = [_magnitude(g, held, POWER[importance]) for g in groups]
    elif importance == "taylor":
        data = context.need_data("Prune(importance='taylor')")
        found = _taylor(analysis, groups, held, data, loss or _squares)
    else:
        found = _activation(analysis, groups, context.need_data("Prune(importance='activation')"))
    for g, s in zip(groups, found, strict=True):
        if not torch.isfinite(s).all():
            raise CompressError(f"Prune: importance of {g.where} is not finite; check the weights")
    return found


POWER = {"magnitude": 2.0, "l2": 2.0, "l1": 1.0}
KNOWN = (*POWER, "taylor", "activation")


def _checked(group: Group, found: Tensor) -> Tensor:
    if tuple(found.shape) != (group.units,):
        raise CompressError(
            f"Prune(importance=...): {group.where} has {group.units} units, "
            f"the function returned shape {list(found.shape)}; return one number a unit"
        )
    return found.detach().double()


def _per_index(tensor: Tensor, axis: int) -> Tensor:
    """Return the sums over all axes but one. ``T[..., n, ...]`` -> ``f64[n]``."""
    others = [i for i in range(tensor.dim()) if i != axis % tensor.dim()]
    return tensor.double().sum(others) if others else tensor.double()


def _per_unit(per_index: Tensor, blocks: Sequence[Sequence[int]]) -> Tensor:
    """Return the sums over the indices of each unit."""
    return per_index[torch.tensor([list(b) for b in blocks])].sum(1)


def _weights(group: Group, held: Mapping[str, Tensor]) -> Sequence[Held]:
    """Return the constants that say what a unit is worth: matrices and kernels where there are."""
    floats = [c for c in group.constants if held[c[0]].is_floating_point()]
    return [c for c in floats if held[c[0]].dim() > 1] or floats


def _magnitude(group: Group, held: Mapping[str, Tensor], power: float) -> Tensor:
    total = torch.zeros(group.units, dtype=torch.float64)
    for name, axis, blocks in _weights(group, held):
        sums = _per_index(held[name].detach().double().abs() ** power, axis)
        total += _per_unit(sums, blocks).to(total.device)
    return total ** (1 / power)


def _squares(results: tuple[Tensor, ...]) -> Tensor:
    floats = [r.double().square().sum() for r in results if r.is_floating_point()]
    return torch.stack(floats).sum()


def gradients(
    fn: Function, batches: Sequence[tuple[Tensor, ...]], loss: Loss, wanted: Collection[Value]
) -> dict[Value, Tensor]:
    """Return the gradient of the loss, summed over ``batches``, by the constants ``wanted``."""
    leaves: dict[Value, Tensor] = {}
    for op in fn.ops:
        if isinstance(op.kind, Constant):
            tensor = tensor_of(op.kind.const).detach()
            needed = op.result in wanted
            leaves[op.result] = tensor.clone().requires_grad_() if needed else tensor
    for batch in batches:
        sizes = meaning.bind_dims(fn, [tuple(t.shape) for t in batch])
        fix = Specializer(sizes)
        env: dict[Value, Tensor] = {**leaves, **dict(zip(fn.params, batch, strict=True))}
        for op in fn.ops:
            if not isinstance(op.kind, Constant):
                kind = fix.kind(op.kind) if sizes else op.kind
                made = meaning.apply(kind, *(env[v] for v in op.operands))
                env.update(zip(op.results, made, strict=True))
        loss(tuple(env[v] for v in fn.returns)).backward()
    return {v: t.grad for v, t in leaves.items() if t.requires_grad and t.grad is not None}


def _taylor(
    analysis: Analysis,
    groups: Sequence[Group],
    held: Mapping[str, Tensor],
    data: Calibration,
    loss: Loss,
) -> list[Tensor]:
    used = {name for g in groups for name, _, _ in _weights(g, held)}
    wanted = {value for value, name in analysis.names.items() if name in used}
    with torch.enable_grad():
        found = gradients(analysis.fn, data.batches, loss, wanted)
    grads = {analysis.names[v]: t for v, t in found.items()}
    totals: list[Tensor] = []
    for group in groups:
        total = torch.zeros(group.units, dtype=torch.float64)
        for name, axis, blocks in _weights(group, held):
            if name in grads:
                product = held[name].double() * grads[name].double()
                total += _per_unit(_per_index(product, axis), blocks).square()
        totals.append(total)
    return totals


def _activation(analysis: Analysis, groups: Sequence[Group], data: Calibration) -> list[Tensor]:
    places = [_activation_of(analysis, g) for g in groups]
    sums = [torch.zeros(g.units, dtype=torch.float64) for g in groups]
    for seen in data.observed(analysis.fn, [v for v, _, _ in places]):
        for total, (value, axis, slot) in zip(sums, places, strict=True):
            t = seen[value].double().abs()
            total += _per_unit(_per_index(t, axis), slot.blocks) * t.shape[axis] / t.numel()
    return [s / len(data.batches) for s in sums]


def _activation_of(analysis: Analysis, group: Group) -> tuple[Value, int, Slot]:
    """Return the first float value that is computed and holds the units."""
    producer = analysis.fn.producer
    for slot in group.slots:
        for value, axis in slot.members:
            op = producer.get(value)
            computed = op is not None and any(v not in analysis.names for v in op.operands)
            if computed and value.type.dtype.is_float:
                return value, axis, slot
    raise CompressError(f"Prune(importance='activation'): {group.where} has no activation")


def _tensor(fn: Function, value: Value) -> Tensor:
    kind = fn.producer[value].kind
    assert isinstance(kind, Constant)
    return tensor_of(kind.const)


__all__ = ["KNOWN", "Importance", "Loss", "Scorer", "gradients", "scores"]
