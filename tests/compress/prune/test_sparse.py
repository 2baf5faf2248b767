"""Single weights set to zero: as many as asked, the smallest, in the pattern asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import leptonc
from leptonc.compress import CompressError, Compressed
from leptonc.compress.prune import masks

X = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(16, 32, 3), nn.ConvTranspose2d(32, 24, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.up(self.conv(x).relu()).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


WEIGHTS = ("conv.weight", "up.weight", "fc.weight")


def _weights(module: nn.Module) -> dict[str, Tensor]:
    held = dict(module.named_parameters())
    return {n: held[n].detach() for n in WEIGHTS}


def _pruned(**options: Any) -> Compressed:
    return leptonc.compress(net(), X, leptonc.Prune(**options))


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_smallest_go_and_exactly_as_many_as_asked(scope: str) -> None:
    small, before = _weights(_pruned(sparsity=0.8, scope=scope)), _weights(net())
    total, zeros = sum(w.numel() for w in before.values()), 0
    largest, least = [], []
    for name, w in small.items():
        gone = w == 0
        zeros += int(gone.sum())
        assert torch.equal(w[~gone], before[name][~gone])
        largest.append(float(before[name][gone].abs().max()))
        least.append(float(before[name][~gone].abs().min()))
        if scope == "local":
            assert int(gone.sum()) == round(0.8 * w.numel()) and largest[-1] <= least[-1]
    assert zeros == pytest.approx(0.8 * total, abs=1.5)
    if scope == "global":
        assert max(largest) <= min(least)


def test_below_a_threshold() -> None:
    small, before = _weights(_pruned(threshold=0.02)), _weights(net())
    for name, w in small.items():
        assert torch.equal(w == 0, before[name].abs() < 0.02)


def test_two_of_four_inputs_stay() -> None:
    small, before = _weights(_pruned(pattern="2:4")), _weights(net())
    runs = {
        "conv.weight": lambda w: w.permute(0, 2, 3, 1).reshape(-1, 4),
        "up.weight": lambda w: w.permute(1, 2, 3, 0).reshape(-1, 4),
        "fc.weight": lambda w: w.reshape(-1, 4),
    }
    for name, run in runs.items():
        kept, all_ = run(small[name]).abs(), run(before[name]).abs()
        assert torch.equal((kept != 0).sum(1), torch.full((len(kept),), 2))
        assert torch.equal(kept.sum(1), all_.sort(1).values[:, 2:].sum(1))


@pytest.mark.parametrize("rows", [8, 16])
def test_whole_blocks_of_outputs(rows: int) -> None:
    made = _pruned(pattern=f"{rows}x1", sparsity=0.75, skip=["up"] if rows == 16 else [])
    w = dict(made.named_parameters())["conv.weight"].detach()
    zero = (w.reshape(32 // rows, rows, -1) == 0).float().mean(1)
    assert set(zero.unique().tolist()) == {0.0, 1.0} and float(zero.mean()) == 0.75
    assert [r.what for r in made.remarks] == ["fc.weight"]  # 10 outputs
    assert "does not divide [10, 24]" in made.remarks[0].reason


@given(data=st.data())
def test_masks_have_their_shape_whatever_the_weight(data: st.DataObject) -> None:
    sizes = data.draw(st.sampled_from(((8, 4), (8, 4, 3), (16, 8, 1, 3), (4, 8, 3, 3))))
    outputs = data.draw(st.integers(0, 1))
    w = torch.randn(sizes, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    rows = masks.matrix(w, outputs)
    assert rows.shape[0] == sizes[outputs]
    assert torch.equal(masks.unmatrix(rows, w, outputs), w)
    pattern = masks.parse(data.draw(st.sampled_from(("1:2", "2:4", "3:4", "4x1", "2x1", None))))
    if not masks.fits(w, pattern, outputs):
        return
    worth = masks.worth(w, pattern, outputs)
    kept = masks.n_of_m(worth, pattern) if pattern.of else masks.smallest(worth, worth.numel() // 2)
    mask = masks.spread(kept, w, pattern, outputs)
    assert mask.shape == w.shape
    share = pattern.keep / pattern.of if pattern.of else 1 - worth.numel() // 2 / worth.numel()
    assert float(mask.double().mean()) == share


def test_steps_are_undone_and_the_result_compiles() -> None:
    small = _pruned(sparsity=0.5)
    assert [e.where for e in small.ledger] == ["conv", "up", "fc"]
    other = _weights(small.ledger.undo(1))
    assert torch.equal(other["up.weight"], _weights(net())["up.weight"])
    assert torch.equal(other["fc.weight"], _weights(small)["fc.weight"])
    with torch.no_grad():
        torch.testing.assert_close(leptonc.compile(small, X, cache=False)(X), small(X))


def test_channels_then_weights() -> None:
    recipes = (leptonc.Prune(0.5), leptonc.Prune(sparsity=0.5))
    small = leptonc.compress(net(), X, *recipes)
    for w in _weights(small).values():
        assert int((w == 0).sum()) == round(0.5 * w.numel())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "sparsity": ({"sparsity": 1.5}, "between 0 and 1"),
    "threshold": ({"threshold": -1.0}, "above 0"),
    "threshold below all": ({"threshold": 1e-12}, "nothing is below; the smallest is"),
    "pattern": ({"pattern": "4:2"}, "N:M with 0 < N < M"),
    "block": ({"pattern": "8x8"}, "rows x 1"),
    "block without how much": ({"pattern": "8x1"}, "needs sparsity="),
    "too much said": ({"pattern": "2:4", "sparsity": 0.5}, "leave sparsity and threshold out"),
    "both": ({"sparsity": 0.5, "threshold": 0.1}, "give one"),
    "fits none": ({"pattern": "3:7"}, "fits none of the 3 weights"),
    "name": ({"sparsity": 0.5, "skip": ["cnv"]}, "did you mean 'conv'"),
    "all skipped": ({"sparsity": 0.5, "skip": ["*"]}, "skip leaves no weight"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_asks_are_errors(name: str) -> None:
    options, message = BAD[name]
    with pytest.raises(CompressError, match=message):
        _pruned(**options)


def test_what_is_sparse_already_is_an_error() -> None:
    with pytest.raises(CompressError, match="as sparse as that already"):
        leptonc.compress(net(), X, leptonc.Prune(sparsity=0.5), leptonc.Prune(sparsity=0.4))
