"""torch_spmd > preview: the text of a rank's program, without reading a weight."""

from __future__ import annotations

from leptonc.backends.torch_spmd.emit import emit
from leptonc.backends.torch_spmd.schedule import schedule
from leptonc.backends.torch_spmd.weights import parted
from leptonc.ir.specialize import specialize
from leptonc.shard.program import Spmd


def preview(program: Spmd, rank: int, sizes: dict[str, int] | None = None) -> str:
    """Return the torch program of ``rank``.

    Args:
        program: of all ranks.
        rank: which one.
        sizes: the model's own dynamic sizes; by default the smallest that each may have.
    """
    fn = parted(program.local(rank))
    least = {d.name: max(2, d.min) for d in fn.dims}
    return emit(schedule(specialize(fn, sizes or least), rank, program.world)).text
