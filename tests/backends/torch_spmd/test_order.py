"""A rank's program stands before its weights are read: who cannot load kernels reads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from strategies.ranks import comms, run
from torch import Tensor, nn

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu import runtime
from leptonc.backends.torch_spmd import store
from leptonc.backends.torch_spmd.weights import Part
from leptonc.ir.types import DType
from leptonc.runtime import weights

pytestmark = pytest.mark.numba
RANKS = 2


class Net(nn.Module):
    """Convolutions, a table that is looked up, linear layers: units of all sorts between ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1)
        self.depth = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point = nn.Conv2d(32, 256, 1)
        self.up = nn.Linear(256, 640)
        self.down = nn.Linear(640, 32)

    def forward(self, x: Tensor) -> Tensor:
        """Return f32[n,32] for x: f32[n,3,8,8]."""
        x = torch.relu(self.point(torch.relu(self.depth(self.conv(x)))))
        return self.down(torch.relu(self.up(x.mean((2, 3)))))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Tensor, Path]:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 8, 8)
    sharding = leptonc.Sharding(objective="memory")
    asked = {"target": f"cpu:{RANKS}", "verify": "off", "sharding": sharding}
    with leptonc.compile(model, (x,), **asked) as net:
        return model, x, net.save(tmp_path_factory.mktemp("order") / "program")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the bytes of each read of a file with weights, from now on."""
    found: list[int] = []
    real = weights._read_at

    def counted(handle, path, out, begin) -> None:
        found.append(len(memoryview(out)))
        real(handle, path, out, begin)

    monkeypatch.setattr(weights, "_read_at", counted)
    return found


def mapped_bytes(directory: Path) -> int:
    """Return how much of the files in ``directory`` is resident in this process."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            counts = words[-1].startswith(str(directory))
        elif counts and words[0] == "Rss:":
            total += int(words[1]) * 1024
    return total


def test_the_program_stands_without_a_byte_of_weights(saved, read) -> None:
    model, x, directory = saved
    members = comms(RANKS)
    programs = [store.stand(directory, c.rank, c) for c in members]
    assert not read and mapped_bytes(directory) == 0
    for made in programs:
        made.fill()
    assert sum(read) >= 0.9 * sum(p.nbytes for p in model.parameters())
    read.clear()
    want = model(x).detach()
    for (got,) in run(members, lambda c: programs[c.rank]([x])):
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    assert not read  # neither do calls read what loading has


@pytest.mark.parametrize("unit", [0, -1])
def test_a_rank_without_its_kernels_fails_before_it_reads(saved, read, monkeypatch, unit) -> None:
    _, _, directory = saved
    real, seen = runtime.compile_all, []
    count = len(vars(_only(store.stand(directory, 0, comms(RANKS)[0]).bindings).units))

    def broken(kernels) -> None:
        seen.append(1)
        if len(seen) == (unit % count) + 1:
            raise OSError("no machine code")
        real(kernels)

    monkeypatch.setattr(runtime, "compile_all", broken)
    with pytest.raises(OSError, match="no machine code"):
        store.load(directory, 0, comms(RANKS)[0])
    assert not read and mapped_bytes(directory) == 0


def test_a_rank_that_failed_while_it_read_can_go_on(saved, monkeypatch) -> None:
    model, x, directory = saved
    members = comms(RANKS)
    programs = [store.stand(directory, c.rank, c) for c in members]
    real, left = weights._read_at, [3]

    def failing(*where) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError("a bad block")
        real(*where)

    monkeypatch.setattr(weights, "_read_at", failing)
    with pytest.raises(OSError, match="a bad block"):
        programs[0].fill()
    for made in programs:
        made.fill()
    want = model(x).detach()
    for (got,) in run(members, lambda c: programs[c.rank]([x])):
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())


def _only(table):
    (found,) = table.values()
    return found


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.C64, DType.I64, DType.BOOL])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3)])
def test_a_part_of_which_another_rank_has_all_is_zeros(dtype: DType, shape) -> None:
    whole = meaning.const_of(torch.ones(shape, dtype=meaning.TORCH_DTYPES[dtype]))
    zeros = Part(whole, ()).read(lambda *_: pytest.fail("nothing is to be read"))
    assert meaning.type_of(zeros) == whole.type and not zeros.any()
