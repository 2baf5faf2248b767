"""compress > as_pass: recipes that need no data, as passes of a pipeline string.

``leptonc.optimize(fn, "low-rank{ratio=0.5},cse")``: the options are those of the recipe that are
numbers, texts or booleans.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from leptonc.compress.lowrank import LowRank
from leptonc.compress.prune import Prune
from leptonc.compress.quantize import Quantize
from leptonc.compress.recipe import Context
from leptonc.ir.core import Function
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Remark, RemarkKind, Trace

_SIMPLE = (int, float, bool, str)


@dataclass(frozen=True)
class RecipePass(Pass):
    """A recipe as a pass; subclasses are made by :func:`as_pass`. Lossy, as its recipe is."""

    RECIPE: ClassVar[type[Any]]

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` after all edits of the recipe.

        Raises:
            CompressError: the recipe finds nothing to do, or needs calibration data.
        """
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        said: list[Remark] = []
        for edit in self.RECIPE(**options).plan(fn, Context(remarks=said)):
            if trace.spent:
                break
            after = edit.make(fn)
            if after is not fn:
                trace.applied(edit.where, edit.what)
            fn = after
        for r in said:
            tell = trace.missed if r.kind is RemarkKind.MISSED else trace.note
            tell(f"{r.what} at {r.origin}" if r.origin.module else r.what, r.reason)
        return fn


def as_pass(name: str, recipe: type[Any], **types: Any) -> type[RecipePass]:
    """Return the pass ``name`` of a recipe, a frozen dataclass.

    Args:
        name: of the pass in pipeline strings.
        recipe: its fields of simple types become options.
        types: of options whose annotation in the recipe is none of the simple ones.
    """
    hints = {**get_type_hints(recipe), **types}
    fields = [
        (f.name, hints[f.name], dataclasses.field(default=f.default))
        for f in dataclasses.fields(recipe)
        if f.default is not dataclasses.MISSING and _simple(hints[f.name])
    ]
    doc = f"``{recipe.__name__}`` as a pass; its options are described there."
    space = {"NAME": name, "RECIPE": recipe, "__doc__": doc, "__module__": __name__}
    return dataclasses.make_dataclass(
        f"{recipe.__name__}Pass", fields, bases=(RecipePass,), namespace=space, frozen=True
    )


def _simple(hint: Any) -> bool:
    """Return whether a type is a simple one, or that or None."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return all(p in (*_SIMPLE, NoneType) for p in parts)


PrunePass = as_pass("prune", Prune, importance=str)
QuantizePass = as_pass("quantize", Quantize, scheme=str | None)
LowRankPass = as_pass("low-rank", LowRank, by=str)

__all__ = ["LowRankPass", "PrunePass", "QuantizePass", "RecipePass", "as_pass"]
