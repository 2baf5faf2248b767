"""Faults planted in a rule, a pass and a lowering are found from the wrong result alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import leptonc
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.lower import conv, norm
from leptonc.bisect import Verdict
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.kinds.reduce import Amax
from leptonc.passes import fold_batchnorm, recognize

from .nets import cnn, transformer

pytestmark = pytest.mark.numba
IMAGE = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
TOKENS = torch.arange(12).reshape(2, 6) * 4


def compiled(model: torch.nn.Module, x: torch.Tensor) -> leptonc.CompiledModel:
    return leptonc.compile(model, x, verify="off", cache=False, threads=1)


def run_test_file(verdict: Verdict, folder: Path) -> None:
    """Run the emitted test as pytest would; raises what it raises."""
    path = verdict.write(folder / "test_found.py")
    space: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    (test,) = (f for name, f in space.items() if name.startswith("test_"))
    test()


def source_line(text: str) -> str:
    """Return ``nets.py:N`` of the line of the nets that holds ``text``."""
    lines = (Path(__file__).parent / "nets.py").read_text().splitlines()
    (at,) = (i for i, line in enumerate(lines, 1) if text in line)
    return f"nets.py:{at}"


# ----- a rule -------------------------------------------------------------------------------------


def wrong_softmax(m: Any, b: Any) -> Any:
    axis = m.kind("max", Amax).axes[0]
    return b(Softmax(axis - 1), m["x"])


def break_rule(patch: pytest.MonkeyPatch) -> None:
    rules = tuple(
        dataclasses.replace(r, rhs=wrong_softmax) if r.name == "softmax" else r
        for r in recognize.RULES
    )
    patch.setattr(recognize, "RULES", rules)


def test_a_rule_with_a_wrong_axis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = transformer()
    with monkeypatch.context() as patch:
        break_rule(patch)
        verdict = compiled(model, TOKENS).bisect(TOKENS)
        assert verdict.found == "pass" and verdict.guilty
        assert verdict.pass_ == "recognize"
        assert verdict.rule == "softmax"
        assert verdict.application == (1, verdict.application[1])
        assert source_line("p = e / e.sum") in verdict.origin.source
        assert "layers.0" in verdict.origin.module
        assert verdict.error > verdict.tolerance > 0
        assert verdict.ops[0] <= 6 < verdict.ops[1]
        with pytest.raises(AssertionError):
            run_test_file(verdict, tmp_path)
    run_test_file(verdict, tmp_path)
    text = str(verdict)
    assert "softmax" in text and "nets.py:" in text and "func @" in text


# ----- a pass -------------------------------------------------------------------------------------


def test_a_fold_that_drops_eps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, real = cnn(), fold_batchnorm.affine_of
    with monkeypatch.context() as patch:
        patch.setattr(
            fold_batchnorm, "affine_of",
            lambda kind, consts: real(dataclasses.replace(kind, eps=0.0), consts),
        )  # fmt: skip
        verdict = compiled(model, IMAGE).bisect(IMAGE)
        assert (verdict.found, verdict.pass_) == ("pass", "fold-batchnorm")
        assert verdict.application == (1, 7)
        assert "batch_norm" in verdict.op and "stem.1" in verdict.origin.module
        assert source_line("y = self.blocks(self.stem(x))") in verdict.origin.source
        assert verdict.ops[0] <= 2
        with pytest.raises(AssertionError):
            run_test_file(verdict, tmp_path)
    run_test_file(verdict, tmp_path)


# ----- a lowering ---------------------------------------------------------------------------------


def break_epilogue(patch: pytest.MonkeyPatch) -> None:
    """Add the residual after the activation instead of before."""
    real = conv.finish

    def wrong(*args: Any) -> Any:
        made = real(*args)
        return dataclasses.replace(made, mode=Res.AFTER) if made.mode is Res.BEFORE else made

    patch.setattr(conv, "finish", wrong)


def break_tail(patch: pytest.MonkeyPatch) -> None:
    """Leave out the last element of rows that no vector of four fills."""
    real = norm.softmax_view

    def wrong(ctx: Any, x: Any, out: Any, axis: int, log: bool = False) -> None:
        n = x.shape[axis] - (x.shape[axis] % 4 != 0)
        real(ctx, x.slice(axis, 0, n), out.slice(axis, 0, n), axis, log)

    patch.setattr(norm, "softmax_view", wrong)


@pytest.mark.parametrize(
    ("fault", "unit", "module", "line"),
    [
        (break_epilogue, "contract", "blocks.0", "self.bn2(self.conv2(y)) + x"),
        (break_tail, "softmax", "", "torch.softmax(self.head(y), -1)"),
    ],
)
def test_a_unit_that_is_lowered_wrong(
    fault: Callable[[pytest.MonkeyPatch], None], unit: str, module: str, line: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    model = cnn()
    with monkeypatch.context() as patch:
        fault(patch)
        verdict = compiled(model, IMAGE).bisect(IMAGE)
        assert verdict.found == "unit", verdict
        assert unit in verdict.unit
        assert module in verdict.origin.module
        assert source_line(line) in verdict.origin.source
        with pytest.raises(AssertionError):
            run_test_file(verdict, tmp_path)
    run_test_file(verdict, tmp_path)
    assert verdict.ops[0] <= 4
