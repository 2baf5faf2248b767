"""compress > factors: weights as products: spectra, ranks within a budget, factors, new ops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leptonc.ir.core import Builder, Function, Kind, Op, Value
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.meaning import const_of
from leptonc.rewrite.driver import drop_dead


@dataclass(frozen=True)
class Factors:
    """The weights that stand for one, first one first: two of a matrix, three of a kernel."""

    weights: tuple[Tensor, ...]

    @property
    def numel(self) -> int:
        """How many weights there are."""
        return sum(w.numel() for w in self.weights)

    def names(self, name: str) -> list[str]:
        """Return the names of the weights that stand for the one called ``name``."""
        parts = ("first", "last") if len(self.weights) == 2 else ("first", "core", "last")
        return [f"{name.removesuffix('.weight')}.{part}.weight" for part in parts]

    def kinds(self, kind: Kind) -> list[Linear | Conv]:
        """Return the ops for the weights in the place of one of ``kind``."""
        if not isinstance(kind, Conv):
            return [Linear()] * 2
        ones = (1,) * len(kind.stride)
        point = Conv(ones, (0,) * len(ones), ones)
        return [kind, point] if len(self.weights) == 2 else [point, kind, point]


@dataclass(frozen=True)
class Spectra:
    """A weight taken apart, with its inputs whitened.

    Attributes:
        whitened: f64[n,k,*kernel], the weight times the Cholesky factor of its inputs' moment.
        unwhiten: f64[k,k], the inverse of that factor, or None where it is one.
        bases: orthonormal columns by falling singular value: of the outputs, and of the inputs
            if the weight has a kernel.
        values: the singular values to each of ``bases``.
    """

    whitened: Tensor
    unwhiten: Tensor | None
    bases: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def full(self) -> tuple[int, ...]:
        """The largest ranks."""
        return tuple(len(v) for v in self.values)

    @property
    def numel(self) -> int:
        """How many weights there are before."""
        return self.whitened.numel()

    @property
    def _taps(self) -> int:
        return math.prod(self.whitened.shape[2:])

    def size(self, ranks: Sequence[int]) -> int:
        """Return how many weights there are with these ranks."""
        n, k = self.whitened.shape[:2]
        if len(ranks) == 1:
            return ranks[0] * (n + k)
        return ranks[0] * n + ranks[1] * k + ranks[0] * ranks[1] * self._taps

    def ranks_of_error(self, error: float) -> tuple[int, ...]:
        """Return the least ranks whose relative error is at most ``error``.

        Squared errors of the axes add up to no less than the squared error of all (De Lathauwer et
        al., 2000), hence each axis gets an equal part.
        """
        allowed = error**2 / len(self.values)
        return tuple(_least(v, allowed) for v in self.values)

    def ranks_of_size(self, most: float) -> tuple[int, ...]:
        """Return the largest ranks, an equal part of each axis, with at most ``most`` weights."""
        n, k = self.whitened.shape[:2]
        if len(self.values) == 1:
            return (max(1, min(int(most / (n + k)), self.full[0])),)
        # (taps n k) p^2 + (n^2 + k^2) p = most, for the part p of both axes.
        a, b = self._taps * n * k, n * n + k * k
        part = (math.sqrt(b * b + 4 * a * most) - b) / (2 * a)
        wanted = (int(part * n), int(part * k))
        return tuple(max(1, min(r, f)) for r, f in zip(wanted, self.full, strict=True))

    def factors(self, ranks: Sequence[int]) -> Factors:
        """Return the weights, f32, that give the best (SVD) or nearly best (HOSVD) fit."""
        left = self.bases[0][:, : ranks[0]]
        inner = torch.tensordot(left.T, self.whitened, dims=1)  # [r, k, *kernel]
        if len(ranks) == 1:
            first = self._plain(inner.reshape(ranks[0], -1))
            # Both parts carry the root of a singular value: neither dwarfs the other in training.
            root = self.values[0][: ranks[0]].clamp_min(1e-30).sqrt()
            kernel = self.whitened.shape[2:]
            parts = (first / root[:, None], left * root)
            return Factors(tuple(_f32(p.reshape(*p.shape, *kernel)) for p in parts))
        right = self.bases[1][:, : ranks[1]]
        core = torch.tensordot(inner.movedim(1, -1), right, dims=1).movedim(-1, 1)
        ones = (1,) * (self.whitened.dim() - 2)
        first = self._plain(right.T)
        return Factors((
            _f32(first.reshape(*first.shape, *ones)), _f32(core),
            _f32(left.reshape(*left.shape, *ones)),
        ))  # fmt: skip

    def _plain(self, rows: Tensor) -> Tensor:
        """Return rows f64[r,k] for inputs as they are, from rows for whitened ones."""
        return rows if self.unwhiten is None else rows @ self.unwhiten

    def error(self, ranks: Sequence[int]) -> float:
        """Return the relative error of ``factors(ranks)`` in the whitened norm."""
        left = self.bases[0][:, : ranks[0]]
        kept = torch.tensordot(left.T, self.whitened, dims=1)
        if len(ranks) == 2:
            kept = torch.tensordot(kept.movedim(1, -1), self.bases[1][:, : ranks[1]], dims=1)
        whole = float(self.whitened.square().sum())
        return math.sqrt(max(0.0, 1 - float(kept.square().sum()) / whole)) if whole else 0.0


def _f32(t: Tensor) -> Tensor:
    return t.float().contiguous()


def _least(values: Tensor, allowed: float) -> int:
    """Return the least rank whose tail has at most ``allowed`` of the squared values."""
    squares = values.square()
    tails = squares.flip(0).cumsum(0).flip(0)  # tails[r]: what rank r leaves out
    return max(1, int((tails > allowed * squares.sum()).sum()))


def spectra(weight: Tensor, moment: Tensor | None, damping: float) -> Spectra:
    """Return a weight ``f32[n,k,*kernel]`` taken apart.

    Args:
        weight: of a linear layer or a convolution.
        moment: f64[k,k], the sum of ``x x^T`` over inputs ``x``, or None: all count alike.
        damping: added to its diagonal, times the mean of the diagonal.
    """
    w = weight.detach().double()
    unwhiten = None
    if moment is not None and float(moment.diagonal().mean()) > 0:
        eye = torch.eye(len(moment), dtype=torch.float64)
        lower = torch.linalg.cholesky(moment + damping * moment.diagonal().mean() * eye)
        w = torch.tensordot(w.movedim(1, -1), lower, dims=1).movedim(-1, 1)
        unwhiten = torch.linalg.solve_triangular(lower, eye, upper=False)
    axes = (0, 1) if math.prod(w.shape[2:]) > 1 else (0,)
    pairs = [torch.linalg.svd(w.movedim(a, 0).flatten(1), full_matrices=False) for a in axes]
    return Spectra(w, unwhiten, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))


def moment_of(kind: Kind, x: Tensor, weight: tuple[int, ...]) -> Tensor:
    """Return the sum f64[k,k] of ``x x^T`` over what a layer of this weight reads from ``x``."""
    if isinstance(kind, Conv):
        if math.prod(weight[2:]) == 1:
            x = x[(..., *(slice(None, None, s) for s in kind.stride))]
        x = x.movedim(1, -1)
    rows = x.reshape(-1, x.shape[-1]).double()
    return rows.T @ rows


def shape_of(value: Value) -> tuple[int, ...]:
    """Return the shape of a value without dynamic sizes."""
    return tuple(int(n) for n in value.type.shape)


def applied(fn: Function, op: Op, factors: Factors, name: str) -> Function:
    """Return ``fn`` with ``op`` as a row of products with ``factors``; the last adds the bias."""
    b = Builder(fn.name, origin=op.origin)
    value, *rest = op.operands
    names, kinds = factors.names(name), factors.kinds(op.kind)
    for kind, hint, weight in zip(kinds, names, factors.weights, strict=True):
        origin = dataclasses.replace(op.origin, module=hint.removesuffix(".weight"))
        w = b(Constant(const_of(weight)), hint=hint, origin=origin)
        bias = rest[1:] if hint == names[-1] else []
        value = b(kind, value, w, *bias, origin=origin)
    last = dataclasses.replace(b.ops[-1], results=op.results, origin=op.origin)
    ops = [o for at in fn.ops for o in ((*b.ops[:-1], last) if at is op else (at,))]
    return drop_dead(Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims))


__all__ = ["Factors", "Spectra", "applied", "moment_of", "shape_of", "spectra"]
