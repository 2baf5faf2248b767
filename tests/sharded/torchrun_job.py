"""What each rank of the test's torchrun job does: compile, call, write what it got."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from strategies.planned import block

import leptonc


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    model, x = block()
    sharding = leptonc.Sharding(objective="memory", engine="torch", launcher="torchrun")
    with leptonc.compile(model, x, target="cpu:2", sharding=sharding) as net:
        torch.save(net(*x), folder / f"result{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
