"""compress > quantize > planner: one plan of ``Quantize``: its units, and the edit of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from leptonc.compress.quantize import edits, forms, ranges, units
from leptonc.compress.quantize.gptq import gptq
from leptonc.compress.quantize.measured import fastest
from leptonc.compress.quantize.observe import Observed, Wants, at_once, in_order, product_key
from leptonc.compress.quantize.small_sums import sums_of
from leptonc.compress.quantize.units import Unit
from leptonc.compress.quantize.weights import round_to_nearest
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.compress.timing import alone
from leptonc.ir.core import Function, Value
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.meaning import tensor_of
from leptonc.rewrite.trace import describe

if TYPE_CHECKING:
    from leptonc.compress.quantize.recipe import Quantize


class Planner:
    """One plan: the forms and units to choose among, and the edits so far."""

    def __init__(self, recipe: Quantize, fn: Function, context: Context) -> None:
        self.recipe, self.fn, self.context = recipe, fn, context
        self.forms = forms.of(recipe)
        if len(self.forms) > 1 and fn.dims and not context.sizes:
            raise CompressError(
                "Quantize: sizes of the model are dynamic, so that no unit can be timed; give "
                "leptonc.compress an example, or leave forms= and keep= out"
            )
        self._tell = context.tell("Quantize")
        self.chosen = self._choose()
        self.edits: list[Edit] = []

    def plan(self) -> list[Edit]:
        """Return the edits of all units that do not stay float."""
        recipe, coded = self.recipe, [f for f in self.forms.values() if f is not None]
        static = any(f.plan_of_activations == "static" for f in coded)
        is_gptq = recipe.method == "gptq"
        seen: Mapping[Value, Observed] = {}
        if static or is_gptq:
            data = self.context.need_data(f"Quantize(method={recipe.method!r})")
            wants = Wants(is_gptq, is_gptq or recipe.correct, self.context.seed)
            if is_gptq and recipe.sequential:
                in_order(self.fn, data, self.chosen, wants, self.decide)
                return self.edits
            seen = at_once(self.fn, data, self.chosen, wants)
        for unit in self.chosen:
            self.decide(unit, seen.get(unit.x))
        return self.edits

    def decide(self, unit: Unit, seen: Observed | None) -> Edit | None:
        """Return the edit of one unit, and keep it; None where it stays float."""
        weights: dict[tuple[int, bool], edits.Weight] = {}
        found = {
            name: None if form is None else self._edit(unit, form, seen, weights)
            for name, form in self.forms.items()
            if forms.fits(form, unit)
        }
        name = next(iter(found)) if len(found) == 1 else self._fastest(unit, found)
        edit = found[name]
        if edit is not None:
            self.edits.append(edit)
        return edit

    def _fastest(self, unit: Unit, found: Mapping[str, Edit | None]) -> str:
        """Return the form that the unit alone, compiled, takes the least time with."""
        before = alone(self.fn, unit.op)
        made = {name: before if e is None else e.make(before) for name, e in found.items()}
        return fastest(unit.op, unit.where, made, self.context)

    def _progress(self, text: str) -> None:
        if self.context.data is not None:
            self.context.data.progress(text)

    # ----- units -----

    def _choose(self) -> list[Unit]:
        recipe, found = self.recipe, units.find(self.fn, self._tell)
        if not found:
            quantized = [op for op in self.fn.ops if units.is_quantized(self.fn, op)]
            if quantized:
                where = ", ".join(str(op.origin.module or describe(op)) for op in quantized[:3])
                raise CompressError(f"Quantize: the model is already quantized ({where}, ...)")
            raise CompressError("Quantize: the model has no convolution or linear layer in f32")
        coded = [form for form in self.forms.values() if form is not None]
        chosen = list[Unit]()
        for unit in units.selected(found, recipe.only, recipe.skip):
            if any(forms.fits(form, unit) for form in coded):
                chosen.append(unit)
            else:
                self._tell(unit.op, "not quantized: only linear layers take dynamic scales")
        if not chosen:
            raise CompressError("Quantize: skip, only and scheme leave no unit to quantize")
        return chosen

    # ----- edits -----

    def _edit(
        self, unit: Unit, form: Quantize, seen: Observed | None,
        weights: dict[tuple[int, bool], edits.Weight],
    ) -> Edit:  # fmt: skip
        """Return the edit of one unit in one form; forms of equal weights share one."""
        self._progress(f"quantizing {unit.where}")
        x = _input(unit, form, seen)
        # Nothing makes up for the rounding of a table, whose rows are held as bytes anyway.
        bits = 8 if unit.shared else form.weights
        small = bits == 8 and form.activations == 8 and form.sums_in_int16 and not unit.shared
        key = (bits, small)
        if key not in weights:
            weights[key] = self._weight(unit, form, bits, seen, small)
        weight = weights[key]
        what = f"weight to {_weight_text(weight)}, {_input_text(x)}"
        make = partial(_made, name=unit.name, weight=weight, x=x, train=form.qat)
        return Edit(unit.where, what + (", in training" if form.qat else ""), make)

    def _weight(
        self, unit: Unit, form: Quantize, bits: int, seen: Observed | None, small: bool
    ) -> edits.Weight:
        w, groups = _tensor(self.fn, unit.weight), self._groups(unit)
        if form.qat:
            return edits.Weight(bits, groups)
        if not torch.isfinite(w).all():
            raise CompressError(f"{unit.where}: its weight holds NaN or infinities")
        matrix, kind = w.reshape(len(w), -1), unit.op.kind
        assert isinstance(kind, (Conv, Linear))
        sums = sums_of(kind, tuple(w.shape)) if small and groups == 1 else None
        if form.method == "gptq" and seen is not None and not unit.shared:
            made = gptq(matrix, seen.hessians[product_key(unit)], bits, groups, sums)
        else:
            made = round_to_nearest(matrix, bits, groups, form.method == "mse", sums)
        shift = None if seen is None or not form.correct else _shift(seen, unit, matrix, *made)
        return edits.Weight(bits, groups, *made, shift)

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


def _input(unit: Unit, form: Quantize, seen: Observed | None) -> edits.Input | None:
    """Return how a form quantizes what the unit reads; None where it does not."""
    if form.plan_of_activations == "dynamic":
        return edits.Input()
    if form.activations is None or seen is None:
        return None
    codes = ranges.CODES[form.activations, bool(form.symmetric)]
    scale, zero = ranges.METHODS[form.method](seen.seen, codes)
    return edits.Input(codes, scale, zero, form.residuals and edits.keeps_residuals(unit))


def _shift(seen: Observed, unit: Unit, matrix: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return what the outputs lose in the mean by the rounding of a weight: ``f32[n]``."""
    mean = torch.stack(seen.means[product_key(unit)]).double().mean(0)  # [groups,k]
    back = codes.reshape(*scale.shape, -1).double() * scale[..., None].double()
    lost = (matrix.double() - back.reshape(matrix.shape)).reshape(len(mean), -1, mean.shape[1])
    return (lost @ mean[..., None]).reshape(-1).float()


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
