"""Kinds that normalise: batch, layer, rms, group norm, softmax.

``affine`` of a norm says which trailing operands it has: ``"none"``, ``"weight"``, ``"both"``.
"""

from __future__ import annotations

from typing import ClassVar

from leptonc.ir.core import Kind, Types, kind
from leptonc.ir.dims import divides, same_dim
from leptonc.ir.kinds.base import FLOATS, accept, arity, check_axis, need

_EXTRA = {"none": 0, "weight": 1, "both": 2}


def _affine(k: Kind, args: Types, affine: str, base: int) -> Types:
    need(affine in _EXTRA, k, f"affine must be one of {', '.join(_EXTRA)}, got {affine!r}")
    args = arity(k, args, base + _EXTRA[affine])
    for a in args:
        accept(k, a, FLOATS)
    return args


@kind
class BatchNorm(Kind):
    """Inference batch norm ``(x - mean) / sqrt(var + eps) * weight + bias`` over axis 1.

    ``x: T[b,c,...], mean: T[c], var: T[c], weight: T[c], bias: T[c]`` -> ``T[b,c,...]``.
    """

    eps: float
    affine: str = "both"
    NAME: ClassVar[str] = "batch_norm"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        x, *stats = _affine(self, args, self.affine, 3)
        need(x.rank >= 2, self, f"needs an axis 1, got {x}")
        fits = all(s.rank == 1 and same_dim(s.shape[0], x.shape[1]) for s in stats)
        need(fits, self, f"statistics do not fit {x}")
        return (x,)


@kind
class LayerNorm(Kind):
    """Normalise over the last ``axes`` axes; weight and bias have their shape."""

    axes: int
    eps: float
    affine: str = "both"
    NAME: ClassVar[str] = "layer_norm"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        x, *wb = _affine(self, args, self.affine, 1)
        need(1 <= self.axes <= x.rank, self, f"{self.axes} axes of {x}")
        need(all(w.shape == x.shape[-self.axes :] for w in wb), self, "weight does not fit")
        return (x,)


@kind
class RmsNorm(Kind):
    """``x / sqrt(mean(x**2) + eps) * weight`` over the last ``axes`` axes."""

    axes: int
    eps: float
    affine: str = "weight"
    NAME: ClassVar[str] = "rms_norm"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        x, *w = _affine(self, args, self.affine, 1)
        need(1 <= self.axes <= x.rank, self, f"{self.axes} axes of {x}")
        need(all(v.shape == x.shape[-self.axes :] for v in w), self, "weight does not fit")
        return (x,)


@kind
class GroupNorm(Kind):
    """Normalise each of ``groups`` runs of channels over its channels and all spatial axes.

    ``x: T[b,c,...], weight: T[c], bias: T[c]``. Instance norm is ``groups = c``.
    """

    groups: int
    eps: float
    affine: str = "both"
    NAME: ClassVar[str] = "group_norm"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        x, *wb = _affine(self, args, self.affine, 1)
        need(x.rank >= 2, self, f"needs an axis 1, got {x}")
        fits = all(w.rank == 1 and same_dim(w.shape[0], x.shape[1]) for w in wb)
        need(fits, self, "weight does not fit")
        need(divides(self.groups, x.shape[1]), self, f"{self.groups} groups do not divide {x}")
        return (x,)


@kind
class Softmax(Kind):
    """``e**(x - max) / sum(e**(x - max))`` along ``axis``."""

    axis: int
    NAME: ClassVar[str] = "softmax"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        check_axis(self, self.axis, x.rank)
        return (accept(self, x, FLOATS),)


@kind
class LogSoftmax(Kind):
    """``x - max - log(sum(e**(x - max)))`` along ``axis``."""

    axis: int
    NAME: ClassVar[str] = "log_softmax"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        check_axis(self, self.axis, x.rank)
        return (accept(self, x, FLOATS),)


KINDS: tuple[type[Kind], ...] = (BatchNorm, LayerNorm, RmsNorm, GroupNorm, Softmax, LogSoftmax)
