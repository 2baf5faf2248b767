"""What each process of the torchrun test runs: ``torchrun_job.py DIRECTORY``."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from leptonc.errors import WorkerError
from leptonc.runtime.group.torchrun import TorchrunGroup
from tests.runtime.group.toy import PLAN

ENTRY, ALLOWED = "tests.runtime.group.toy:load", ("tests.",)


def main(directory: Path) -> None:
    try:
        TorchrunGroup(directory, entry=ENTRY, allowed=ALLOWED)
    except WorkerError as error:
        assert "not initialised" in str(error)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
    told = {}
    with TorchrunGroup(directory, entry=ENTRY, allowed=ALLOWED) as group:
        told["total"] = group.call([torch.ones(3)])[0].tolist()
        told["rank"], told["world"] = group.rank, group.world
        dist.barrier()
        if group.rank == 0:
            (directory / PLAN).write_text(json.dumps({"program": "cases"}))
        dist.barrier()
        group.restart()
        told["wrong"] = group.call([torch.arange(60)])[0].tolist()
        dist.barrier()
        plan = {"program": "total", "call_fault": "raise", "rank": group.rank}
        mine = directory / str(group.rank)
        mine.mkdir()
        (mine / PLAN).write_text(json.dumps(plan))
        with TorchrunGroup(mine, entry=ENTRY, allowed=ALLOWED) as failing:
            for _ in range(2):
                try:
                    failing.call([torch.ones(3)])
                except WorkerError as error:
                    told.setdefault("errors", []).append(str(error))
    (directory / f"told{told['rank']}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
