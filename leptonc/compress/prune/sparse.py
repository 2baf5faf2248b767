"""compress > prune > sparse: single weights set to zero in one shot.

By magnitude (Han et al., NeurIPS 2015), N of M (Mishra et al. 2021) or blocks of outputs, which a
vector unit multiplies as fast as dense rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leptonc.compress.prune import masks
from leptonc.compress.prune.groups import WEIGHTS, module_of
from leptonc.compress.prune.names import check_patterns, matches, ratio_of
from leptonc.compress.raised import names_of
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant, Embedding
from leptonc.meaning import const_of, tensor_of
from leptonc.rewrite.trace import Remark, RemarkKind


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that can be thinned out: its name, its tensor and the axis of its outputs."""

    name: str
    tensor: Tensor
    outputs: int


@dataclass(frozen=True, eq=False)
class Masked:
    """Sets weights to zero where ``mask`` is false: an edit's ``make``."""

    name: str
    mask: Tensor

    def __call__(self, fn: Function) -> Function:
        """Return ``fn`` with the mask; ``fn`` itself if the weight is gone or of other shape."""
        value = next((v for v, name in names_of(fn).items() if name == self.name), None)
        if value is None or tuple(value.type.shape) != tuple(self.mask.shape):
            return fn
        ops = list(fn.ops)
        at = next(i for i, op in enumerate(ops) if op.results == (value,))
        kind = ops[at].kind
        assert isinstance(kind, Constant)
        tensor = tensor_of(kind.const)
        made = torch.where(self.mask.to(tensor.device), tensor, torch.zeros_like(tensor))
        ops[at] = dataclasses.replace(ops[at], kind=Constant(const_of(made)))
        return dataclasses.replace(fn, ops=tuple(ops))


def check(sparsity: float | None, threshold: float | None, pattern: str | None) -> None:
    """Raise CompressError for options that do not go together."""
    made = masks.parse(pattern)
    if sparsity is not None and threshold is not None:
        raise CompressError("Prune: sparsity and threshold both say how much goes; give one")
    if made.of and (sparsity is not None or threshold is not None):
        raise CompressError(f"Prune(pattern={pattern!r}) says how much goes; leave sparsity and "
                            "threshold out")  # fmt: skip
    if made.rows > 1 and sparsity is None and threshold is None:
        raise CompressError(f"Prune(pattern={pattern!r}) needs sparsity= or threshold= beside it")


def weights_of(fn: Function) -> list[Weight]:
    """Return the weights of linear layers and convolutions, each once, in order."""
    names, found = names_of(fn), dict[str, Weight]()
    for op in fn.ops:
        if type(op.kind) not in WEIGHTS or isinstance(op.kind, Embedding):
            continue
        operand, makes, _ = WEIGHTS[type(op.kind)]
        value = op.operands[operand]
        if value in names and value.type.dtype.is_float:
            kind = fn.producer[value].kind
            assert isinstance(kind, Constant)
            found.setdefault(names[value], Weight(names[value], tensor_of(kind.const), makes))
    return list(found.values())


def plan(
    fn: Function,
    context: Context,
    *,
    sparsity: float | None,
    threshold: float | None,
    pattern: str | None,
    scope: str,
    per_unit: Mapping[str, float],
    skip: Sequence[str],
) -> list[Edit]:
    """Return an edit a weight that sets some of it to zero.

    Raises:
        CompressError: no weight, a pattern of names that matches none, nothing set to zero.
    """
    found, made = weights_of(fn), masks.parse(pattern)
    if not found:
        raise CompressError(f"Prune: {fn.name} has no weight of a linear layer or a convolution")
    names = [module_of(w.name) for w in found]
    check_patterns(skip, names, "skip")
    check_patterns(per_unit, names, "per_unit")
    left = [w for w in found if not matches(skip, [module_of(w.name)])]
    fitting = [w for w in left if masks.fits(w.tensor, made, w.outputs)]
    context.remarks.extend(
        Remark("prune", RemarkKind.MISSED, w.name, f"{pattern} does not divide {shape}")
        for w in left
        if not masks.fits(w.tensor, made, w.outputs) and (shape := list(w.tensor.shape))
    )
    ratios = [ratio_of([module_of(w.name)], per_unit) for w in fitting]
    worth = [masks.worth(w.tensor, made, w.outputs) for w in fitting]
    if made.of:
        kept = [masks.n_of_m(x, made) for x in worth]
    elif threshold is not None:
        kept = [x >= threshold for x in worth]
    else:
        kept = by_sparsity(worth, ratios, sparsity or 0.0, scope == "global")
    masked = [masks.spread(k, w.tensor, made, w.outputs)
              for k, w in zip(kept, fitting, strict=True)]  # fmt: skip
    edits = [_edit(w, m) for w, m in zip(fitting, masked, strict=True)
             if bool((w.tensor[~m] != 0).any())]  # fmt: skip
    if not edits:
        raise CompressError(_nothing(left, fitting, worth, threshold, pattern))
    return edits


def by_sparsity(
    worth: Sequence[Tensor], ratios: Sequence[float | None], sparsity: float, everywhere: bool
) -> list[Tensor]:
    """Return what stays: exactly the asked part goes, of each weight or of all together."""
    kept = [masks.smallest(x, round((sparsity if r is None else r) * x.numel()))
            for x, r in zip(worth, ratios, strict=True)]  # fmt: skip
    shared = [n for n, r in enumerate(ratios) if r is None]
    if everywhere and shared:
        every = torch.cat([worth[n].flatten() for n in shared])
        mask = masks.smallest(every, round(sparsity * len(every)))
        for n, part in zip(shared, mask.split([worth[n].numel() for n in shared]), strict=True):
            kept[n] = part.reshape(worth[n].shape)
    return kept


def _edit(weight: Weight, mask: Tensor) -> Edit:
    zeros = int((~mask | (weight.tensor == 0)).sum())
    what = f"{zeros} of {mask.numel()} weights zero ({zeros / mask.numel():.0%})"
    return Edit(module_of(weight.name), what, Masked(weight.name, mask))


def _nothing(
    left: Sequence[Weight],
    fitting: Sequence[Weight],
    worth: Sequence[Tensor],
    threshold: float | None,
    pattern: str | None,
) -> str:
    if not left:
        return "Prune: skip leaves no weight"
    if not fitting:
        shapes = ", ".join(f"{w.name} {list(w.tensor.shape)}" for w in left[:3])
        return f"Prune(pattern={pattern!r}): fits none of the {len(left)} weights, e.g. {shapes}"
    if threshold is not None:
        least = min(float(x.min()) for x in worth)
        return f"Prune(threshold={threshold}): nothing is below; the smallest is {least:.3g}"
    return "Prune: no weight would change: they are as sparse as that already"


__all__ = ["Masked", "Weight", "by_sparsity", "check", "plan", "weights_of"]
