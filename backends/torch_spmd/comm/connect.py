"""torch_spmd > comm > connect: how a worker of a local group reaches the other ranks.

Each function takes the rank and the group's configuration (plain data, see
``leptonc.runtime.group.local``) and returns the rank's collectives.
"""

from __future__ import annotations

import datetime
import mmap
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from leptonc.backends.torch_spmd.comm.reference import TorchComm
from leptonc.backends.torch_spmd.comm.shared import SharedComm, segment_size
from leptonc.errors import WorkerError


def shm(rank: int, config: Mapping[str, Any]) -> SharedComm:
    """Return the collectives over the group's segment of shared memory.

    Raises:
        WorkerError: the segment is too small.
    """
    world = int(config["world"])
    size = segment_size(world)
    try:
        memory = mmap.mmap(int(config["segment"]), size)
    except ValueError as error:
        raise WorkerError(f"a segment for {world} ranks needs {size} bytes: {error}") from None
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    comm = SharedComm(
        address, rank, world, deadline_s=_patience_s(config), keep=memory,
        crowded=bool(config["crowded"]),
    )  # fmt: skip
    comm.prepare()
    return comm


def gloo(rank: int, config: Mapping[str, Any]) -> TorchComm:
    """Return the collectives over gloo, on the loopback interface."""
    return _joined("gloo", rank, config)


def nccl(rank: int, config: Mapping[str, Any]) -> TorchComm:
    """Return the collectives over NCCL; rank ``r`` uses device ``r``.

    Raises:
        WorkerError: this machine has no such device.
    """
    if torch.cuda.device_count() <= rank:
        raise WorkerError(
            f"rank {rank} needs CUDA device {rank}, this machine has {torch.cuda.device_count()}: "
            "use fewer ranks, or device='cpu'"
        )
    torch.cuda.set_device(rank)
    return _joined("nccl", rank, config)


def _patience_s(config: Mapping[str, Any]) -> float:
    """Return how long to wait for another rank: the controller ends everybody before that."""
    return float(max(config["deadline_s"], config["load_deadline_s"]))


def _joined(backend: str, rank: int, config: Mapping[str, Any]) -> TorchComm:
    """Join the process group that meets in the private directory, over a file."""
    world = int(config["world"])
    meeting = f"{config['meeting']}/ranks"
    store = dist.FileStore(meeting, world)  # pyright: ignore[reportPrivateImportUsage]
    wait = _patience_s(config)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=datetime.timedelta(seconds=wait)
    )
    return TorchComm()
