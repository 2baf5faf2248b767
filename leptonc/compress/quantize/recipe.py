"""compress > quantize > recipe: ``Quantize``, weights and activations as integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from leptonc.compress.quantize import attention, edits, pools, ranges, transposed, units
from leptonc.compress.quantize.gptq import ROWS, gptq, hessian, patches
from leptonc.compress.quantize.units import Unit
from leptonc.compress.quantize.weights import round_to_nearest
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.compress.timing import MARGIN, alone, compiled_ms
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.meaning import tensor_of
from leptonc.rewrite.trace import Remark, RemarkKind, describe

Scheme = Literal["static", "dynamic", "weight-only"]
_CHOICES = {
    "weights": (8, 4),
    "activations": (8, 16, None),
    "group": (None, 32, 64, 128),
    "scheme": (None, "static", "dynamic", "weight-only"),
    "method": tuple(ranges.METHODS),
    "keep": ("all", "faster"),
}


@dataclass(frozen=True)
class Quantize:
    """Quantize convolutions and linear layers; biases stay float.

    Attributes:
        weights: bits of a weight, 8 or 4; symmetric, a scale for each output channel.
        activations: bits of what they read, 8 or 16, or None: only weights are quantized.
        group: inputs of a linear layer that share a scale, or None for all of an output channel.
        scheme: ``"static"`` scales activations by calibration data, ``"dynamic"`` each row of a
            linear layer's inputs when it comes, ``"weight-only"`` not at all. None: static, or
            weight-only without activations.
        method: how much is clipped. ``"minmax"`` nothing, ``"percentile"`` one activation in
            10,000 at either end, ``"mse"`` what gives the least squared error (outliers that a
            transformer lives by are lost with both); ``"gptq"`` rounds weights one after another
            so that later ones make up for earlier ones, and clips no activation (needs data); a
            weight with several readers is rounded to the nearest, for all of them.
        skip, only: module paths or patterns; what they name is left out, or alone quantized.
        symmetric: activations around zero (i8) or between their extremes (u8). None: the latter.
        residuals: whether sums and means of windows that read a quantized convolution's input read
            its codes, too, so that it need not be kept in float; and whether a mean of what only
            it reads of a quantized product reads codes.
        correct: whether biases make up for what the rounding of a weight takes off the mean of an
            output on calibration data (Nagel et al., ICCV 2019); where there are data.
        attention: whether products of attention read codes, too (8 bits, around zero); the softmax
            stays in floats. With ``keep="faster"`` where that was measured to be faster.
        qat: train with fake quantizations (straight-through gradients); then ``freeze``.
        keep: ``"all"``, or ``"faster"``: each unit is compiled alone both ways and timed, its own
            conversion of inputs included; one that is not faster stays float, and a remark says by
            how much it lost.

    Raises:
        CompressError: an option that is none of the choices, or two that contradict each other.
    """

    weights: int = 8
    activations: int | None = 8
    group: int | None = None
    scheme: Scheme | None = None
    method: str = "minmax"
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    symmetric: bool | None = None
    residuals: bool = True
    correct: bool = True
    qat: bool = False
    keep: Literal["all", "faster"] = "all"
    attention: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (got := getattr(self, name)) not in choices:
                raise CompressError(f"Quantize: {name} must be one of {choices}, got {got!r}")
        for name in ("skip", "only"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        for wrong, text in self._contradictions():
            if wrong:
                raise CompressError(f"Quantize: {text}")

    def _contradictions(self) -> Sequence[tuple[bool, str]]:
        plan, bits = self.plan_of_activations, self.activations
        return (
            (plan == "weight-only" and bits is not None,
             "weight-only leaves activations alone: pass activations=None"),
            (plan != "weight-only" and bits is None,
             f"{plan} quantizes activations: pass activations=8"),
            (plan == "dynamic" and bits == 16, "dynamic activations have 8 bits"),
            (plan == "dynamic" and self.symmetric is False, "dynamic activations are symmetric"),
            (self.qat and plan == "dynamic",
             "dynamic activations need no training: train with static ones or weight-only"),
            (self.attention and (plan != "static" or bits != 8),
             "attention needs static activations of 8 bits"),
            (self.attention and self.qat, "codes of attention have no gradient: pass it later"),
            (self.qat and self.method == "gptq", "training replaces gptq: pass another method"),
        )  # fmt: skip

    @property
    def plan_of_activations(self) -> Scheme:
        """The scheme, also where it is left open."""
        if self.scheme is not None:
            return self.scheme
        return "weight-only" if self.activations is None else "static"

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return an edit for each unit.

        Raises:
            CompressError: nothing to quantize, no calibration data where they are needed, a name
                that matches nothing, inputs of a unit that are not finite.
        """
        fn = units.prepared(fn)
        phases = transposed.plan(fn, context.tell("Quantize"))
        for edit in phases:
            fn = edit.make(fn)
        planner = _Planner(self, fn, context)
        planned = [(unit, planner.edit(unit)) for unit in planner.chosen]
        if self.keep == "faster":
            planned = [(u, e) for u, e in planned if planner.is_faster(u, e)]
        if not planned:
            raise CompressError("Quantize: no unit is faster with codes: pass keep='all'")
        made = [edit for _, edit in planned]
        if self.residuals and self.activations == 8 and self.plan_of_activations == "static":
            codes = ranges.CODES[8, bool(self.symmetric)]
            faster = self.keep == "faster"
            made += pools.plan(fn, made, context, codes, self.method, self.qat, faster)
        if self.attention:
            made += attention.plan(fn, context, self.method, self.keep == "faster")
        return [*transposed.needed(phases, made), *made]


class _Planner:
    """One plan: the units that are chosen, and what was seen of their inputs."""

    def __init__(self, recipe: Quantize, fn: Function, context: Context) -> None:
        self.recipe, self.fn, self.context = recipe, fn, context
        self.chosen = self._choose()
        self.seen: dict[Value, ranges.Seen] = {}
        self.hessians: dict[tuple[Value, object], Tensor] = {}
        self.means: dict[tuple[Value, object], list[Tensor]] = {}
        if recipe.plan_of_activations == "static" or recipe.method == "gptq":
            self._observe()

    def _tell(self, op: Op, why: str) -> None:
        remark = Remark("Quantize", RemarkKind.MISSED, describe(op), why, op.origin)
        self.context.remarks.append(remark)

    def _choose(self) -> list[Unit]:
        recipe, found = self.recipe, units.find(self.fn, self._tell)
        if not found:
            quantized = [op for op in self.fn.ops if units.is_quantized(self.fn, op)]
            if quantized:
                where = ", ".join(str(op.origin.module or describe(op)) for op in quantized[:3])
                raise CompressError(f"Quantize: the model is already quantized ({where}, ...)")
            raise CompressError("Quantize: the model has no convolution or linear layer in f32")
        chosen = units.selected(found, recipe.only, recipe.skip)
        if recipe.plan_of_activations == "dynamic":
            for unit in chosen:
                if not isinstance(unit.op.kind, Linear):
                    self._tell(unit.op, "not quantized: only linear layers take dynamic scales")
            chosen = [u for u in chosen if isinstance(u.op.kind, Linear)]
        if not chosen:
            raise CompressError("Quantize: skip, only and scheme leave no unit to quantize")
        return chosen

    # ----- calibration -----

    def _observe(self) -> None:
        data = self.context.need_data(f"Quantize(method={self.recipe.method!r})")
        readers: dict[Value, list[Unit]] = {}
        for unit in self.chosen:
            readers.setdefault(unit.x, []).append(unit)
        for i, values in enumerate(data.observed(self.fn, readers)):
            for x, users in readers.items():
                seen = self.seen.setdefault(x, ranges.Seen(self.context.seed))
                if not seen.add(values[x]):
                    raise CompressError(
                        f"{users[0].where}: its inputs hold NaN or infinities on calibration "
                        f"batch {i}; the model overflows there, or the data are wrong"
                    )
                if self.recipe.method == "gptq" or self.recipe.correct:
                    self._add_products(values[x], users)

    def _add_products(self, x: Tensor, users: Sequence[Unit]) -> None:
        for key in dict.fromkeys(map(_hessian_key, users)):
            kind = key[1]
            if isinstance(kind, tuple):
                conv, kernel = kind
                rows = patches(x, conv, kernel)
            else:
                flat = x.reshape(1, -1, x.shape[-1])
                rows = flat[:, :: -(-flat.shape[1] // ROWS)]
            self.means.setdefault(key, []).append(rows.mean(1))
            if self.recipe.method != "gptq":
                continue
            more = hessian(rows)
            self.hessians[key] = self.hessians[key] + more if key in self.hessians else more

    # ----- edits -----

    def edit(self, unit: Unit) -> Edit:
        """Return the edit of one unit."""
        if self.context.data is not None:
            self.context.data.progress(f"quantizing {unit.where}")
        x, weight = self._input(unit), self._weight(unit)
        what = f"weight to {_weight_text(weight)}, {_input_text(x)}"
        make = partial(_made, name=unit.name, weight=weight, x=x, train=self.recipe.qat)
        return Edit(unit.where, what + (", in training" if self.recipe.qat else ""), make)

    def is_faster(self, unit: Unit, edit: Edit) -> bool:
        """Return whether a unit alone, compiled, takes less time with codes."""
        if self.context.data is not None:
            self.context.data.progress(f"timing {unit.where}")
        before = alone(self.fn, unit.op)
        as_float, as_codes = compiled_ms((before, edit.make(before)))
        if as_codes < MARGIN * as_float:
            return True
        why = f"stays float: {as_codes:.3f} ms with codes, {as_float:.3f} ms without"
        self._tell(unit.op, why)
        return False

    def _input(self, unit: Unit) -> edits.Input | None:
        recipe, plan = self.recipe, self.recipe.plan_of_activations
        if plan == "weight-only":
            return None
        if plan == "dynamic":
            return edits.Input()
        assert recipe.activations is not None
        codes = ranges.CODES[recipe.activations, bool(recipe.symmetric)]
        scale, zero = ranges.METHODS[recipe.method](self.seen[unit.x], codes)
        residual = recipe.residuals and edits.keeps_residuals(unit)
        return edits.Input(codes, scale, zero, residual)

    def _weight(self, unit: Unit) -> edits.Weight:
        bits, w = self.recipe.weights, _tensor(self.fn, unit.weight)
        groups = self._groups(unit)
        if self.recipe.qat:
            return edits.Weight(bits, groups)
        if not torch.isfinite(w).all():
            raise CompressError(f"{unit.where}: its weight holds NaN or infinities")
        matrix = w.reshape(len(w), -1)
        if self.recipe.method == "gptq" and not unit.shared:
            made = gptq(matrix, self.hessians[_hessian_key(unit)], bits, groups)
        else:
            made = round_to_nearest(matrix, bits, groups, clip=self.recipe.method == "mse")
        return edits.Weight(bits, groups, *made, self._shift(unit, matrix, *made))

    def _shift(self, unit: Unit, matrix: Tensor, codes: Tensor, scale: Tensor) -> Tensor | None:
        """Return what the outputs lose in the mean by the rounding of a weight: ``f32[n]``."""
        means = self.means.get(_hessian_key(unit))
        if means is None or not self.recipe.correct:
            return None
        mean = torch.stack(means).double().mean(0)  # [groups,k]
        back = codes.reshape(*scale.shape, -1).double() * scale[..., None].double()
        lost = (matrix.double() - back.reshape(matrix.shape)).reshape(len(mean), -1, mean.shape[1])
        return (lost @ mean[..., None]).reshape(-1).float()

    def _groups(self, unit: Unit) -> int:
        """Return how many groups of columns of a weight have scales of their own."""
        size = self.recipe.group
        if size is None or not isinstance(unit.op.kind, Linear):
            return 1
        k = int(unit.weight.type.shape[1])
        if k % size:
            self._tell(unit.op, f"a scale for each channel: groups of {size} do not divide {k}")
            return 1
        return k // size


def _hessian_key(unit: Unit) -> tuple[Value, object]:
    kind = unit.op.kind
    return unit.x, (kind, unit.weight.type.shape[2:]) if isinstance(kind, Conv) else None


def _tensor(fn: Function, value: Value) -> Tensor:
    return tensor_of(fn.producer[value].kind.const)  # type: ignore[attr-defined]


def _made(
    fn: Function, name: str, weight: edits.Weight, x: edits.Input | None, train: bool
) -> Function:
    """Return ``fn`` with the unit of weight ``name`` quantized; ``fn`` if there is none."""
    ready = units.prepared(fn)
    unit = units.by_weight(ready, name)
    if unit is None or not _fits(unit, weight):
        return fn
    return edits.quantized(ready, unit, weight, x, train)


def _fits(unit: Unit, weight: edits.Weight) -> bool:
    """Return whether the codes are of the size that the weight has now."""
    n, *rest = (int(d) for d in unit.weight.type.shape)
    return weight.codes is None or tuple(weight.codes.shape) == (n, math.prod(rest))


def _weight_text(weight: edits.Weight) -> str:
    each = "channel" if weight.groups == 1 else "group"
    return f"int{weight.bits} by {each}"


def _input_text(x: edits.Input | None) -> str:
    if x is None:
        return "inputs float"
    return "inputs i8 by row" if x.codes is None else f"inputs {x.codes.dtype.value}"
