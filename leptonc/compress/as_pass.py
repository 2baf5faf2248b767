"""compress > as_pass: recipes that need no data, as passes of a pipeline string.

``leptonc.optimize(fn, "low-rank{ratio=0.5},cse")``: the options are those of the recipe that are
numbers, texts, booleans, or rows of texts: ``quantize{forms=float+int8+w8}``. :func:`recipes_of`
reads such a text as recipes, for ``leptonc.compress``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from leptonc import passes
from leptonc.compress.lowrank import LowRank
from leptonc.compress.prune import Prune
from leptonc.compress.quantize import Quantize
from leptonc.compress.recipe import CompressError, Context, Recipe
from leptonc.ir.core import Function
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Remark, RemarkKind, Trace

_SIMPLE = (int, float, bool, str)
ROW = "+"  # between the texts of an option that is a row of them


@dataclass(frozen=True)
class RecipePass(Pass):
    """A recipe as a pass; subclasses are made by :func:`as_pass`. Lossy, as its recipe is."""

    RECIPE: ClassVar[type[Any]]
    ROWS: ClassVar[frozenset[str]]  # options that are rows of texts

    def recipe(self) -> Any:
        """Return the recipe with the options of the pass. Raises CompressError for wrong ones."""
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        rows = {n: tuple(t for t in options[n].split(ROW) if t) for n in self.ROWS}
        return self.RECIPE(**options | rows)

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` after all edits of the recipe.

        Raises:
            CompressError: the recipe finds nothing to do, or needs calibration data.
        """
        said: list[Remark] = []
        for edit in self.recipe().plan(fn, Context(remarks=said)):
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
    given = [f for f in dataclasses.fields(recipe) if f.default is not dataclasses.MISSING]
    rows = frozenset(f.name for f in given if hints[f.name] == tuple[str, ...])
    fields: list[tuple[str, Any, Any]] = []
    for f in given:
        if f.name in rows:
            plain = ROW.join(getattr(recipe, f.name))  # the class has the default
            fields.append((f.name, str, dataclasses.field(default=plain)))
        elif _simple(hints[f.name]):
            fields.append((f.name, hints[f.name], dataclasses.field(default=f.default)))
    doc = f"``{recipe.__name__}`` as a pass; its options are described there."
    space = {"NAME": name, "RECIPE": recipe, "ROWS": rows, "__doc__": doc, "__module__": __name__}
    return dataclasses.make_dataclass(
        f"{recipe.__name__}Pass", fields, bases=(RecipePass,), namespace=space, frozen=True
    )


def recipes_of(text: str) -> list[Recipe]:
    """Return the recipes that a pipeline string names: ``"prune{ratio=0.5},quantize"``.

    Raises:
        PipelineError: an unknown name or option. CompressError: a pass that is no recipe, options
            that contradict each other, or none named.
    """
    found, known = passes.pipeline(text), ", ".join(passes.LOSSY)
    for p in found:
        if not isinstance(p, RecipePass):
            known = ", ".join(passes.LOSSY)
            raise CompressError(
                f"{p.NAME} is a pass, not a recipe of compression; there are {known}"
            )
    if not found:
        raise CompressError(f"no recipe named; there are {', '.join(passes.LOSSY)}")
    return [p.recipe() for p in found if isinstance(p, RecipePass)]


def _simple(hint: Any) -> bool:
    """Return whether a type is a simple one, or that or None."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return all(p in (*_SIMPLE, NoneType) for p in parts)


PrunePass = as_pass("prune", Prune, importance=str, skip=tuple[str, ...])
QuantizePass = as_pass("quantize", Quantize, scheme=str | None, keep=str)
LowRankPass = as_pass("low-rank", LowRank, by=str)

__all__ = ["LowRankPass", "PrunePass", "QuantizePass", "RecipePass", "as_pass", "recipes_of"]
