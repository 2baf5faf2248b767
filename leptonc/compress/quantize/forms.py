"""compress > quantize > forms: the number formats that a unit may take, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leptonc.compress.choice import FLOAT
from leptonc.compress.quantize.units import Unit
from leptonc.ir.kinds.contract import Linear

if TYPE_CHECKING:
    from leptonc.compress.quantize.recipe import Quantize

_ROWS = {"activations": 8, "scheme": "dynamic", "symmetric": None}
# Options of ``Quantize`` that make each form, the more exact ones first: of two that take the same
# time the first is taken.
FORMS: Mapping[str, Mapping[str, Any] | None] = {
    FLOAT: None,
    "w8": {"weights": 8, "activations": None},
    "dynamic": {"weights": 8, **_ROWS},
    "int8": {"weights": 8, "activations": 8, "scheme": "static"},
    "w4": {"weights": 4, "activations": None},
    "w4a8": {"weights": 4, **_ROWS},
}


def of(recipe: Quantize) -> dict[str, Quantize | None]:
    """Return the forms that ``recipe`` chooses among: each as a recipe of one, None for float."""
    alone = dataclasses.replace(recipe, forms=(), keep="all")
    if recipe.keep == "faster":
        return {FLOAT: None, "codes": alone}
    if not recipe.forms:
        return {"codes": alone}
    return {
        name: None if options is None else dataclasses.replace(alone, **options)
        for name, options in FORMS.items()
        if name in recipe.forms
    }


def fits(form: Quantize | None, unit: Unit) -> bool:
    """Return whether a unit can take a form: only linear layers take dynamic scales."""
    rows = form is not None and form.plan_of_activations == "dynamic"
    return not rows or isinstance(unit.op.kind, Linear)
