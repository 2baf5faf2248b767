"""compress > lowrank: ``LowRank``, a weight as a product of thinner ones.

A matrix is factorized by SVD after its inputs were whitened by the Cholesky factor of their second
moment (Wang et al., SVD-LLM, ICLR 2025): what is cut off is then the least of the *outputs*, not of
the weights. A kernel is factorized by Tucker-2 (Kim et al., ICLR 2016), one higher-order SVD of its
output and input channels: three convolutions, 1x1, k x k, 1x1.
"""

from __future__ import annotations

import difflib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from leptonc import api, meaning
from leptonc.compress.factors import Factors, Spectra, applied, moment_of, shape_of, spectra
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType
from leptonc.meaning import tensor_of
from leptonc.rewrite.trace import Remark, RemarkKind, describe

DEFAULT_ERROR = 0.05
MARGIN = 0.97  # a factored unit must take at most this part of the time: the rest is noise
TIMING_S = 0.3


@dataclass(frozen=True)
class LowRank:
    """Replace weights of linear layers and convolutions by products of thinner ones.

    Give one of ``error`` (0.05 if nothing is given) and ``ratio``.

    Attributes:
        error: relative error of a layer's outputs (its bias apart) that its rank may cost, in
            (0, 1); of the whitened weight for k x k kernels, whose neighbouring inputs count as
            independent. Without data every input counts the same, and a remark says so.
        ratio: the part of each layer's weights that goes, in (0, 1).
        by: ``"size"``: a layer is factorized if that takes fewer weights; ``"time"``: also only if
            the compiled unit was measured faster.
        round_to: ranks are multiples of it, the vector width, where the budget allows it.
        damping: added to the diagonal of the second moment, times the mean of the diagonal.
        skip: patterns of module paths that are left alone.
    """

    error: float | None = None
    ratio: float | None = None
    by: Literal["size", "time"] = "size"
    round_to: int = 8
    damping: float = 1e-4
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        skip = (self.skip,) if isinstance(self.skip, str) else tuple(self.skip)
        object.__setattr__(self, "skip", skip)
        inside = {n: v for n, v in (("error", self.error), ("ratio", self.ratio)) if v is not None}
        rules = (
            *((0 < v < 1, f"{n}={v}: must be between 0 and 1, both excluded")
              for n, v in inside.items()),
            (len(inside) < 2, "give error or ratio, not both"),
            (self.by in ("size", "time"), f"by={self.by!r}: must be size or time"),
            (self.round_to >= 1, f"round_to={self.round_to}: must be 1 or more"),
            (self.damping > 0, f"damping={self.damping}: must be above 0"),
        )  # fmt: skip
        for good, text in rules:
            if not good:
                raise CompressError(f"LowRank({text})")

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return one edit a layer.

        Raises:
            CompressError: no layer that can be factorized, or none where a rank within the budget
                pays; a pattern that matches nothing; inputs of a layer that are not finite.
        """
        if fn.dims and self.by == "time":
            raise CompressError(
                "LowRank(by='time'): sizes of the model are dynamic, so that no unit can be timed; "
                "capture it with fixed ones, or by='size'"
            )
        layers = _layers(fn)
        names = [where for where, _ in layers]
        for pattern in self.skip:
            _check_pattern(pattern, names)
        chosen = [(w, op) for w, op in layers if not any(fnmatchcase(w, p) for p in self.skip)]
        if not chosen:
            raise CompressError(f"LowRank: {fn.name} has no linear layer or convolution to "
                                "factorize: a float32 weight of its own, one group")  # fmt: skip
        moments = _moments(fn, [op for _, op in chosen], context)
        if not moments:
            _tell(context, chosen[0][1], "no calibration data: plain SVD, every input counts alike",
                  RemarkKind.NOTE)  # fmt: skip
        edits = [e for w, op in chosen if (e := self._edit(fn, w, op, moments, context))]
        if not edits:
            raise CompressError(
                f"LowRank: in none of {len(chosen)} layers a rank within the budget pays; allow a "
                "larger error or ratio, or leave low rank out"
            )
        return edits

    def _edit(
        self, fn: Function, where: str, op: Op, moments: Mapping[Value, Tensor], context: Context
    ) -> Edit | None:
        """Return the edit of one layer; None, and a remark, where it does not pay."""
        weight = _weight(fn, op)
        assert weight is not None
        found = spectra(weight, moments.get(op.result), self.damping)
        ranks = self._ranks(found, tuple(weight.shape))
        factors = found.factors(ranks)
        if factors.numel >= weight.numel():
            _tell(context, op, f"rank {_text(ranks)} does not pay: {factors.numel} weights "
                  f"instead of {weight.numel()}")  # fmt: skip
            return None
        if self.by == "time":
            before, after = unit_times(op, weight, factors)
            if after > MARGIN * before:
                _tell(context, op, f"rank {_text(ranks)} is not faster: {after:.3f} ms instead "
                      f"of {before:.3f} ms")  # fmt: skip
                return None
        name = op.operands[1].hint
        what = f"rank {_text(ranks)} of {_text(found.full)}"
        make = partial(_factorized, name=name, ranks=ranks, moment=moments.get(op.result),
                       damping=self.damping)  # fmt: skip
        return Edit(where, what, make, tuple(factors.names(name)))

    def _ranks(self, found: Spectra, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ranks that the budget asks for."""
        if self.ratio is not None:
            ranks = found.ranks_of_size((1 - self.ratio) * found.numel)
            return tuple(r // self.round_to * self.round_to or r for r in ranks)
        least = found.ranks_of_error(self.error or DEFAULT_ERROR)
        wide = tuple(
            min(-(-r // self.round_to) * self.round_to, n)
            for r, n in zip(least, found.full, strict=True)
        )
        return wide if found.size(wide) < found.numel else least


def _text(ranks: Sequence[int]) -> str:
    return " x ".join(map(str, ranks))


def _tell(context: Context, op: Op, why: str, kind: RemarkKind = RemarkKind.MISSED) -> None:
    context.remarks.append(Remark("LowRank", kind, describe(op), why, op.origin))


def _layers(fn: Function) -> list[tuple[str, Op]]:
    """Return module path and op of every layer that can be factorized."""
    hints = [op.result.hint for op in fn.ops if isinstance(op.kind, Constant)]
    found: list[tuple[str, Op]] = []
    for op in fn.ops:
        if _weight(fn, op) is None:
            continue
        w = op.operands[1]
        if fn.use_count[w] == 1 and w.hint and hints.count(w.hint) == 1:
            found.append((w.hint.removesuffix(".weight"), op))
    return found


def _weight(fn: Function, op: Op) -> Tensor | None:
    """Return the weight of a layer that can be factorized, else None."""
    kind = op.kind
    if not (isinstance(kind, Linear) or (isinstance(kind, Conv) and kind.groups == 1)):
        return None
    made = fn.producer.get(op.operands[1])
    if made is None or not isinstance(made.kind, Constant):
        return None
    type_ = op.operands[1].type
    if type_.dtype is not DType.F32 or min(int(n) for n in type_.shape[:2]) < 2:
        return None
    return tensor_of(made.kind.const)


def _check_pattern(pattern: str, names: Sequence[str]) -> None:
    if any(fnmatchcase(n, pattern) for n in names):
        return
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or list(names[:3])
    raise CompressError(
        f"LowRank(skip): {pattern!r} matches none of the {len(names)} layers; "
        f"did you mean {' or '.join(map(repr, close))}?"
    )


def _moments(fn: Function, ops: Sequence[Op], context: Context) -> dict[Value, Tensor]:
    """Return the second moment f64[k,k] of each layer's inputs, by its result; {} without data."""
    if context.data is None:
        return {}
    found: dict[Value, Tensor] = {}
    for seen in context.data.observed(fn, [op.operands[0] for op in ops]):
        for op in ops:
            x = seen[op.operands[0]]
            if not torch.isfinite(x).all():
                raise CompressError(f"LowRank: {op.origin.module}: its inputs hold NaN or "
                                    "infinities on the calibration data")  # fmt: skip
            moment = moment_of(op.kind, x, tuple(int(n) for n in op.operands[1].type.shape))
            found[op.result] = found.get(op.result, 0) + moment
    return found


def _factorized(
    fn: Function, name: str, ranks: tuple[int, ...], moment: Tensor | None, damping: float
) -> Function:
    """Return ``fn`` with the layer of weight ``name`` factorized; ``fn`` if there is none."""
    op = next((op for where, op in _layers(fn) if op.operands[1].hint == name), None)
    if op is None:
        return fn
    weight = _weight(fn, op)
    assert weight is not None
    if moment is not None and len(moment) != weight.shape[1]:
        moment = None  # a step that removed inputs was undone: what was seen fits no more
    found = spectra(weight, moment, damping)
    kept = tuple(min(r, n) for r, n in zip(ranks, found.full, strict=True))
    return applied(fn, op, found.factors(kept), name)


class _Layer(nn.Module):
    """Products one after another, for timing."""

    def __init__(self, kinds: Sequence[Conv | Linear], weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.held = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return the result of the last product."""
        for kind, w in zip(self.kinds, self.held, strict=True):
            (x,) = meaning.apply(kind, x, w)
        return x


def unit_times(op: Op, weight: Tensor, factors: Factors) -> tuple[float, float]:
    """Return the milliseconds of a layer, compiled, as it is and factorized; medians in turns."""
    kind = op.kind
    assert isinstance(kind, (Conv, Linear))
    x = torch.zeros(shape_of(op.operands[0])).normal_(generator=torch.Generator().manual_seed(0))
    plain = _Layer([kind], [weight]).eval()
    thin = _Layer(factors.kinds(kind), factors.weights).eval()
    nets = [api.compile(m, (x,), verify="off", cache=False) for m in (plain, thin)]
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + TIMING_S
    while len(times[0]) < 5 or time.perf_counter() < end:
        for net, kept in zip(nets, times, strict=True):
            start = time.perf_counter()
            net(x)
            kept.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


__all__ = ["LowRank", "unit_times"]
