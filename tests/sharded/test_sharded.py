"""``leptonc.compile(target="cpu:2")`` from the outside: results, errors, saving, what is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from strategies.planned import Block, block, convs
from torch import nn

import leptonc
from leptonc.errors import ClaimError, InputError, PlanError, TargetError, WorkerError
from leptonc.sharded import ShardedModel

pytestmark = pytest.mark.numba
FAST = leptonc.Sharding(objective="memory", engine="torch")


def close(got: torch.Tensor, want: torch.Tensor) -> bool:
    return float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())


@pytest.fixture(scope="module")
def model() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return block()


@pytest.fixture(scope="module")
def net(model):
    made, x = model
    with leptonc.compile(made, x, target="cpu:2", sharding=FAST) as net:
        yield net


def test_the_result_is_the_model_s(net: ShardedModel, model) -> None:
    made, x = model
    assert isinstance(net, ShardedModel) and len(net.group.pids) == 2
    for _ in range(3):
        other = (torch.randint(0, 31, x[0].shape),)
        assert close(net(*other), made(*other).detach())


def test_it_says_what_it_is(net: ShardedModel) -> None:
    assert "cpu:2: 2 processes of this machine" in repr(net)
    text = net.report()
    for words in ("predicted", "terms", "a rank", "weight", "rejected", "units run by torch"):
        assert words in text
    assert "rank 0 of 2" in net.source and "rank 1 of 2" in net.source_of(1)
    assert "comm.all" in net.source
    assert any(op.kind.NAME.startswith("all_") for op in net.ir.ops)
    assert sum(net.stats["weights"]) < 1.2 * net.plan.alone.weights
    with pytest.raises(InputError, match="no rank 2 of 2"):
        net.source_of(2)


def test_wrong_arguments_leave_the_ranks_alone(net: ShardedModel, model) -> None:
    made, x = model
    with pytest.raises(InputError, match="ids: expected dtype"):
        net(x[0].float())
    with pytest.raises(InputError, match="size of 7"):
        net(torch.zeros(2, 7, dtype=torch.int64))
    with pytest.raises(InputError):
        net()
    assert close(net(*x), made(*x).detach())


def test_an_index_out_of_range_is_told(model) -> None:
    made, x = model
    with leptonc.compile(made, x, target="cpu:2", sharding=FAST) as net:
        with pytest.raises(WorkerError, match="IndexError") as found:
            net(torch.full_like(x[0], 31))
        assert found.value.__cause__ is not None
        net.restart()
        assert close(net(*x), made(*x).detach())


def test_saved_and_loaded(net: ShardedModel, model, tmp_path: Path) -> None:
    _, x = model
    want = net(*x)
    net.save(tmp_path / "net")
    with leptonc.load(tmp_path / "net") as again:
        assert isinstance(again, ShardedModel)
        assert torch.equal(again(*x), want)
        assert again.source == net.source
        with pytest.raises(InputError, match="was loaded"):
            _ = again.plan


def test_a_killed_rank_is_an_error_and_restart_helps(model) -> None:
    made, x = model
    with leptonc.compile(made, x, target="cpu:2", sharding=FAST) as net:
        pids = net.group.pids
        os.kill(pids[1], signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(WorkerError, match="rank 1"):
            net(*x)
        assert time.monotonic() - start < 1
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        with pytest.raises(WorkerError, match="restart"):
            net(*x)
        net.restart()
        assert close(net(*x), made(*x).detach())
    with pytest.raises(WorkerError, match="closed"):
        net(*x)


@pytest.mark.parametrize("ranks", [3, 4])
def test_native_units_on_uneven_ranks(ranks: int) -> None:
    made, x = convs()
    sharding = leptonc.Sharding(objective="memory")
    with leptonc.compile(made, x, target=f"cpu:{ranks}", sharding=sharding) as net:
        assert close(net(*x), made(*x).detach())
        assert "native" in net.report()


def test_gloo_gives_the_same() -> None:
    made, x = convs()
    sharding = leptonc.Sharding(objective="memory", engine="torch", backend="gloo")
    shared = leptonc.Sharding(objective="memory", engine="torch")
    with leptonc.compile(made, x, target="cpu:2", sharding=sharding) as net:
        got = net(*x)
    with leptonc.compile(made, x, target="cpu:2", sharding=shared) as net:
        assert torch.equal(net(*x), got)


def test_structures_and_keywords_are_the_model_s() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 12)

        def forward(self, x, scale=None):
            y = self.a(x)
            return {"y": y * scale["s"], "again": [x, y.sum(-1)]}

    made = Two().eval()
    inputs = {"x": torch.randn(4, 8), "scale": {"s": torch.ones(1)}}
    with leptonc.compile(made, inputs, target="cpu:2", sharding=FAST) as net:
        got, want = net(**inputs), made(**inputs)
        assert list(got) == ["y", "again"] and got["again"][0] is inputs["x"]
        assert close(got["y"], want["y"].detach())
        assert close(got["again"][1], want["again"][1].detach())


def test_dynamic_sizes() -> None:
    made = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6)).eval()
    dims = {"input": {0: leptonc.Dim("n", min=2, max=9)}}
    x = torch.randn(4, 12)
    with leptonc.compile(made, x, target="cpu:2", dynamic=dims, sharding=FAST) as net:
        for n in (4, 2, 9):
            x = torch.randn(n, 12)
            assert close(net(x), made(x).detach())
        with pytest.raises(InputError, match="n = 10"):
            net(torch.randn(10, 12))


def test_hints_are_kept() -> None:
    made = Block().eval()
    x = torch.randint(0, 31, (1, 4))
    hints = {"up": leptonc.Shard(0), "q": leptonc.Replicate()}
    sharding = leptonc.Sharding(hints=hints)
    text = leptonc.plan(made, x, "cpu:2", sharding=sharding).explain(full=True)
    assert "up.weight: f32[37,24], cut along axis 0" in text
    assert "q.weight: f32[24,24], whole on every rank" in text


def test_two_models_at_once(model) -> None:
    made, x = model
    with (
        leptonc.compile(made, x, target="cpu:2", sharding=FAST) as a,
        leptonc.compile(made, x, target="cpu:2", sharding=FAST) as b,
    ):
        assert torch.equal(a(*x), b(*x))


# ----- refusals, within a second and with nothing started ---------------------------------------


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


X = torch.ones(4, 4)
LINEAR = nn.Linear(4, 4).eval()


@pytest.mark.parametrize(
    ("error", "words", "made", "options"),
    [
        (TargetError, "4 CUDA devices, one rank each", LINEAR, {"target": "cuda:4"}),
        (TargetError, "unknown target", LINEAR, {"target": "tpu:2"}),
        (TargetError, "pins one device", LINEAR, {"target": "cpu:2", "device": 1}),
        (ClaimError, "not deterministic", Noise().eval(), {"target": "cpu:2"}),
        (
            PlanError,
            "matches no weight; there are, for example: weight",
            LINEAR,
            {"target": "cpu:2", "sharding": leptonc.Sharding(hints={"w": leptonc.Shard(0)})},
        ),
        (
            PlanError,
            "4 units, fewer than 5 ranks",
            LINEAR,
            {"target": "cpu:5", "sharding": leptonc.Sharding(hints={"*weight": leptonc.Shard(0)})},
        ),
        (
            PlanError,
            "speeds must be 2 numbers",
            LINEAR,
            {"target": "cpu:2", "sharding": leptonc.Sharding(speeds=(1.0,))},
        ),
        (
            PlanError,
            "use more devices, or compress",
            LINEAR,
            {"target": "cpu:2", "sharding": leptonc.Sharding(memory=10)},
        ),
        (
            PlanError,
            "unknown objective",
            LINEAR,
            {"target": "cpu:2", "sharding": leptonc.Sharding(objective="fun")},
        ),
        (TargetError, "goes with several devices", LINEAR, {"sharding": FAST}),
    ],
)
def test_refusals(error, words: str, made: nn.Module, options: dict) -> None:
    leptonc.plan(LINEAR, X, "cpu:2")  # what is measured once a process is measured
    leptonc.plan(LINEAR, X, "cpu:5")
    start = time.monotonic()
    with pytest.raises(error, match=words):
        leptonc.compile(made, X, **options)
    assert time.monotonic() - start < 1


def test_example_inputs_are_needed() -> None:
    with pytest.raises(InputError, match="example_inputs are needed"):
        leptonc.compile(LINEAR, target="cpu:2")


def test_weights_elsewhere_are_refused() -> None:
    away = nn.Linear(4, 4, device="meta").eval()
    with pytest.raises(InputError, match=r"weight is on meta.*model.cpu\(\)"):
        leptonc.compile(away, X, target="cpu:2")


@pytest.mark.parametrize("words", ["launcher", "engine"])
def test_unknown_words_of_sharding(words: str) -> None:
    with pytest.raises(TargetError, match=f"unknown {words} 'x'; there are"):
        leptonc.Sharding(**{words: "x"})


def test_a_model_without_a_number_is_not_sharded() -> None:
    assert not isinstance(leptonc.compile(LINEAR, X), ShardedModel)


def test_verify_unit_runs_in_lock_step_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from leptonc import sharded_build

    asked = []
    real = sharded_build.run_ranks
    monkeypatch.setattr(sharded_build, "run_ranks", lambda *a: asked.append(1) or real(*a))
    with leptonc.compile(LINEAR, X, target="cpu:2", verify="unit", sharding=FAST) as net:
        assert close(net(X), LINEAR(X).detach())
    assert asked


def test_a_wrong_plan_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from leptonc.errors import CheckError
    from leptonc.meaning import const_of, tensor_of
    from leptonc.shard import lower

    def spoilt(self, op, p, real=lower._Lowering._constant):
        if op.result.type.rank == 2:
            kind = type(op.kind)(const_of(tensor_of(op.kind.const) + 1))
            op = type(op)(kind, op.operands, op.results, op.origin)
        real(self, op, p)

    monkeypatch.setattr(lower._Lowering, "_constant", spoilt)
    with pytest.raises(CheckError, match="the division itself is wrong"):
        leptonc.compile(LINEAR, X, target="cpu:2", sharding=FAST)
