"""finetune: reproducible, resumable, keeps its best; learns from labels and from a teacher."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leptonc
from leptonc.capture.frontend import capture
from leptonc.compress import checkpoint
from leptonc.compress.losses import label_loss, soft_loss, split_batch
from leptonc.compress.raised import raise_
from leptonc.compress.recipe import CompressError


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = _normal(64, 8)
Y = (X[:, 0] > 0).long() + 2 * (X[:, 1] > 0).long()
CHECK = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)]
DATA = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)


def _net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4)).eval()


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("raised", [False, True])
def test_it_learns_and_is_reproducible_to_the_bit(raised: bool) -> None:
    nets = [_net(), _net()]
    nets = [raise_(capture(n, X[:16])) for n in nets] if raised else nets
    reports = [leptonc.finetune(n, DATA, epochs=8, lr=0.02, validate=CHECK) for n in nets]
    assert _same(*nets)
    assert reports[0].losses == reports[1].losses
    assert reports[0].losses[-1] < reports[0].losses[0] / 2
    assert reports[0].metrics[reports[0].best] == max(reports[0].metrics)
    assert not any(m.training for m in nets[0].modules())


def test_another_seed_gives_other_weights() -> None:
    a, b = _net(), _net()
    leptonc.finetune(a, DATA)
    leptonc.finetune(b, DATA, seed=1)
    assert not _same(a, b)


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    leptonc.finetune(_net(), DATA)  # _net seeds, too: so it is made before
    torch.manual_seed(7)
    net = _net()
    torch.manual_seed(7)
    leptonc.finetune(net, DATA)
    assert torch.equal(torch.rand(3), wanted)


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    whole, parts = _net(), _net()
    once = leptonc.finetune(whole, DATA, epochs=4, validate=[(X, Y)])

    class Stop(Exception):
        pass

    seen = []

    def count() -> None:
        seen.append(0)
        if len(seen) == 10:  # in the middle of the third epoch of four batches
            raise Stop

    with pytest.raises(Stop):
        leptonc.finetune(
            parts, DATA, epochs=4, validate=[(X, Y)], checkpoint=path, on_step=count
        )  # fmt: skip
    again = leptonc.finetune(parts, DATA, epochs=4, validate=[(X, Y)], checkpoint=path)
    assert again.resumed == 2
    assert again.losses == once.losses
    assert _same(whole, parts)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    leptonc.finetune(_net(), DATA, checkpoint=path)
    with pytest.raises(CompressError, match="another model"):
        leptonc.finetune(nn.Linear(8, 4), DATA, checkpoint=path)
    leptonc.finetune(nn.Linear(8, 4), DATA, checkpoint=path, resume=False)
    path.write_bytes(b"no safetensors")
    with pytest.raises(CompressError, match="cannot be read"):
        leptonc.finetune(_net(), DATA, checkpoint=path)


def test_it_stops_early_with_the_best_weights() -> None:
    metrics = iter([0.5, 0.9, 0.8, 0.7, 0.95])
    kept = []

    def validate(module: nn.Module) -> float:
        kept.append(copy.deepcopy(module.state_dict()))
        return next(metrics)

    net = _net()
    report = leptonc.finetune(net, DATA, epochs=5, validate=validate, patience=2)
    assert (report.best, report.stopped, len(report.losses)) == (1, True, 4)
    assert all(torch.equal(v, kept[1][k]) for k, v in net.state_dict().items())
    assert "<- kept" in str(report)


def test_a_student_learns_from_its_teacher_without_labels() -> None:
    teacher = _net()
    leptonc.finetune(teacher, DATA, epochs=10, lr=0.02)
    torch.manual_seed(11)
    student = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    before = copy.deepcopy(teacher.state_dict())
    report = leptonc.finetune(student, [X], teacher, epochs=60, lr=0.02)
    assert report.losses[-1] < report.losses[0] / 4
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("raised", [False, True])
def test_hidden_values_become_alike(raised: bool) -> None:
    teacher, student = _net(), nn.Sequential(*(copy.deepcopy(m) for m in _net()))
    with torch.no_grad():
        student[0].weight.add_(_normal(16, 8) * 0.3)
    teacher_of = raise_(capture(teacher, X)) if raised else teacher
    student = raise_(capture(student.eval(), X)) if raised else student.eval()

    def distance() -> float:
        seen = [n.state_dict()["0.weight"] for n in (student, teacher_of)]
        return float((seen[0] - seen[1]).norm())

    before = distance()
    leptonc.finetune(student, [X], teacher_of, hidden=[("0", "0")], epochs=60, lr=0.01, beta=10)
    assert distance() < before / 2


def test_schedules_of_masks_hold_through_training() -> None:
    net = _net()
    masks = leptonc.PruneSchedule(net, sparsity=0.5, steps=12)
    report = leptonc.finetune(net, DATA, epochs=6, validate=[(X, Y)], on_step=masks.step)
    assert report.best >= 2  # before step 12 the sparsity is not reached
    assert float((net[0].weight == 0).float().mean()) == pytest.approx(0.5, abs=1 / 128)


def test_masks_are_resumed_too(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    nets = [_net(), _net()]
    whole = leptonc.PruneSchedule(nets[0], sparsity=0.5, steps=12, every=3)
    leptonc.finetune(nets[0], DATA, epochs=4, on_step=whole.step, patience=None)
    for epochs in (2, 4):
        part = leptonc.PruneSchedule(nets[1], sparsity=0.5, steps=12, every=3)
        leptonc.finetune(nets[1], DATA, epochs=epochs, on_step=part.step, checkpoint=path)
    assert _same(*nets)


def test_distill_is_a_step_of_the_ledger() -> None:
    net = _net()
    leptonc.finetune(net, DATA, epochs=10, lr=0.02)
    steps = (leptonc.LowRank(ratio=0.5, round_to=1), leptonc.Distill(epochs=40, lr=0.01))
    small = leptonc.compress(net, X, *steps, data=[X])
    assert small.ledger[-1].recipe == "Distill"
    assert small.ledger[-1].error < small.ledger[-2].error
    undone = small.ledger.undo(len(small.ledger) - 1)
    again = leptonc.compress(net, X, steps[0], data=[X])
    assert torch.equal(undone(X), again(X))


def test_amp_on_the_cpu_computes_in_bfloat16() -> None:
    seen = []
    net = _net()
    net[1].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    leptonc.finetune(net, DATA, amp=True)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype is torch.float32 for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"data": []}, "empty"),
        ({"data": [X]}, "no label"),
        ({"epochs": 0}, "epochs"),
        ({"patience": 1}, "validate"),
        ({"hidden": [("0", "0")]}, "teacher"),
        ({"schedule": "sawtooth"}, "cosine"),
        ({"data": [(X * math.nan, Y)]}, "loss is nan"),
        ({"data": iter([(X, Y)]), "epochs": 2}, "read again"),
        ({"data": [(X, Y[:3])]}, "do not fit"),
        ({"teacher": _net(), "hidden": [("0", "zero")]}, "did you mean"),
        ({"teacher": _net(), "hidden": [("0", "3")]}, "channels were not pruned"),
    ],
)
def test_wrong_arguments_say_what_to_do(options: dict, text: str) -> None:
    with pytest.raises(CompressError, match=text):
        leptonc.finetune(_net(), options.pop("data", DATA), **options)


def test_a_frozen_student_is_refused() -> None:
    with pytest.raises(CompressError, match="requires a gradient"):
        leptonc.finetune(_net().requires_grad_(False), DATA)


@given(st.integers(2, 6), st.floats(0.5, 10), st.integers(0, 99))
def test_soft_loss_is_a_divergence(classes: int, temperature: float, seed: int) -> None:
    a, b = _normal(5, classes, seed=seed), _normal(5, classes, seed=seed + 1)
    assert float(soft_loss(a, a, temperature)) == 0
    wide = [t.double() / temperature for t in (a, b)]
    p, q = (t.softmax(1) for t in wide)
    wanted = temperature**2 * float((q * (q / p).log()).sum() / 5)
    found = float(soft_loss(a.double(), b.double(), temperature))
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_losses_by_the_label() -> None:
    assert float(label_loss(torch.zeros(2, 4), torch.tensor([0, 3]))) == pytest.approx(math.log(4))
    assert float(label_loss(torch.zeros(2, 4), torch.ones(2, 4))) == 1


def test_batches_are_taken_apart() -> None:
    assert split_batch((X, Y), True) == ((X,), {}, Y)
    assert split_batch(((X, X), Y), True) == ((X, X), {}, Y)
    assert split_batch({"x": X, "label": Y}, True) == ((), {"x": X}, Y)
    assert split_batch(X, False) == ((X,), {}, None)


_leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.floats(
    allow_nan=False
)  # fmt: skip
_trees = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(tree=_trees)
def test_a_checkpoint_gives_back_what_was_saved(tmp_path_factory, tree) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    checkpoint.save(path, {"tree": tree, "tensor": X, "scalar": torch.tensor(3)})
    found = checkpoint.load(path)
    assert found["tree"] == tree and type(found["tree"]) is type(tree)
    assert torch.equal(found["tensor"], X) and found["scalar"].shape == ()
