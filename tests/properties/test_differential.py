"""The whole compiler on drawn functions: numba_cpu against the interpreter in float64.

A counter-example ends as a ``.lir`` file that runs again by itself, see ``strategies.replay``.
"""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import functions
from strategies.arrays import arrays_for
from strategies.inputs import inputs, strided
from strategies.laws import same_bits
from strategies.models import attentions, cnns, models, recurrents
from strategies.replay import HEAD, Case, kept

from leptonc import meaning
from leptonc.ir.core import Function
from leptonc.ir.kinds import pointwise, reduce, shape, unary
from leptonc.ir.kinds.binary import Add, Mul, Sub
from leptonc.ir.kinds.contract import Linear, Matmul
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.text import constants

pytestmark = pytest.mark.numba
HERE = Path(__file__).parent
# One example is a whole compile: a share of the profile's examples is enough.
FEW = settings(max_examples=max(10, settings.default.max_examples // 3))  # type: ignore[union-attr]

# Continuous ops: where a rounding decides which way a result jumps, no tolerance is right.
CONTINUOUS = (
    Add, Add, Sub, Mul, Mul, unary.Neg, unary.Abs, unary.Relu, unary.Sigmoid, unary.Tanh,
    unary.Silu, pointwise.Gelu, pointwise.LeakyRelu, pointwise.Clamp, pointwise.Elu, reduce.Sum,
    reduce.Mean, reduce.Amax, reduce.Amin, reduce.CumSum, Softmax, Linear, Linear, Matmul, Matmul,
    *(k for k in shape.KINDS if k is not shape.Relayout),
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lir_file" in metafunc.fixturenames:
        given_ = [Path(p) for p in metafunc.config.getoption("--lir") or ()]
        files = given_ or sorted((HERE / "lir").glob("*.lir"))
        metafunc.parametrize("lir_file", files, ids=lambda p: p.stem)


def test_case_file(lir_file: Path) -> None:
    text = lir_file.read_text()
    assert text.startswith(HEAD), f"{lir_file} is no case of strategies.replay"
    Case.parse(text).check()


@FEW
@pytest.mark.parametrize("shaped", [cnns, attentions, recurrents], ids=lambda s: s.__name__)
@given(data=st.data())
def test_networks(shaped, data: st.DataObject) -> None:
    fn = data.draw(shaped())
    pipe = data.draw(st.sampled_from(("O2", "O2", "O3", "O1", "O0")))
    args = data.draw(inputs(fn, special=data.draw(st.booleans())))
    case = Case(fn, args, pipe, data.draw(st.sampled_from((1, 2))))
    with kept(case, f"networks-{shaped.__name__}"):
        case.check()


@FEW
@given(data=st.data())
def test_any_continuous_function(data: st.DataObject) -> None:
    fn = data.draw(functions(max_ops=6, kinds=CONTINUOUS))
    factor = data.draw(st.sampled_from([1.0, 0.37, -1.9]))
    drawn = data.draw(arrays_for(fn, special=False))
    args = tuple(a * factor if a.is_floating_point() else a for a in drawn)
    case = Case(fn, args, data.draw(st.sampled_from(("O2", "O1"))), 1)
    with kept(case, "any-continuous-function"):
        case.check()


@FEW
@given(data=st.data())
def test_files_read_back(data: st.DataObject) -> None:
    fn = data.draw(models())
    case = Case(fn, tuple(data.draw(strided(t)) for t in data.draw(inputs(fn))), "O1", 3)
    again = Case.parse(str(case))
    assert str(again) == str(case)
    assert (again.pipeline, again.threads) == (case.pipeline, case.threads)
    same_bits(case.inputs, again.inputs)
    for a, b in zip(constants(fn).values(), constants(again.fn).values(), strict=True):
        assert a.digest == b.digest


def test_a_wrong_result_ends_in_a_small_file(tmp_path: Path, monkeypatch) -> None:
    """Softmax is off by a thousandth: the counter-example is little more than that op."""
    monkeypatch.chdir(tmp_path)

    def wrong(case: Case) -> tuple[torch.Tensor, ...]:
        results = meaning.run(case.fn, *case.inputs)
        off = any(isinstance(op.kind, Softmax) for op in case.fn.ops)
        return tuple(t + 1e-3 * off if t.is_floating_point() else t for t in results)

    @settings(
        max_examples=400, database=None, derandomize=True, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck), deadline=None,
    )  # fmt: skip
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        fn: Function = data.draw(functions(max_ops=6, kinds=CONTINUOUS))
        case = Case(fn, data.draw(arrays_for(fn, special=False)))
        with kept(case, "wrong"):
            case.check()

    with patch.object(Case, "run", wrong):
        with pytest.raises(AssertionError, match=r"error 0\.001") as caught:
            law()
        (file,) = (tmp_path / ".hypothesis" / "lir").glob("*.lir")
        small = Case.parse(file.read_text())
        assert str(small) in "\n".join(caught.value.__notes__)
        assert [op.kind.NAME for op in small.fn.ops] == ["softmax"]
        with pytest.raises(AssertionError, match=r"error 0\.001"):
            small.check()
    small.check()
