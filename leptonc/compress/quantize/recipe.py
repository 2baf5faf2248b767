"""compress > quantize > recipe: ``Quantize``, weights and activations as integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from leptonc.backends.numba_cpu.kernels.int8_dot import PROVEN
from leptonc.compress.quantize import attention, ranges, readers, transposed, units
from leptonc.compress.quantize.forms import FORMS
from leptonc.compress.quantize.planner import Planner
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.ir.core import Function

Scheme = Literal["static", "dynamic", "weight-only"]
_CHOICES = {
    "weights": (8, 4),
    "activations": (8, 16, None),
    "group": (None, 32, 64, 128),
    "scheme": (None, "static", "dynamic", "weight-only"),
    "method": tuple(ranges.METHODS),
    "keep": ("all", "faster"),
    "reduce_range": (None, True, False),
}


_FIXED = ("weights", "activations", "scheme", "qat", "keep")  # what forms decide instead


@dataclass(frozen=True)
class Quantize:
    """Quantize convolutions and linear layers; biases stay float.

    Attributes:
        weights: bits of a weight, 8 or 4; symmetric, a scale for each output channel. A weight with
            several readers (a table tied to the output layer) has 8.
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
            it reads of a quantized product reads codes, and a sum of two convolutions one of them.
        correct: whether biases make up for what the rounding of a weight takes off the mean of an
            output on calibration data (Nagel et al., ICCV 2019); where there are data.
        attention: whether products of attention read codes, too (8 bits, around zero); the softmax
            stays in floats. With ``keep="faster"`` or ``forms`` where that was measured to be
            faster.
        qat: train with fake quantizations (straight-through gradients); then ``freeze``.
        keep: ``"all"``, or ``"faster"``: each unit is compiled alone both ways and timed, its own
            conversion of inputs included; one that is not faster stays float, and a remark says by
            how much it lost.
        forms: names of :data:`FORMS` that each unit chooses among in the same way, instead of
            ``weights``, ``activations`` and ``scheme``: ``("float", "int8", "w8", "w4")``. It takes
            the fastest; of those within the noise of the measurement, the most exact one
            (``float``, ``w8``, ``dynamic``, ``int8``, ``w4``, ``w4a8``). ``print(small.ledger)``
            shows the time of every form of every unit.
        reduce_range: whether weights of 8 bits that meet codes of activations are only so large
            that int16 holds the sums which a processor without VNNI makes; its kernels are then
            about twice as fast. Each channel's step grows as far as its own weights ask
            (:mod:`small_sums`), which costs up to a bit or two of them: ``False`` keeps them all.
            None: if this machine is such a one. Not in training. Products are exact either way, on
            any machine.
        sequential: whether ``"gptq"`` looks at what a unit reads once the units before it are
            quantized (the paper's way), so that it makes up for their errors, too; else at what it
            reads in the float model.

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
    forms: tuple[str, ...] = ()
    sequential: bool = True
    attention: bool = False
    reduce_range: bool | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (got := getattr(self, name)) not in choices:
                raise CompressError(f"Quantize: {name} must be one of {choices}, got {got!r}")
        for name in ("skip", "only", "forms"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        for wrong, text in self._contradictions():
            if wrong:
                raise CompressError(f"Quantize: {text}")

    def _contradictions(self) -> Sequence[tuple[bool, str]]:
        plan, bits = self.plan_of_activations, self.activations
        unknown = [f for f in self.forms if f not in FORMS]
        fixed = [
            f.name for f in fields(self) if f.name in _FIXED and getattr(self, f.name) != f.default
        ]
        return (
            (bool(unknown), f"forms: there is no {unknown}; there are {', '.join(FORMS)}"),
            (len(set(self.forms)) == 1, "forms: one leaves nothing to choose, name two or more"),
            (bool(self.forms and fixed), f"forms decide {', '.join(fixed)}: leave that out"),
            (plan == "weight-only" and bits is not None,
             "weight-only leaves activations alone: pass activations=None"),
            (plan != "weight-only" and bits is None,
             f"{plan} quantizes activations: pass activations=8"),
            (plan == "dynamic" and bits == 16, "dynamic activations have 8 bits"),
            (plan == "dynamic" and self.symmetric is False, "dynamic activations are symmetric"),
            (self.qat and plan == "dynamic",
             "dynamic activations need no training: train with static ones or weight-only"),
            (self.attention and not self.forms and (plan != "static" or bits != 8),
             "attention needs static activations of 8 bits"),
            (self.attention and bool(self.forms) and "int8" not in self.forms,
             "attention on codes is of the form int8, which forms leave out"),
            (self.attention and self.qat, "codes of attention have no gradient: pass it later"),
            (self.qat and self.method == "gptq", "training replaces gptq: pass another method"),
        )  # fmt: skip

    @property
    def plan_of_activations(self) -> Scheme:
        """The scheme, also where it is left open."""
        if self.scheme is not None:
            return self.scheme
        return "weight-only" if self.activations is None else "static"

    @property
    def sums_in_int16(self) -> bool:
        """``reduce_range``, also where it is left open."""
        return PROVEN == "pairs" if self.reduce_range is None else self.reduce_range

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
        found = Planner(self, fn, context).plan()
        if not found:
            told = "; ".join(f"{c.where} {c}" for c in context.choices[:3])
            raise CompressError(
                f"Quantize: no unit is faster with codes: {told}; pass keep='all', or forms "
                "without float"
            )
        found = [*found, *self._others(fn, found, context)]
        return [*transposed.needed(phases, found), *found]

    def _others(self, fn: Function, made: Sequence[Edit], context: Context) -> Sequence[Edit]:
        """Return the edits of what has no weight: means, sums of products, and attention."""
        chosen = self.keep == "faster" or bool(self.forms)
        static = "int8" in self.forms or (
            not self.forms and self.plan_of_activations == "static" and self.activations == 8
        )
        found: list[Edit] = []
        if self.residuals and static:
            codes = ranges.CODES[8, bool(self.symmetric)]
            found += readers.plan(fn, made, context, codes, self.method, self.qat, chosen)
        if self.attention:
            found += attention.plan(fn, context, self.method, chosen)
        return found
