"""compress > prune > recipe: ``Prune``, the options and what they lead to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from leptonc.compress.prune import blocks, sparse
from leptonc.compress.prune.groups import Analysis, Group, analyze
from leptonc.compress.prune.importance import KNOWN, Importance, Loss, scores
from leptonc.compress.prune.names import check_patterns, matches, ratio_of
from leptonc.compress.prune.select import choose, edits, modules
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.ir.core import Function
from leptonc.rewrite.trace import Remark, RemarkKind

WHAT: Mapping[str, Callable[[Group], bool]] = {
    "channels": lambda group: True,
    "heads": lambda group: group.heads,
    "neurons": lambda group: not group.heads and not group.convolved,
}


@dataclass(frozen=True)
class Prune:
    """Remove channels, heads, neurons or whole blocks, or set single weights to zero.

    Give one of ``ratio`` (structured, 0.5 if nothing is given), ``sparsity``, ``threshold`` and
    ``pattern``.

    Attributes:
        ratio: the part of the units that goes, in (0, 1).
        scope: ``"local"``: of every group; ``"global"``: of all together, by worth.
        importance: ``"magnitude"`` (``"l2"``), ``"l1"``, ``"taylor"``, ``"activation"``, or a
            function ``(group, constants by name) -> [units]``.
        round_to: channels that stay in a group are a multiple of it: the vector width.
        per_unit: ratio by pattern of module paths, e.g. ``{"layer1.*": 0.3}``.
        skip: patterns of module paths that are left alone.
        what: ``"channels"``: channels of convolutions, neurons of linear layers and heads;
            ``"neurons"``, ``"heads"``: these alone; ``"blocks"``: residual branches, by the error
            that their removal makes on calibration data.
        through_norms: also prune channels that a layer or rms norm runs over; its statistics are
            then of the channels left, and the pruned model is no longer the masked one.
        sparsity: the part of the weights set to zero, those of least magnitude.
        threshold: every weight below it in magnitude is set to zero.
        pattern: ``"2:4"``: 2 of 4 weights along the inputs stay; ``"8x1"``: whole runs of 8 outputs
            by one input go, by their norm (with ``sparsity``).
        loss: of the results of a batch, for ``importance="taylor"``.
    """

    ratio: float | None = None
    scope: str = "local"
    importance: Importance = "magnitude"
    round_to: int = 8
    per_unit: Mapping[str, float] = field(default_factory=dict[str, float])
    skip: Sequence[str] = ()
    what: str = "channels"
    through_norms: bool = False
    sparsity: float | None = None
    threshold: float | None = None
    pattern: str | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        for name in ("ratio", "sparsity"):
            _inside(name, getattr(self, name))
        for pattern, ratio in self.per_unit.items():
            _inside(f"per_unit[{pattern!r}]", ratio)
        _one_of("scope", self.scope, ("local", "global"))
        _one_of("what", self.what, (*WHAT, "blocks"))
        if not callable(self.importance):
            _one_of("importance", self.importance, KNOWN)
        if self.round_to < 1:
            raise CompressError(f"Prune(round_to={self.round_to}): must be 1 or more")
        if self.threshold is not None and not self.threshold > 0:
            raise CompressError(f"Prune(threshold={self.threshold}): must be above 0")
        if self.unstructured and self.ratio is not None:
            raise CompressError("Prune: ratio removes whole units, sparsity, threshold and pattern "
                                "single weights; give one, or two recipes")  # fmt: skip
        sparse.check(self.sparsity, self.threshold, self.pattern)

    @property
    def unstructured(self) -> bool:
        """Whether weights are set to zero, and none is removed."""
        return any(v is not None for v in (self.sparsity, self.threshold, self.pattern))

    @property
    def share(self) -> float:
        """The ratio that holds."""
        return 0.5 if self.ratio is None else self.ratio

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return one edit a group, block or weight.

        Raises:
            CompressError: nothing would be pruned, a pattern matches nothing, missing data.
        """
        if self.unstructured:
            return sparse.plan(
                fn, context, sparsity=self.sparsity, threshold=self.threshold, pattern=self.pattern,
                scope=self.scope, per_unit=self.per_unit, skip=self.skip,
            )  # fmt: skip
        if self.what == "blocks":
            return blocks.plan(fn, self.share, context, self.skip)
        return self._structured(fn, context)

    def _structured(self, fn: Function, context: Context) -> Sequence[Edit]:
        analysis = analyze(fn, self.through_norms)
        context.remarks.extend(_left_alone(analysis))
        names = sorted({m for g in analysis.groups for m in modules(g)})
        check_patterns(self.skip, names, "skip")
        check_patterns(self.per_unit, names, "per_unit")
        groups = [
            g for g in analysis.groups
            if g.constants and WHAT[self.what](g) and not matches(self.skip, modules(g))
        ]  # fmt: skip
        if not groups:
            raise CompressError(
                f"Prune(what={self.what!r}): nothing in {fn.name} can be removed; "
                f"{_reasons(analysis)}"
            )
        worth = scores(analysis, groups, self.importance, context, self.loss)
        ratios = [ratio_of(modules(g), self.per_unit) for g in groups]
        chosen = choose(groups, worth, ratios, self.share, self.round_to, self.scope == "global")
        if not chosen:
            largest = max(g.units for g in groups)
            raise CompressError(
                f"Prune({self.share}): nothing to remove: the largest of {len(groups)} groups has "
                f"{largest} units, which round_to={self.round_to} keeps whole; "
                "give a larger ratio or a smaller round_to"
            )
        return edits(fn, chosen, self.through_norms)


def _inside(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise CompressError(f"Prune({name}={value}): must be between 0 and 1, both excluded")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise CompressError(f"Prune({name}={value!r}): must be one of {', '.join(known)}")


def _left_alone(analysis: Analysis) -> list[Remark]:
    """Return a remark for every weight whose outputs can not be removed."""
    return [
        Remark("prune", RemarkKind.MISSED, f"{op.kind.NAME} {name}", f"outputs stay: {why}",
               op.origin)
        for op, name, why in analysis.pinned_layers()
    ]  # fmt: skip


def _reasons(analysis: Analysis) -> str:
    found = {why: name for _, name, why in analysis.pinned_layers()}
    return "; ".join(f"{name}: {why}" for why, name in found.items()) or "it has no weights"


__all__ = ["Prune"]
