"""Random programs with constants that several ops read, and small nets that are awkward to cut."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from leptonc.ir.core import Builder, Function, Value
from leptonc.ir.kinds.binary import Add, Mul, Sub
from leptonc.ir.kinds.contract import Linear, Matmul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.unary import Neg, Relu
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of

SIDE = 4
TYPE = TensorType(DType.F32, (SIDE, SIDE))


@st.composite
def dags(draw: st.DrawFn, max_ops: int = 14) -> Function:
    """Draw a function of small whole numbers in f32[4,4]: inputs, constants and results shared.

    All its ops are alive.
    """
    b = Builder("drawn")
    pool: list[Value] = [b.param(TYPE, f"p{i}") for i in range(draw(st.integers(1, 3)))]
    count = draw(st.integers(1, 4))
    equal = draw(st.booleans())  # parameters of their own, by chance of one content
    weights = [
        b(Constant(const_of(_whole(1 if equal else 7 * i + 1))), hint=f"w{i}") for i in range(count)
    ]
    if draw(st.booleans()):
        pool.append(b(Full(TYPE.shape, 2.0, DType.F32)))
    for _ in range(draw(st.integers(1, max_ops))):
        x = draw(st.sampled_from(pool))
        kind = draw(st.sampled_from([Relu(), Neg(), Add(), Sub(), Mul(), Matmul(), Linear()]))
        if isinstance(kind, Linear):
            pool.append(b(kind, x, draw(st.sampled_from(weights))))
        elif isinstance(kind, (Relu, Neg)):
            pool.append(b(kind, x))
        else:
            pool.append(b(kind, x, draw(st.sampled_from([*pool, *weights]))))
    read = {v for op in b.ops for v in op.operands}
    ends = [v for v in pool if v not in read]
    more = draw(st.lists(st.sampled_from([*pool, *weights]), max_size=2))
    return b.finish(*dict.fromkeys([*ends, *more]))


def _whole(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (SIDE, SIDE), generator=generator).float()


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Residual(nn.Module):
    """A stem, three blocks, and a connection from the stem to the head over all of them."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.blocks = nn.Sequential(Block(c), Block(c), Block(c))
        self.head = nn.Linear(2 * c, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.stem(x))
        b = self.blocks(a)
        return self.head(torch.cat([b.mean((2, 3)), a.mean((2, 3))], 1))


class Tied(nn.Module):
    """Token embeddings that are the output matrix, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in "abc"])
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(ids)))


class Several(nn.Module):
    """Several inputs, some used late; results of several parts, an input, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(
        self, x: Tensor, pair: tuple[Tensor, Tensor], *, scale: Tensor
    ) -> dict[str, object]:
        late, other = pair
        first = torch.relu(self.a(x))
        second = torch.sigmoid(self.b(first + other))
        third = torch.tanh(self.c(second * scale + late))
        return {"mid": [first, (second,)], "out": third, "same": x, "number": 3}


def seeded(make: type[nn.Module], *args: int) -> nn.Module:
    """Return a net with the same weights at every call, statistics of batch norms drawn, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = make(*args).eval().requires_grad_(False)
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                nn.init.normal_(buffer, std=0.1)
            if name.endswith("running_var"):
                nn.init.uniform_(buffer, 0.5, 1.5)
        return net


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return normal floats, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
