"""compress > distill: ``Distill``, fine-tuning with the original as teacher, as a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from leptonc.compress.checkpoint import on_cpu
from leptonc.compress.finetune import finetune
from leptonc.compress.raised import Raised, constants, names_of
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant
from leptonc.meaning import const_of, tensor_of


@dataclass(frozen=True)
class Distill:
    """Train what earlier recipes left to compute what the original model computes.

    Attributes:
        data: batches to train on, as for ``finetune``; None: the calibration data, unlabelled.
        teacher: another model to learn from; None: the original.
        epochs, lr, schedule, device: see ``finetune``.
        temperature, alpha, hidden, beta: see :class:`Aim`.
        validate, patience: see ``finetune``.
    """

    data: Iterable[Any] | None = None
    teacher: nn.Module | None = None
    epochs: int = 1
    lr: float = 1e-3
    schedule: str = "cosine"
    device: str = "cpu"
    temperature: float = 4.0
    alpha: float = 0.9
    hidden: tuple[tuple[str, str], ...] = ()
    beta: float = 1.0
    validate: Callable[[nn.Module], float] | Iterable[Any] | None = None
    patience: int | None = None

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return one edit: the trained constants in the place of those of same name and shape.

        Raises:
            CompressError: no data, no trainable weight, or what ``finetune`` raises.
        """
        if context.captured is None:
            raise CompressError("Distill: has no original to learn from; use leptonc.compress")
        batches = self.data
        if batches is None:
            batches = context.need_data("Distill").batches
            batches = [b[0] if len(b) == 1 else (b, None) for b in batches]
        original = context.captured
        parameters = original.parameters | context.trains
        student = Raised(dataclasses.replace(original, function=fn, parameters=parameters))
        report = finetune(
            student, batches, self.teacher or Raised(original), hidden=self.hidden,
            epochs=self.epochs, lr=self.lr, device=self.device, validate=self.validate,
            patience=self.patience, seed=context.seed, schedule=self.schedule,
            temperature=self.temperature, alpha=self.alpha, beta=self.beta,
        )  # fmt: skip
        weights = on_cpu(student.state_dict())
        what = (
            f"{len(report.losses)} epochs, loss {report.losses[0]:.3g} -> {report.losses[-1]:.3g}"
        )
        return [Edit("all weights", what, partial(_with, weights=weights))]


def _with(fn: Function, weights: Mapping[str, Tensor]) -> Function:
    """Return ``fn`` with trained values for its constants of the same name, type and shape."""
    names, new = names_of(fn), dict[Any, Any]()
    for op in constants(fn):
        assert isinstance(op.kind, Constant)
        old, trained = tensor_of(op.kind.const), weights.get(names[op.result])
        if trained is None or (trained.shape, trained.dtype) != (old.shape, old.dtype):
            continue
        if not torch.equal(trained, old):
            new[op] = dataclasses.replace(op, kind=Constant(const_of(trained)))
    if not new:
        return fn
    return dataclasses.replace(fn, ops=tuple(new.get(op, op) for op in fn.ops))


__all__ = ["Distill"]
