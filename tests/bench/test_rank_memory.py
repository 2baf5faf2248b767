"""What loading takes in ranks: the peak beside the shard, and how machine code is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.bench import rank_memory

MAPS = """\
7f00-7f10 r-xp 00000000 00:00 0
Size:                 64 kB
Rss:                  48 kB
7f10-7f20 r-xp 00000000 08:01 99    /usr/lib/libm.so
Rss:                 100 kB
7f20-7f30 rw-p 00000000 00:00 0
Rss:                 500 kB
7f30-7f40 r-xp 00000000 00:00 0
Rss:                   8 kB
"""


def test_only_code_that_no_file_holds_is_counted() -> None:
    assert rank_memory.code_bytes(MAPS.splitlines()) == 56 << 10


class Tied(nn.Module):
    """A table of 48 MiB that is looked up and multiplied by, a linear layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(49152, 256)
        self.mix = nn.Linear(256, 256)

    def forward(self, ids: Tensor) -> Tensor:
        """Return f32[n,49152] for ids i64[n]."""
        return self.mix(self.table(ids)) @ self.table.weight.T


@pytest.mark.numba
def test_ranks_load_in_little_more_than_their_shard(tmp_path: Path) -> None:
    sharding = leptonc.Sharding(objective="memory")
    asked = {"target": "cpu:2", "verify": "off", "sharding": sharding}
    with leptonc.compile(Tied().eval(), (torch.tensor([1, 2]),), **asked) as net:
        shard = max(net.stats["weights"])
        place = net.save(tmp_path / "program")
    rank_memory.measured(place, 2)  # kernels are in the cache now
    for rank in rank_memory.measured(place, 2):
        assert shard < rank.private + rank.mapped
        assert rank.code <= rank.private
        # Libraries' pages stay mapped whatever is loaded.
        assert rank.strict - rank.mapped <= 1.2 * shard
