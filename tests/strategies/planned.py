"""Small models planned for ranks of this process, and their programs run in threads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leptonc import meaning
from leptonc.backends.torch_spmd.runtime import RankProgram, rank_program
from leptonc.backends.torch_spmd.units import How
from leptonc.backends.torch_spmd.weights import Index, Stored
from leptonc.capture.frontend import capture
from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.ir.constants import Const
from leptonc.shard.plan import Plan, plan
from leptonc.shard.prepare import prepare
from strategies.ranks import comms, run

DEVICE = Device("d", {"f32": 1e9}, 1e9)
LINK = Link(
    "l", 1e10, dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), 1e-6)
)


def read_payload(const: Const, index: Index) -> Tensor:
    """Return a part of a constant whose bytes are in this process."""
    return meaning.tensor_of(const)[index].clone()


def look_at_payload(const: Const, index: Index) -> Tensor:
    """Return a part of a constant where it lies in this process."""
    return meaning.tensor_of(const)[index]


HERE = Stored(read_payload, look_at_payload, lambda: None)


class Block(nn.Module):
    """A transformer block with heads of keys that queries share, and a convolution before it."""

    def __init__(self, width: int = 24, heads: int = 6, keys: int = 2) -> None:
        super().__init__()
        self.heads, self.keys, self.d = heads, keys, width // heads
        self.table = nn.Embedding(31, width)
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, keys * self.d, bias=False)
        self.v = nn.Linear(width, keys * self.d)
        self.o = nn.Linear(width, width)
        self.up = nn.Linear(width, 37)
        self.down = nn.Linear(37, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Return f32[n,t,w] for ids i64[n,t]."""
        x = self.table(ids)
        h = self.norm(x)
        n, t, _ = h.shape
        q = self.q(h).view(n, t, self.heads, self.d).transpose(1, 2)
        k = self.k(h).view(n, t, self.keys, self.d).transpose(1, 2)
        v = self.v(h).view(n, t, self.keys, self.d).transpose(1, 2)
        a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(n, t, -1))
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Convs(nn.Module):
    """Residual and depthwise convolutions, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.depth = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.point = nn.Conv2d(10, 10, 1)
        self.norm = nn.BatchNorm2d(10)
        self.head = nn.Linear(10 * 4 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Return f32[n,7] for x: f32[n,3,8,8]."""
        x = self.first(x).relu()
        x = (x + self.norm(self.point(self.depth(x)))).relu()
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


def convs() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a small CNN and its input."""
    torch.manual_seed(0)
    return Convs().eval(), (torch.randn(1, 3, 8, 8),)


def block() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a small decoder's block and its input."""
    torch.manual_seed(1)
    return Block().eval(), (torch.randint(0, 31, (2, 5)),)


def planned(
    model: nn.Module,
    x: tuple[Tensor, ...],
    ranks: int,
    objective: str = "memory",
    speeds: Sequence[float] | None = None,
) -> Plan:
    """Return a plan of ``model`` for a made-up cluster."""
    fn = prepare(capture(model, x, {}).function)
    return plan(fn, Cluster("c", DEVICE, ranks, LINK), objective=objective, speeds=speeds)


def run_programs(p: Plan, x: Sequence[Tensor], engine: str) -> list[tuple[Tensor, ...]]:
    """Return what each rank's program returns, run in threads that share memory."""
    members = comms(p.program.world)
    programs: list[RankProgram] = [
        rank_program(p.program, c.rank, c, HERE, How(engine)) for c in members
    ]
    found = run(members, lambda c: programs[c.rank](x))
    for made in found:
        if isinstance(made, Exception):
            raise made
    return found
