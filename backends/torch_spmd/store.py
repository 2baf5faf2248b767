"""torch_spmd > store: a sharded program as an artifact, and how a rank loads its part of it.

``program.lir`` is the function of all ranks, ``spmd.json`` says what differs from rank to rank and
how units run. A rank maps the weights and reads the slices that it owns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.torch_spmd.runtime import RankProgram, rank_program
from leptonc.backends.torch_spmd.units import How
from leptonc.backends.torch_spmd.weights import Stored
from leptonc.errors import ArtifactError
from leptonc.ir.constants import Const
from leptonc.ir.core import Value
from leptonc.ir.text import constants, dump, parse
from leptonc.runtime.artifact import Artifact, open_artifact, write_artifact
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
    return write_artifact(directory, {"kind": KIND, **(about or {})}, files, dict(store.items()))


def read_program(artifact: Artifact) -> tuple[Spmd, Mapping[str, Any]]:
    """Return the program of all ranks and the entries of ``spmd.json``; placements are not kept.

    Raises:
        ArtifactError: it is no sharded program.
    """
    head = artifact.json(_SPMD)
    tables = head.get("tables") if isinstance(head, dict) else None
    if not isinstance(tables, dict) or "rank" not in tables:
        raise ArtifactError(f"{_SPMD}: holds no tables of ranks; save the program again")
    function = parse(artifact.text(_PROGRAM), artifact.constants())
    known = {str(n): tuple(int(v) for v in values) for n, values in tables.items()}
    nowhere: Mapping[Value, Placement] = {}
    return Spmd(function, known, nowhere), head


def load(directory: Path, rank: int, comm: Comm) -> RankProgram:
    """Return what ``rank`` runs of the program in ``directory``. Raises ArtifactError."""
    artifact = open_artifact(directory, verify="off")  # the one who started the ranks has done it
    made = _own(artifact, rank, comm)  # the program of all ranks goes before weights come
    if not made.function.dims:  # kernels are made while loading, not in the first call
        shapes = [p.type.shape for p in made.function.params]
        made.bind([tuple(n for n in shape if isinstance(n, int)) for shape in shapes])
    artifact.let_go()
    return made


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

    def look(const: Const, index: tuple[slice, ...]) -> Tensor:
        return meaning.tensor_of(const)[index]

    stored = Stored(read, look, artifact.let_go)
    how = How(head["engine"], torch.get_num_threads(), head["precision"], head["pipeline"])
    return rank_program(program, rank, comm, stored, how, device)
