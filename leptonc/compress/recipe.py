"""compress > recipe: what a recipe is, what it may look at, and the edits that it plans.

A recipe is frozen data. ``plan`` looks at a Function (and at calibration data) and returns edits;
an edit changes a Function on its own, by the names of constants, so that any of them can be left
out: that is how a step of the ledger is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from leptonc import meaning
from leptonc.capture import Captured
from leptonc.compress.choice import Choice
from leptonc.errors import LeptoncError
from leptonc.ir.core import Function, Op, Value
from leptonc.rewrite.trace import Remark, RemarkKind, describe


class CompressError(LeptoncError):
    """A recipe that cannot be applied: names the unit, what was expected and got, what to do."""


@dataclass(frozen=True)
class Edit:
    """One lossy step on one unit.

    Attributes:
        where: module path of the unit in the user's model, e.g. ``"layer1.0.conv1"``.
        what: what happens to it, e.g. ``"16 of 64 channels removed"``.
        make: returns the Function with the edit. It finds what it changes by the names (hints) of
            constants, and returns the same object if the Function has no such constant (any more).
        trains: names of the constants it adds that are parameters to train.
    """

    where: str
    what: str
    make: Callable[[Function], Function]
    trains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """Inputs that a recipe may run a Function on: a tuple of operands (tensors) a batch."""

    batches: tuple[tuple[Tensor, ...], ...]
    progress: Callable[[str], None] = field(default=lambda text: None)

    def observed(self, fn: Function, values: Iterable[Value]) -> Iterator[dict[Value, Tensor]]:
        """Yield for every batch what ``values`` of ``fn`` are on it."""
        wanted = set(values)
        for i, batch in enumerate(self.batches):
            self.progress(f"calibrating {i + 1}/{len(self.batches)}")
            yield _observed(fn, batch, wanted)


def _observed(fn: Function, batch: Sequence[Tensor], wanted: set[Value]) -> dict[Value, Tensor]:
    found = {p: t for p, t in zip(fn.params, batch, strict=True) if p in wanted}

    def keep(op: Op, results: tuple[Tensor, ...]) -> None:
        found.update((v, t) for v, t in zip(op.results, results, strict=True) if v in wanted)

    meaning.run(fn, *batch, observe=keep)
    return found


@dataclass(frozen=True)
class Context:
    """What a recipe may use besides the Function: calibration data and a place for remarks.

    Attributes:
        data: calibration inputs, if there are any. remarks, choices: appended to by recipes.
        seed: of what a recipe draws.
        captured: the model that is compressed, as it was before any recipe.
        trains: names of parameters that earlier recipes added.
        sizes: of the example, of what is dynamic: times are measured at these.
    """

    data: Calibration | None = None
    remarks: list[Remark] = field(default_factory=list[Remark])
    choices: list[Choice] = field(default_factory=list[Choice])
    seed: int = 0
    captured: Captured | None = None
    trains: frozenset[str] = frozenset()
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])

    def tell(self, recipe: str) -> Callable[[Op, str], None]:
        """Return what takes an op that ``recipe`` leaves alone, and why, as a remark."""

        def tell(op: Op, why: str) -> None:
            missed = Remark(recipe, RemarkKind.MISSED, describe(op), why, op.origin)
            self.remarks.append(missed)

        return tell

    def need_data(self, recipe: str) -> Calibration:
        """Return the calibration data. Raises CompressError if there is none."""
        if self.data is None or not self.data.batches:
            raise CompressError(
                f"{recipe} needs calibration data: pass data=, an iterable of example inputs"
            )
        return self.data


class Recipe(Protocol):
    """A way to make a Function smaller or faster at some loss."""

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return the edits to make, in order; empty never: a recipe that finds nothing raises.

        Raises:
            CompressError: nothing to do, a name that matches nothing, an option out of range.
        """
        ...


def relative_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return ``|found - wanted| / |wanted|`` in the 2-norm over all float results."""
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if b.is_floating_point()]
    off = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    size = sum(float(b.double().square().sum()) for _, b in pairs)
    return (off / size) ** 0.5 if size else float(off > 0)


__all__ = ["Calibration", "CompressError", "Context", "Edit", "Recipe", "relative_error"]
