"""torch_spmd > preview: the text of a rank's program, without reading a weight."""

from __future__ import annotations

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.torch_spmd.emit import emit
from leptonc.backends.torch_spmd.schedule import schedule
from leptonc.backends.torch_spmd.weights import materialize
from leptonc.ir.constants import Const
from leptonc.ir.specialize import specialize
from leptonc.shard.program import Spmd


def preview(program: Spmd, rank: int, sizes: dict[str, int] | None = None) -> str:
    """Return the torch program of ``rank``.

    Args:
        program: of all ranks.
        rank: which one.
        sizes: the model's own dynamic sizes; by default the smallest that each may have.
    """
    fn = materialize(program.local(rank), _nothing)
    least = {d.name: max(2, d.min) for d in fn.dims}
    return emit(schedule(specialize(fn, sizes or least), rank, program.world)).text


def _nothing(const: Const, index: tuple[slice, ...]) -> Tensor:
    """Return a tensor of the right size that takes no memory."""
    whole = torch.empty(tuple(map(int, const.type.shape)), device="meta",  # type: ignore[arg-type]
                        dtype=meaning.TORCH_DTYPES[const.type.dtype])  # fmt: skip
    return whole[index]
