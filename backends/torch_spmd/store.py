"""torch_spmd > store: a sharded program as an artifact, and how a rank loads its part of it.

``program.lir`` is the function of all ranks, ``spmd.json`` says what differs from rank to rank and
how units run. A rank first builds its program, kernels and all: who cannot do that fails before it
has read anything. Then it reads the slices of the weights that it owns, a piece at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.lower.questions import MOST_DENSE
from leptonc.backends.torch_spmd.runtime import RankProgram, rank_program
from leptonc.backends.torch_spmd.units import How
from leptonc.backends.torch_spmd.weights import Stored
from leptonc.errors import ArtifactError
from leptonc.ir.constants import Const
from leptonc.ir.core import Value
from leptonc.ir.text import constants, dump, parse
from leptonc.runtime.artifact import Artifact, open_artifact, write_artifact
from leptonc.runtime.garbage import paused, swept
from leptonc.runtime.group.comm import Comm
from leptonc.shard.placement import Placement
from leptonc.shard.program import Spmd

KIND = "sharded"
ENTRY = "leptonc.backends.torch_spmd.store:load"
_PROGRAM, _SPMD = "program.lir", "spmd.json"


def save(
    directory: Path | str,
    program: Spmd,
    how: How,
    device: str,
    texts: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a program of all ranks and return its directory.

    Args:
        directory: where.
        program: with the bytes of its constants.
        how: how units run.
        device: ``"cpu"`` or ``"cuda"``.
        texts: further files.
        about: further entries of the manifest.

    Raises:
        ArtifactError: it cannot be written there.
    """
    head = {
        "tables": {name: list(values) for name, values in program.tables.items()},
        "engine": how.engine,
        "precision": how.precision,
        "pipeline": how.pipeline,
        "device": device,
    }
    files = {_PROGRAM: dump(program.function), _SPMD: json.dumps(head, indent=1), **(texts or {})}
    store = constants(program.function)
    head["shares"] = _sparse(store.values())
    return write_artifact(directory, {"kind": KIND, **(about or {})}, files, dict(store.items()))


def _sparse(store: Iterable[Const]) -> dict[str, float]:
    """Return which part of the elements of those constants is not zero that are mostly zeros.

    Ranks choose kernels by it before they read a weight.
    """
    shares = {c.digest: meaning.nonzero_share(c, MOST_DENSE) for c in store}
    return {digest: share for digest, share in shares.items() if share <= MOST_DENSE}


def read_program(artifact: Artifact) -> tuple[Spmd, Mapping[str, Any]]:
    """Return the program of all ranks and the entries of ``spmd.json``; placements are not kept.

    Raises:
        ArtifactError: it is no sharded program.
    """
    head = artifact.json(_SPMD)
    tables = head.get("tables") if isinstance(head, dict) else None
    if not isinstance(tables, dict) or "rank" not in tables:
        raise ArtifactError(f"{_SPMD}: holds no tables of ranks; save the program again")
    store, shares = artifact.constants(), head.get("shares", {})
    for digest, const in store.items():
        meaning.set_nonzero_share(const, float(shares.get(digest, 1.0)))
    function = parse(artifact.text(_PROGRAM), store)
    known = {str(n): tuple(int(v) for v in values) for n, values in tables.items()}
    nowhere: Mapping[Value, Placement] = {}
    return Spmd(function, known, nowhere), head


def load(directory: Path, rank: int, comm: Comm) -> RankProgram:
    """Return what ``rank`` runs of the program in ``directory``. Raises ArtifactError."""
    made = stand(directory, rank, comm)
    made.fill()
    return made


def stand(directory: Path, rank: int, comm: Comm) -> RankProgram:
    """Return what ``rank`` runs, without its weights: ``fill`` reads these.

    Passes may have looked at small constants (``meaning.worth_a_look``) and folded some of them.
    Kernels are made or loaded here, not in the first call, unless they depend on that call's sizes.

    Raises:
        ArtifactError: it is no program for so many ranks, or damaged.
    """
    # What is new stays where ``swept`` looks; and nobody takes gradients of what is made here.
    with paused(), torch.inference_mode():
        artifact = open_artifact(directory, verify="off")  # who started the ranks has verified it
        made = _own(artifact, rank, comm)
        swept()
        if not made.function.dims:
            shapes = [p.type.shape for p in made.function.params]
            made.stand([tuple(n for n in shape if isinstance(n, int)) for shape in shapes])
    return made


def _look(const: Const, index: tuple[slice, ...]) -> Tensor:
    tensor = meaning.tensor_of(const)
    if tensor.dtype is torch.bfloat16:  # NumPy has no such type
        return tensor[index]
    # Torch's own slicing, used nowhere else, brings in more of its library than it is worth.
    return torch.from_numpy(tensor.numpy()[index])


def _own(artifact: Artifact, rank: int, comm: Comm) -> RankProgram:
    """Return what ``rank`` runs, none of its weights read."""
    program, head = read_program(artifact)
    if program.world != comm.world:
        raise ArtifactError(
            f"{artifact.path}: a program of {program.world} ranks, {comm.world} are here; "
            "compile it for as many"
        )

    # Whoever starts ranks on CUDA has set each one's device.
    device = f"cuda:{torch.cuda.current_device()}" if head["device"] == "cuda" else "cpu"

    def read(const: Const, index: tuple[slice, ...]) -> Tensor:
        return artifact.slice(const.digest, index)

    stored = Stored(read, _look, artifact.let_go, artifact.fetch)
    how = How(head["engine"], torch.get_num_threads(), head["precision"], head["pipeline"])
    return rank_program(program, rank, comm, stored, how, device)
