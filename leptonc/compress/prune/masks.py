"""compress > prune > masks: which single weights stay: by magnitude, N of M, or whole blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from leptonc.compress.recipe import CompressError


@dataclass(frozen=True)
class Pattern:
    """What weights go together: ``rows`` outputs by one input; or ``keep`` of ``of`` inputs stay.

    A weight is seen as a matrix, outputs by inputs; inputs of a kernel are ordered with the
    channels innermost.
    """

    rows: int = 1
    keep: int = 0
    of: int = 0


def parse(text: str | None) -> Pattern:
    """Return what a pattern such as ``"2:4"`` or ``"8x1"`` says. Raises CompressError."""
    if text is None:
        return Pattern()
    if m := re.fullmatch(r"(\d+):(\d+)", text):
        keep, of = int(m[1]), int(m[2])
        if 0 < keep < of:
            return Pattern(keep=keep, of=of)
    if (m := re.fullmatch(r"(\d+)x1", text)) and int(m[1]) > 1:
        return Pattern(rows=int(m[1]))
    raise CompressError(
        f"Prune(pattern={text!r}): must be N:M with 0 < N < M, e.g. 2:4, or rows x 1, e.g. 8x1"
    )


def matrix(weight: Tensor, outputs: int = 0) -> Tensor:
    """Return a weight as ``[outputs, inputs]``, channels innermost: ``[n,c,h,w]`` -> ``[n,hwc]``.

    Args:
        weight: of a linear layer or a convolution.
        outputs: the axis of its outputs.
    """
    moved = weight.movedim(outputs, 0)
    return moved.movedim(1, -1).reshape(len(moved), -1) if weight.dim() > 1 else moved[:, None]


def unmatrix(rows: Tensor, like: Tensor, outputs: int = 0) -> Tensor:
    """Return what ``matrix`` made, in the shape of ``like``."""
    if like.dim() == 1:
        return rows[:, 0]
    shape = like.movedim(outputs, 0).movedim(1, -1).shape
    return rows.reshape(shape).movedim(-1, 1).movedim(0, outputs).contiguous()


def fits(weight: Tensor, pattern: Pattern, outputs: int = 0) -> bool:
    """Return whether the pattern divides the weight: M its inputs, rows its outputs."""
    rows = matrix(weight, outputs)
    return not (pattern.of and rows.shape[1] % pattern.of) and not rows.shape[0] % pattern.rows


def worth(weight: Tensor, pattern: Pattern, outputs: int = 0) -> Tensor:
    """Return the magnitude of what goes together: ``|w|``, or the norm of each block.

    ``[n, k]`` of the matrix, or ``[n / rows, k]``.
    """
    rows = matrix(weight.detach(), outputs).double()
    return rows.reshape(-1, pattern.rows, rows.shape[1]).square().sum(1).sqrt()


def spread(kept: Tensor, weight: Tensor, pattern: Pattern, outputs: int = 0) -> Tensor:
    """Return the mask of a weight from what stays of its ``worth``: bool of the weight's shape."""
    return unmatrix(kept.repeat_interleave(pattern.rows, 0), weight, outputs)


def smallest(worth: Tensor, count: int) -> Tensor:
    """Return a mask that is false at exactly ``count`` of the smallest; ties by position."""
    flat = torch.ones(worth.numel(), dtype=torch.bool, device=worth.device)
    flat[torch.argsort(worth.flatten(), stable=True)[:count]] = False
    return flat.reshape(worth.shape)


def n_of_m(worth: Tensor, pattern: Pattern) -> Tensor:
    """Return a mask that keeps the ``keep`` largest of every ``of`` neighbours of a row."""
    runs = worth.reshape(-1, pattern.of)
    order = torch.argsort(runs, dim=1, descending=True, stable=True)[:, : pattern.keep]
    return torch.zeros_like(runs, dtype=torch.bool).scatter_(1, order, True).reshape(worth.shape)


__all__ = [
    "Pattern", "fits", "matrix", "n_of_m", "parse", "smallest", "spread", "unmatrix", "worth",
]  # fmt: skip
