"""What loading takes in ranks: the peak beside the shard, and how machine code is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.bench import rank_memory

NOISE = 256 << 10  # bytes to which the system knows a peak: it counts in batches, core by core
BLOCK = 8 << 16  # bytes of transformed weights that are made at once

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
        assert shard <= rank.kept + NOISE
        assert rank.reading <= 1.1 * shard


class Convs(nn.Module):
    """Two convolutions whose weights Winograd makes larger."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(256, 256, 3, padding=1)
        self.b = nn.Conv2d(256, 256, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return f32[n,256,16,16] for x: f32[n,256,16,16]."""
        return self.b(torch.relu(self.a(x)))


@pytest.mark.numba
def test_transformed_weights_are_made_little_by_little(tmp_path: Path) -> None:
    asked = {"target": "cpu:2", "verify": "off"}
    with leptonc.compile(Convs().eval(), (torch.randn(1, 256, 16, 16),), **asked) as net:
        shard = max(net.stats["weights"])
        place = net.save(tmp_path / "program")
    rank_memory.measured(place, 2)
    for rank in rank_memory.measured(place, 2):
        assert rank.kept > 1.5 * shard  # they are transformed
        # a block of float64 before and after it is rounded, and a few of its outputs
        assert rank.reading <= rank.kept + 3 * BLOCK + NOISE
