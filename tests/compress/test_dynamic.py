"""``compress(dynamic=...)``: what was compressed serves every batch, compiled and not."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

import leptonc
from leptonc import LowRank, Prune, Quantize
from leptonc.compress import Compressed
from leptonc.compress.quantize import measured

BATCH = {"x": {0: Dim("batch", min=1, max=64)}}
FEW = settings(max_examples=6, deadline=None)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 32, 3)
        self.fc = nn.Linear(32, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.deep(torch.relu(self.norm(self.conv(x)))))
        return self.head(torch.relu(self.fc(x.mean((2, 3)))))


def batch(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


RECIPES = {
    "prune": (Prune(0.5),), "sparse": (Prune(sparsity=0.5),), "static": (Quantize(),),
    "rows": (Quantize(scheme="dynamic"),), "w4": (Quantize(weights=4, activations=None),),
    "gptq": (Quantize(weights=4, method="gptq"),), "low rank": (LowRank(0.5),),
    "all": (Prune(0.5), LowRank(0.5), Quantize()),
}  # fmt: skip


@functools.cache
def small(name: str, dynamic: bool) -> Compressed:
    torch.manual_seed(0)
    data = [batch(4, 1), batch(7 if dynamic else 4, 2)]
    return leptonc.compress.compress(
        Net().eval(), batch(4), *RECIPES[name], data=data, dynamic=BATCH if dynamic else None
    )


@pytest.mark.parametrize("name", sorted(RECIPES))
@FEW
@given(n=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_batch_is_what_its_rows_are(name: str, n: int, seed: int) -> None:
    """Rows do not look at one another: a batch gives what its rows give one by one."""
    module, x = small(name, True), batch(n, seed)
    with torch.no_grad():
        together = module(x)
        alone = torch.cat([module(row[None]) for row in x])
    # sums of another order may move a value over the edge between two codes of 255 (or 15)
    bound = 1e-5 if name in ("prune", "sparse", "w4", "low rank") else 2 / 255
    assert float((together - alone).abs().max()) <= bound * float(together.abs().max())


@pytest.mark.parametrize("name", ["prune", "w4", "low rank"])
def test_steps_are_those_of_a_fixed_batch(name: str) -> None:
    """Nothing in these recipes depends on how many rows there are."""
    changing, fixed = small(name, True), small(name, False)
    assert [(e.where, e.what) for e in changing.ledger] == [(e.where, e.what) for e in fixed.ledger]
    assert [e.estimated_ms_after for e in changing.ledger] == pytest.approx(
        [e.estimated_ms_after for e in fixed.ledger]
    )
    less = changing.ledger.undo(0)
    assert len(less.ledger) == len(changing.ledger) - 1
    assert less(batch(9)).shape == (9, 10)


@pytest.mark.numba
@pytest.mark.parametrize("name", ["all", "rows"])
@pytest.mark.parametrize("asked", [False, True])
def test_it_compiles_for_every_batch(name: str, asked: bool) -> None:
    module = small(name, True)
    net = leptonc.compile(module, batch(4), dynamic=BATCH if asked else None, cache=False)
    assert net.stats["ops_torch"] == 0
    for n in (1, 4, 9):
        with torch.no_grad():
            want = module(batch(n, 3))
        assert float((net(batch(n, 3)) - want).abs().max()) <= 2 / 255 * float(want.abs().max())


def test_a_fixed_module_is_not_taken_for_a_dynamic_one() -> None:
    def known(module: Compressed, dynamic: object) -> object:
        return module.__leptonc_captured__((batch(4),), {}, dynamic)

    assert known(small("w4", False), None) is not None
    assert known(small("w4", False), BATCH) is None
    assert known(small("w4", False), "auto") is None
    assert known(small("w4", True), BATCH) is not None
    assert known(small("w4", True), "auto") is not None
    assert known(small("w4", True), {"x": {0: Dim("batch"), 2: Dim("height")}}) is None
    assert known(small("w4", True), {"y": {0: Dim("batch")}}) is None


@pytest.mark.numba
def test_units_are_timed_at_the_size_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, real = list[object](), measured.timings

    def timings(fns):
        timed.extend(fn.params[0].type.shape[0] for fn in fns)
        return real(fns, 0.0)

    monkeypatch.setattr(measured, "timings", timings)
    torch.manual_seed(0)
    recipe = Quantize(forms=("w8", "w4"), only="fc")
    made = leptonc.compress.compress(Net().eval(), batch(4), recipe, dynamic=BATCH)
    assert timed == [4, 4] and len(made.ledger.choices) == 1
