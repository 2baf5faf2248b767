"""compress > quantize > gptq: weights rounded column by column, the rest making up for errors.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, ICLR 2023 (arXiv 2210.17323). The Hessian of the squared
error of a row is the same for all rows, ``2 X X^T`` of the layer's inputs; what rounding a column
costs is taken back in the columns that are not rounded yet, in blocks, by the Cholesky factor of
the inverse. Columns of large inputs come first, as others are left to make up for them; scales are
those of the weights as they were. A convolution is the product of its patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leptonc.compress.quantize.small_sums import Room, Sums
from leptonc.compress.quantize.weights import clipped_scale, round_to_nearest, rounded
from leptonc.ir.kinds.contract import Conv

BLOCK = 128  # columns between updates of all the rest
DAMPING = 0.01  # of the mean of the diagonal, added to it (the paper's)
ROWS = 4096  # inputs a batch that the Hessian is taken from: more change it little


def patches(x: Tensor, kind: Conv, kernel: Sequence[int]) -> Tensor:
    """Return the inputs of each output as rows, a matrix a group: ``f32[groups,rows,k]``."""
    pads = [n for p in zip(reversed(kind.padding), reversed(kind.after), strict=True) for n in p]
    x = torch.nn.functional.pad(x, pads)
    rank = len(kernel)
    for i, (size, stride, dilation) in enumerate(
        zip(kernel, kind.stride, kind.dilation, strict=True)
    ):
        x = x.unfold(2 + i, dilation * (size - 1) + 1, stride)[..., ::dilation]
    b, c = x.shape[:2]
    x = x.reshape(b, kind.groups, c // kind.groups, *x.shape[2:])
    spatial, taps = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
    x = x.permute(1, 0, *spatial, 2, *taps)
    rows = x.shape[1 : 2 + rank].numel()
    if rows <= ROWS:
        return x.reshape(kind.groups, rows, -1)
    keep = torch.arange(0, rows, -(-rows // ROWS))  # every so manieth output
    at = torch.unravel_index(keep, x.shape[1 : 2 + rank])
    return x[(slice(None), *at)].reshape(kind.groups, len(keep), -1)


def hessian(rows: Tensor) -> Tensor:
    """Return the sum of outer products of ``f32[groups,rows,k]``: ``f32[groups,k,k]``."""
    return rows.transpose(1, 2) @ rows


def gptq(
    matrix: Tensor, hessians: Tensor, bits: int, groups: int, sums: Sums | None = None
) -> tuple[Tensor, Tensor]:
    """Return codes ``i8[n,k]`` and scales ``f32[n,groups]`` of a weight ``f32[n,k]``.

    Args:
        matrix: the weight; rows of one group of a convolution lie together.
        hessians: ``f32[m,k,k]``, one for each group of a convolution.
        bits: 8 or 4.
        groups: of columns with a scale of their own.
        sums: those that int16 shall hold, of one group of 8 bits.
    """
    n, k = matrix.shape
    w = matrix.double().reshape(len(hessians), -1, k)
    if sums is None:
        scale = clipped_scale(matrix.reshape(n, groups, -1), bits)
    else:
        scale = round_to_nearest(matrix, bits, groups, True, sums)[1]
    steps = scale.repeat_interleave(k // groups, 1).double().reshape(w.shape)
    h = hessians.double()
    order = torch.diagonal(h, dim1=-2, dim2=-1).argsort(dim=-1, descending=True, stable=True)
    along = order[:, None].expand_as(w)
    h = h.take_along_dim(order[:, None], 2).take_along_dim(order[:, :, None], 1)
    room = None if sums is None else Room(sums, order, w.shape[1])
    w, steps = (t.take_along_dim(along, 2) for t in (w, steps))
    codes = _rounded(w, steps, _factor(h), bits, room)
    back = codes.take_along_dim(along.argsort(-1), 2)
    return back.reshape(n, k).to(torch.int8), scale


def _rounded(w: Tensor, steps: Tensor, upper: Tensor, bits: int, room: Room | None) -> Tensor:
    """Return codes of ``w``, columns in turn; ``steps`` holds the scale of every weight."""
    codes, w = torch.empty_like(w), w.clone()
    for start in range(0, w.shape[2], BLOCK):
        stop = min(start + BLOCK, w.shape[2])
        errors = torch.zeros(*w.shape[:2], stop - start, dtype=w.dtype)
        for i in range(start, stop):
            made = rounded(w[..., i : i + 1], steps[..., i], bits)[..., 0]
            codes[..., i] = made if room is None else room.taken(made, i)
            error = (w[..., i] - codes[..., i] * steps[..., i]) / upper[:, None, i, i]
            w[..., i:stop] -= error[..., None] * upper[:, None, i, i:stop]
            errors[..., i - start] = error
        w[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return codes


def _factor(h: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped Hessian."""
    diagonal = torch.diagonal(h, dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))  # of inputs that are all zero
    damped = h + torch.diag_embed((DAMPING * mean).expand_as(diagonal))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse).transpose(-1, -2)
