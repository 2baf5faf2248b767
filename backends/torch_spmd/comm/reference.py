"""torch_spmd > comm > reference: the collectives over ``torch.distributed``, with any backend.

On CPU tensors only bytes are exchanged, and every rank adds by itself in the order of the ranks:
the same bits as over shared memory. NCCL adds on the way, in an order of its own that the ranks
share; its results may differ from the others' in the last bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from leptonc.backends.torch_spmd.comm import forms
from leptonc.backends.torch_spmd.comm.layout import (
    check_cuts,
    check_mine,
    lengths,
    normal_axis,
    resized,
)
from leptonc.runtime.group.comm import CommError, PeerError

_JOIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}
_REDUCE = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
_HALVES = (torch.float16, torch.bfloat16)
_BOOL = {"sum": "max", "max": "max", "min": "min"}


class TorchComm:
    """The collectives of this process's rank in a process group of ``torch.distributed``.

    Args:
        group: the process group; None: the default one, which must be initialised.

    Raises:
        CommError: there is none.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise CommError(
                "torch.distributed is not initialised: run under torchrun and call "
                "torch.distributed.init_process_group() first"
            )
        self._group = group
        self._native = dist.get_backend(group) == "nccl"
        self.rank = dist.get_rank(group)
        self.world = dist.get_world_size(group)

    def all_reduce(self, x: Tensor, op: str = "sum") -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`; with NCCL in its own order of adding."""
        forms.check_op(op)
        if x.dtype == torch.bool:
            return self.all_reduce(x.to(torch.uint8), _BOOL[op]).to(torch.bool)
        if not self._native:
            return _joined(self._gathered(x, [tuple(x.shape)] * self.world), op)
        out = x.clone(memory_format=torch.contiguous_format)
        with _told("all_reduce"):
            dist.all_reduce(out, _REDUCE[op], group=self._group)
        return out

    def all_gather(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`."""
        shape = tuple(x.shape)
        axis = normal_axis("all_gather", shape, axis)
        check_cuts("all_gather", cuts, self.world)
        check_mine("all_gather", shape, axis, cuts, self.rank)
        return torch.cat(self._gathered(x, [resized(shape, axis, n) for n in lengths(cuts)]), axis)

    def reduce_scatter(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`; with NCCL in its own order of adding."""
        axis = normal_axis("reduce_scatter", tuple(x.shape), axis)
        check_cuts("reduce_scatter", cuts, self.world, x.shape[axis])
        if self._native:
            mine = slice(cuts[self.rank], cuts[self.rank + 1])
            return self.all_reduce(x)[(slice(None),) * axis + (mine,)].contiguous()
        blocks = list(x.split(lengths(cuts), axis))
        shape = tuple(blocks[self.rank].shape)
        return _joined(self._exchanged(blocks, [shape] * self.world), "sum")

    def all_to_all(
        self,
        x: Tensor,
        split: int,
        split_cuts: tuple[int, ...],
        join: int,
        join_cuts: tuple[int, ...],
    ) -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`."""
        what, shape = "all_to_all", tuple(x.shape)
        split, join = normal_axis(what, shape, split), normal_axis(what, shape, join)
        if split == join:
            raise CommError(f"{what}: split and join are both axis {split}: expected two axes")
        check_cuts(what, split_cuts, self.world, shape[split])
        check_cuts(what, join_cuts, self.world)
        check_mine(what, shape, join, join_cuts, self.rank)
        mine = resized(shape, split, lengths(split_cuts)[self.rank])
        shapes = [resized(mine, join, n) for n in lengths(join_cuts)]
        blocks = list(x.split(lengths(split_cuts), split))
        return torch.cat(self._exchanged(blocks, shapes), join)

    def barrier(self) -> None:
        """Return once every rank has called this."""
        with _told("barrier"):
            dist.barrier(group=self._group)

    def _gathered(self, x: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Return every rank's ``x``, whose shapes are known; padded, as gloo wants one size."""
        sizes = [_nbytes(s, x.dtype) for s in shapes]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8, device=x.device)
        padded[: sizes[self.rank]] = _as_bytes(x)
        found = [torch.empty_like(padded) for _ in shapes]
        with _told("all_gather"):
            dist.all_gather(found, padded, group=self._group)
        return [_from_bytes(b[:n], x.dtype, s) for b, n, s in zip(found, sizes, shapes)]

    def _exchanged(self, blocks: list[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Return what each rank has for this one, of known shapes; ``blocks`` go to the others."""
        dtype = blocks[0].dtype
        sent = [_as_bytes(b) for b in blocks]
        sizes = [_nbytes(s, dtype) for s in shapes]
        flat = torch.empty(sum(sizes), dtype=torch.uint8, device=blocks[0].device)
        with _told("all_to_all"):
            dist.all_to_all_single(
                flat, torch.cat(sent), sizes, [b.numel() for b in sent], group=self._group
            )
        return [_from_bytes(b, dtype, s) for b, s in zip(flat.split(sizes), shapes)]


def _joined(parts: list[Tensor], op: str) -> Tensor:
    """Return the parts combined in their order; 16-bit floats in float32, rounded once."""
    dtype = parts[0].dtype
    if dtype == torch.bool:
        return _joined([p.view(torch.uint8) for p in parts], _BOOL[op]).view(torch.bool)
    wide = torch.float32 if dtype in _HALVES else dtype
    total = parts[0].to(wide, copy=True)
    for part in parts[1:]:
        total = _JOIN[op](total, part.to(wide))
    return total.to(dtype)


def _nbytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _as_bytes(x: Tensor) -> Tensor:
    """Return the bytes of ``x`` in a row."""
    # One element may be contiguous with any stride, but only be seen as bytes with stride 1.
    return x.contiguous().as_strided((x.numel(),), (1,)).view(torch.uint8)


def _from_bytes(x: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor whose bytes are ``x``; copied, because bytes may begin anywhere."""
    return x.clone().view(dtype).view(shape)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what torch raises when another rank has gone into our error."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"{what}: another rank has failed, is late or does something else") from (
            error
        )
