"""What bisect says where nothing is wrong, where nothing can be told, and where a metric judges."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.lower import conv
from leptonc.errors import LeptoncError
from leptonc.passes import recognize

from .nets import cnn, transformer
from .test_seeded_faults import IMAGE, TOKENS, break_epilogue, break_rule, compiled, run_test_file

pytestmark = pytest.mark.numba


class Copy(nn.Module):
    """Two outputs that any way of computing gives the same bits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.transpose(0, 1) * 2, x.argmax(1)


def test_the_same_bits() -> None:
    x = torch.randn(5, 7)
    model = Copy().eval()
    verdict = compiled(model, x).bisect(x)
    assert verdict.found == "same" and not verdict.guilty
    assert "nothing differs" in str(verdict)


def test_a_difference_within_the_tolerance() -> None:
    model = cnn()
    verdict = compiled(model, IMAGE).bisect(IMAGE)
    assert verdict.found in ("same", "within") and not verdict.guilty
    assert "nothing" in str(verdict)
    with pytest.raises(LeptoncError, match="nothing to test"):
        verdict.write("nowhere.py")


def test_a_difference_that_only_the_reference_can_excuse() -> None:
    """Sums that cancel: far from eager relative to the result, and yet nobody's fault."""

    class Cancel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4096, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + 0.0

    torch.manual_seed(0)
    model = Cancel().eval()
    half = torch.randn(1, 2048) * 1e4
    with torch.no_grad():
        model.fc.weight[:, 2048:] = -model.fc.weight[:, :2048]
    x = torch.cat((half, half + 1e-3), 1)
    verdict = compiled(model, x).bisect(x)
    assert verdict.found in ("same", "within")


def test_a_random_model() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    x, model = torch.zeros(3, 4), Noisy().eval()
    verdict = compiled(model, x).bisect(x)
    assert verdict.found == "random" and not verdict.guilty
    assert "random" in str(verdict) and "test_honest_answers.py:" in str(verdict)


def test_a_model_that_is_gone() -> None:
    model = cnn()
    net = compiled(model, IMAGE)
    del model
    gc.collect()
    with pytest.raises(LeptoncError, match="Keep the model"):
        net.bisect(IMAGE)


def test_a_capture_that_differs() -> None:
    """A model that answers otherwise than it was captured: no pass or unit is to blame."""

    class Switch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (2.0 if torch.compiler.is_exporting() else 3.0)

    model = Switch().eval()
    x = torch.randn(4, 4)
    verdict = compiled(model, x).bisect(x)
    assert verdict.found == "capture" and verdict.guilty


def test_arguments_by_name_and_several_outputs() -> None:
    x, model = torch.randn(5, 7), Copy().eval()
    net = leptonc.compile(model, {"x": x}, verify="off", cache=False)
    assert net.bisect({"x": x}).found == "same"


# ----- a metric -----------------------------------------------------------------------------------


def test_a_metric_that_drops_names_the_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = transformer()
    want = model(TOKENS).detach()

    def score(logits: Tensor) -> float:
        return -float((logits - want).abs().max())

    with monkeypatch.context() as patch:
        break_rule(patch)
        verdict = compiled(model, TOKENS).bisect(TOKENS, score, 1e-3)
        assert (verdict.pass_, verdict.rule) == ("recognize", "softmax")
        assert "metric" in verdict.symptom
        with pytest.raises(AssertionError):
            run_test_file(verdict, tmp_path)
    run_test_file(verdict, tmp_path)


def test_a_metric_that_drops_names_the_unit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = cnn()
    want = model(IMAGE).detach()

    def near(p: Tensor) -> float:
        return -float((p - want).abs().max())

    real = conv.finish

    def wrong(ctx, op, epilogue, out, order):  # in the second block alone
        made = real(ctx, op, epilogue, out, order)
        hit = "blocks.1" in op.origin.module and made.mode is Res.BEFORE and made.res is not None
        return dataclasses.replace(made, mode=Res.AFTER) if hit else made

    with monkeypatch.context() as patch:
        patch.setattr(conv, "finish", wrong)
        net = compiled(model, IMAGE)
        assert net.bisect(IMAGE, near, 10.0).found == "within"  # so much is allowed
        verdict = net.bisect(IMAGE, near, 1e-4)
        assert verdict.found == "unit" and verdict.unit.startswith("blocks.1.conv2")
        with pytest.raises(AssertionError):
            run_test_file(verdict, tmp_path)
    run_test_file(verdict, tmp_path)


def test_a_metric_finer_than_every_tolerance() -> None:
    """Rounding alone lowers the metric: bisect says so and writes no test."""
    model = cnn()
    want = model(IMAGE)

    def same_bits(p: Tensor) -> float:
        return float((p == want).double().mean())

    verdict = compiled(model, IMAGE).bisect(IMAGE, same_bits, 0.0)
    if verdict.guilty:
        assert not verdict.test
        assert "tolerance" in verdict.why or "afresh" in verdict.why


# ----- a unit that the compile itself sent through torch ------------------------------------------


def test_a_unit_that_retreated_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnn()
    with monkeypatch.context() as patch:
        break_epilogue(patch)
        net = leptonc.compile(model, IMAGE, verify="unit", cache=False, threads=1)
        torch.testing.assert_close(net(IMAGE), model(IMAGE))
        verdict = net.bisect(IMAGE)
    assert verdict.found == "unit" and "through torch" in verdict.symptom
    assert verdict.unit.startswith("blocks.0.conv2") and verdict.test


def test_no_fault_is_left_behind() -> None:
    assert recognize.RULES and conv.finish.__module__.endswith("epilogue")
