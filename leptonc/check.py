"""Checking: a result against the reference, its tolerance scaled by the fp32-fp64 spread.

The reference is the captured program in float64. Eager's own distance from it (the spread) says
what float32 costs on this net and these inputs; a compiled result may be a fixed factor further.
A result next to eager's passes whatever the spread is, without float64 (:func:`surely_within`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.errors import CheckError
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.quantize import FakeQuantize, Quantize, QuantizeRows

# How much further from float64 than eager a result may be. Reordered sums stay within a few times
# eager's own error; Winograd F(4x4, 3x3) multiplies a convolution's error by up to its transforms'
# norms, measured 5 to 12 on real nets ("strict" never uses it).
FACTORS: Mapping[str, float] = {"strict": 8.0, "fp32": 32.0, "fast": 64.0}
_ROUNDINGS = 8.0  # the floor of the spread: this many roundings of the largest element
_CAPTURE_FACTOR = 8.0
_TO_CODES = (Quantize, QuantizeRows, FakeQuantize)


@dataclass(frozen=True)
class Difference:
    """How far output ``index`` is from the reference: absolute ``error`` against ``tolerance``."""

    index: int
    error: float
    tolerance: float
    largest: float

    @property
    def ok(self) -> bool:
        """Whether the result is within its tolerance."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        """Return the figures as a report prints them."""
        return (
            f"output {self.index}: error {self.error:.3g}, tolerance {self.tolerance:.3g}, "
            f"largest element {self.largest:.3g}"
        )


@dataclass(frozen=True)
class UnitError:
    """What the check found of one unit, on the probe where it came nearest to its tolerance."""

    error: float
    tolerance: float
    probe: str

    @property
    def ratio(self) -> float:
        """The error in tolerances: above 1 is a miss."""
        return self.error / self.tolerance if self.tolerance else self.error


@dataclass(frozen=True)
class Reference:
    """What a program should give on fixed inputs: exact (float64) and as eager gives it.

    ``moved`` are exact results on inputs that were moved by ``_ROUNDINGS`` roundings, and so was
    what is rounded to codes on the way. No float32 program can be asked to tell such values apart,
    so one rounding's worth of the difference counts as spread, and an integer that changes is
    decided by rounding. ``exact`` is rounded, too:
    what cancels out of inputs of size L may be off by L roundings of float64, which counts as well.
    """

    inputs: tuple[Tensor, ...]
    exact: tuple[Tensor, ...]
    eager: tuple[Tensor, ...]
    factor: float
    moved: tuple[tuple[Tensor, ...], ...] = ()

    def compare(self, got: Sequence[Tensor]) -> tuple[Difference, ...]:
        """Return the difference of every output."""
        moved = zip(*self.moved, strict=True) if self.moved else [()] * len(self.exact)
        rows = zip(self.exact, self.eager, got, moved, strict=True)
        floats = [t for t in self.inputs if t.is_floating_point()]
        noise = torch.finfo(torch.float64).eps * max(map(_largest, floats), default=0.0)
        return tuple(_difference(i, *row, noise, self.factor) for i, row in enumerate(rows))

    def worst(self, got: Sequence[Tensor]) -> Difference | None:
        """Return the output that is furthest outside its tolerance; None if all are within."""
        return furthest(self.compare(got))


def reference(
    fn: Function,
    inputs: Sequence[Tensor],
    precision: str,
    plain: Sequence[Tensor] | None = None,
) -> Reference:
    """Return the reference of ``fn`` itself on ``inputs``: interpreted in both precisions.

    ``plain`` are its results in its own precision where they are known.
    """
    exact = meaning.run(fn, *inputs, precision="f64")
    plain = meaning.run(fn, *inputs) if plain is None else tuple(plain)
    return Reference(tuple(inputs), exact, plain, FACTORS[precision])


def isolate(op: Op) -> Function:
    """Return the Function whose only op is ``op``; a value read twice is one parameter."""
    params = tuple(dict.fromkeys(op.operands))
    return Function(op.kind.NAME, params, (op,), op.results)


def differences(ref: Reference, fn: Function, got: Sequence[Tensor]) -> Sequence[Difference]:
    """Return the differences; where there is a miss, inputs moved by roundings add to the spread.

    They cost two more runs in float64, hence only then.
    """
    found = ref.compare(got)
    return found if all(d.ok for d in found) else conditioned(ref, fn).compare(got)


def furthest(found: Sequence[Difference]) -> Difference | None:
    """Return the difference that is furthest outside its tolerance; None if all are within."""
    bad = [d for d in found if not d.ok]
    return max(bad, key=lambda d: d.error / max(d.tolerance, 1e-300), default=None)


def conditioned(ref: Reference, fn: Function) -> Reference:
    """Return ``ref`` with exact results of ``fn`` on moved inputs: see :class:`Reference`."""
    moved = tuple(
        meaning.run(
            fn, *(_moved(t, sign) for t in ref.inputs), precision="f64", feed=partial(_near, sign)
        )
        for sign in (1.0, -1.0)
    )
    return replace(ref, moved=moved)


def _near(sign: float, op: Op, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the operands of ``op``; what becomes codes is moved by roundings of its largest.

    Codes swallow the moves of what they are made of, and a sum that lies between two of them goes
    to either by its roundings: by another order of summation, or by one scale for two.
    """
    if not isinstance(op.kind, _TO_CODES):
        return operands
    x, *rest = operands
    step = sign * _ROUNDINGS * torch.finfo(torch.float32).eps * _largest(x)
    return (x + step * _turns(x), *rest)


def _moved(t: Tensor, sign: float) -> Tensor:
    """Return ``t`` in float64, elements in turn larger and smaller by ``_ROUNDINGS`` roundings."""
    if not t.is_floating_point():
        return t
    step = sign * _ROUNDINGS * torch.finfo(t.dtype).eps
    return t.double() * (1.0 + step * _turns(t))


def _turns(t: Tensor) -> Tensor:
    """Return 1 and -1 in turn, in the shape of ``t``."""
    return 1.0 - 2.0 * (torch.arange(t.numel()) % 2).double().reshape(t.shape)


def surely_within(eager: Sequence[Tensor], got: Sequence[Tensor], precision: str) -> bool:
    """Return whether ``got`` is so near to ``eager`` that the reference cannot find it wrong.

    Let s be the spread, L eager's largest element, F the factor, r = _ROUNDINGS * eps, and
    m = (1 - r) r L. The tolerance is F max(s, r times the exact result's largest element, which is
    L - s or more). A distance d <= (F - 1) m from eager suffices: the error is at most d + s; where
    s >= m that is at most F s; where s < m it is at most F m, and L - s >= (1 - r) L makes the
    tolerance at least F m. Integers must be equal; what is not finite is left to the reference.
    """
    pairs = zip(eager, got, strict=True)
    return all(_surely(e, g, FACTORS[precision]) for e, g in pairs)


def _surely(eager: Tensor, got: Tensor, factor: float) -> bool:
    if eager.shape != got.shape or eager.dtype is not got.dtype or eager.is_complex():
        return False
    if not eager.is_floating_point():
        return torch.equal(eager, got)
    if eager.numel() == 0:
        return True
    largest = float(eager.abs().max())
    if not largest < float("inf"):
        return False
    r = _ROUNDINGS * torch.finfo(eager.dtype).eps
    distance = float((eager.double() - got.double()).abs().max())
    return distance <= (factor - 1) * (1 - r) * r * largest


def model_reference(
    fn: Function, inputs: Sequence[Tensor], found: Sequence[Tensor], precision: str
) -> Reference:
    """Return the reference of a captured model, held to the model's own eager results ``found``.

    Raises:
        CheckError: the captured program does not compute what the model does.
    """
    exact = meaning.run(fn, *inputs, precision="f64")
    found = tuple(found)
    ref = Reference(tuple(inputs), exact, found, FACTORS[precision])
    if all(_close_enough(e, f) for e, f in zip(exact, found, strict=True)):
        return ref
    # Eager is far from float64: a net that loses digits, or a capture that differs. Which?
    plain = meaning.run(fn, *inputs)
    same = Reference(tuple(inputs), found, found, _CAPTURE_FACTOR)
    if (bad := same.worst(plain)) is not None:
        raise CheckError(
            f"{fn.name}: the captured program differs from the model ({bad}). Please report the "
            f"model; verify='off' skips this check"
        )
    return ref


def _close_enough(exact: Tensor, found: Tensor) -> bool:
    if not exact.is_floating_point():
        return bool((exact.to(found.dtype) == found).all())
    return _distance(exact, found) <= 1e-4 * max(_largest(exact), 1e-30)


def _largest(t: Tensor) -> float:
    finite = t[torch.isfinite(t)] if t.is_floating_point() else t
    return float(finite.abs().max()) if finite.numel() else 0.0


def _difference(
    index: int,
    exact: Tensor,
    eager: Tensor,
    got: Tensor,
    moved: Sequence[Tensor],
    noise: float,
    factor: float,
) -> Difference:
    if got.shape != exact.shape:
        return Difference(index, float("inf"), 0.0, 0.0)
    if not exact.is_floating_point():
        # Integers are exact, unless float rounding itself decides them (an argmax near a tie).
        steady = exact.to(got.dtype) == eager
        for other in moved:
            steady &= other == exact
        wrong = (got != eager) & steady
        return Difference(index, float(wrong.sum()), 0.0, 0.0)
    # Where float32 overflows on the way and float64 does not, eager's own result means nothing.
    bounded = exact.abs() <= torch.finfo(got.dtype).max
    finite = bounded & torch.isfinite(eager)
    largest = _largest(exact[finite])
    if not _specials_agree(exact, eager, got, bounded, finite):
        return Difference(index, float("inf"), 0.0, largest)
    a = exact[finite].double()
    eps = torch.finfo(eager.dtype).eps if eager.is_floating_point() else 0.0
    spreads = [_distance(a, eager[finite]), _ROUNDINGS * eps * largest, noise]
    spreads += [_distance(a, m[finite].double()) / _ROUNDINGS for m in moved]
    return Difference(index, _distance(a, got[finite]), factor * max(spreads), largest)


def _specials_agree(
    exact: Tensor, eager: Tensor, got: Tensor, bounded: Tensor, finite: Tensor
) -> bool:
    """Return whether NaN and infinities stand in ``got`` where both references have them."""
    if bool(finite.all()):
        return bool(torch.isfinite(got).all())
    nan = exact.isnan() & eager.isnan()
    infinite = ~bounded & torch.isinf(eager) & (torch.sign(exact) == torch.sign(eager))
    same = torch.where(nan, got.isnan(), torch.where(infinite, got == eager, True))
    return bool((same & (~finite | torch.isfinite(got))).all())


def _distance(exact: Tensor, got: Tensor) -> float:
    """Return the largest absolute distance; infinite where NaN or infinities stand differently."""
    if exact.numel() == 0:
        return 0.0
    a, b = exact.double(), got.double()
    special = ~torch.isfinite(b)
    if bool(special.any()):
        same = (a == b) | (a.isnan() & b.isnan()) | (a.abs() > torch.finfo(got.dtype).max)
        if not bool(same[special].all()):
            return float("inf")
        a, b = a[~special], b[~special]
    return float((a - b).abs().max()) if a.numel() else 0.0
