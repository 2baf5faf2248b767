"""Products in three bfloat16 parts against float64: all bits, geometry, endings, threads."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import igemm_plan, machine_code, pack
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.amx import AMX
from leptonc.backends.numba_cpu.kernels.bf16x3 import bf16x3
from leptonc.backends.numba_cpu.kernels.bf16x3_plan import (
    ENOUGH_BLOCKS,
    MOST_BLOCKS,
    MOST_STEPS,
    blocked,
    cycles,
    error_bound,
)
from leptonc.backends.numba_cpu.kernels.bf16x3_tile import BLOCK_ROWS, STEP
from leptonc.backends.numba_cpu.kernels.igemm_record import IGemm, Res
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.lower import questions
from leptonc.backends.numba_cpu.lower.choices import contenders
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm, ConvShape, held_bytes
from leptonc.ir.core import Builder
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import choose, some_cuts

pytestmark = [
    pytest.mark.numba,
    pytest.mark.skipif(not AMX, reason="the processor has no tile registers"),
]

THREADS = 3
CANARY = 0x5A


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def launch(call: IGemm, nt: int = 1, **arrays: np.ndarray | None) -> None:
    """Run a blocked ``call`` on ``nt`` threads, one after another; scratch must not overflow."""
    size = nt * call.scratch_bytes
    scratch = pack.aligned_empty((size // 4 + 64,)).view(np.uint8)
    scratch[:] = CANARY
    arrays["scratch"] = scratch
    addresses = {n: 0 if a is None else a.ctypes.data for n, a in arrays.items()}
    bf16x3.run_all(replace(call, **addresses).record(), nt, some_cuts(nt, call.columns))
    assert (scratch[size:] == CANARY).all()


def product(a: np.ndarray, b: np.ndarray, nt: int = 1, **fields) -> np.ndarray:
    """Return ``a @ b`` by the kernel."""
    out = np.full((len(a), b.shape[1]), np.nan, np.float32)
    call = replace(igemm_plan.linear(*a.shape, b.shape[1]), **fields)
    launch(blocked(call), nt, a=a, b=pack.pack_linear(np.ascontiguousarray(b.T)), out=out)
    return out


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ b.astype(np.float64)


@given(st.data())
def test_linear_is_within_its_bound_and_equal_on_all_threads(data):
    blocks = st.sampled_from([0, 1, 3, ENOUGH_BLOCKS - 1, ENOUGH_BLOCKS + 1])
    m = BLOCK_ROWS * data.draw(blocks, "blocks") + data.draw(st.integers(1, BLOCK_ROWS), "rows")
    k = data.draw(st.integers(1, 3 * STEP), "depth")
    n = data.draw(st.integers(1, 4 * PANEL), "columns")
    scale = 10.0 ** data.draw(st.integers(-12, 12), "scale")
    a, b = draw(m, k) * np.float32(scale), draw(k, n, seed=1)
    out = product(a, b)
    assert (np.abs(out - exact(a, b)) <= error_bound(a, b)).all()
    assert (product(a, b, THREADS) == out).all()


@pytest.mark.parametrize("k", [MOST_STEPS * STEP + 1, 3000])
def test_sums_go_on_from_block_to_block_of_the_depth(k):
    a, b = draw(2 * BLOCK_ROWS + 5, k), draw(k, 3 * PANEL + 1, seed=1)
    out = product(a, b)
    assert (np.abs(out - exact(a, b)) <= error_bound(a, b)).all()
    assert (product(a, b, 2) == out).all()


@pytest.mark.parametrize("panels", [2, 12])
def test_more_rows_than_a_block_takes(panels):
    m, k = (MOST_BLOCKS + 2) * BLOCK_ROWS + 1, 12 * STEP
    a, b = draw(m, k), draw(k, panels * PANEL - 3, seed=1)
    in_turn = blocked(igemm_plan.linear(m, k, b.shape[1])).row_block == BLOCK_ROWS
    assert in_turn == (panels == 2)
    assert (np.abs(product(a, b) - exact(a, b)) <= error_bound(a, b)).all()


def test_whole_numbers_of_all_24_bits_are_exact():
    random = np.random.default_rng(0)
    wide = random.integers(2**23, 2**24, (40, 1)).astype(np.float32)
    a = np.zeros((40, STEP), np.float32)
    a[:, 7:8] = wide
    b = np.zeros((STEP, PANEL), np.float32)
    b[7] = 2.0 ** np.arange(PANEL)
    assert (product(a, b) == wide * b[7]).all()  # of A
    assert (product(b.T.copy(), a.T.copy()) == b[7][:, None] * wide.T).all()  # of B


def test_errors_are_those_of_float32():
    a, b = draw(96, 512), draw(512, 96, seed=1)
    ours, plain = product(a, b) - exact(a, b), a @ b - exact(a, b)
    assert np.square(ours).mean() <= 2 * np.square(plain).mean()


@pytest.mark.parametrize("act", [Act.NONE, Act.RELU, Act.RELU6, Act.GELU, Act.SQUARE])
@pytest.mark.parametrize("mode", [None, *Res])
@pytest.mark.parametrize(("m", "k"), [(103, STEP - 3), (103, 8 * STEP), (290, 3 * STEP)])
def test_endings(act, mode, m, k):
    n = 2 * PANEL + 9
    a, b, bias, res = draw(m, k), draw(k, n, seed=1), draw(n, seed=2), draw(m, n, seed=3)
    out = np.full((m, n + 2), 7, np.float32)
    call = replace(igemm_plan.linear(m, k, n, out_row=n + 2), act=act, res_mode=mode or 0)
    arrays = {"a": a, "b": pack.pack_linear(np.ascontiguousarray(b.T)), "bias": bias, "out": out}
    launch(blocked(call), 2, **arrays, res=None if mode is None else res)
    sums = torch.from_numpy(exact(a, b) + bias)
    extra = torch.from_numpy(res.astype(np.float64))
    sums = sums + extra if mode is Res.BEFORE else sums
    done = {
        Act.NONE: lambda x: x, Act.RELU: F.relu, Act.RELU6: F.relu6, Act.GELU: F.gelu,
        Act.SQUARE: torch.square,
    }[act](sums)  # fmt: skip
    done = done + extra if mode is Res.AFTER else done * extra if mode is Res.TIMES else done
    bound = error_bound(a, b) + 2.0**-22 * (np.abs(sums.numpy()) + np.abs(res) + np.abs(bias))
    slope = {Act.SQUARE: 2 * np.abs(sums.numpy()) + 1}.get(act, 1.2)
    grown = np.abs(res) if mode is Res.TIMES else 1.0
    small = 2.0**-21 * np.abs(done.numpy())
    assert (np.abs(out[:, :n] - done.numpy()) <= bound * slope * grown + small + 1e-6).all()
    assert (out[:, n:] == 7).all()


@given(st.data())
def test_conv(data):
    batch, groups = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 1, 2]))
    channels, columns = (groups * data.draw(st.integers(1, 40)) for _ in range(2))
    size = [data.draw(st.integers(3, 20)) for _ in range(2)]
    kernel = [data.draw(st.integers(1, 3)) for _ in range(2)]
    stride, pad = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 1))
    x = torch.from_numpy(draw(batch, channels, *size))
    w = torch.from_numpy(draw(columns, channels // groups, *kernel, seed=1))
    wanted = F.conv2d(x.double(), w.double(), None, stride, pad, 1, groups)
    sizes = F.conv2d(x.double().abs(), w.double().abs(), None, stride, pad, 1, groups)
    plan = igemm_plan.conv(
        batch, channels, size, columns, kernel, stride=[stride] * 2, padding=[(pad, pad)] * 2,
        dilation=[1, 1], groups=groups,
    )  # fmt: skip
    out = np.full((*wanted.movedim(1, -1).shape,), np.nan, np.float32)
    launch(
        blocked(plan.call), 2, a=np.ascontiguousarray(x.movedim(1, -1).numpy()),
        b=pack.pack_conv(w.numpy(), groups), out=out, tap_table=plan.tap_table,
        zero_row=np.zeros(max(plan.zero_floats, 1), np.float32),
    )  # fmt: skip
    terms = w[0].numel()
    relative = error_bound(np.ones((1, terms), np.float32), np.ones((terms, 1), np.float32)) / terms
    error = np.abs(out - wanted.movedim(1, -1).numpy())
    assert (error <= relative * sizes.movedim(1, -1).numpy() + 1e-30).all()


def test_what_is_not_finite_stays_in_its_row():
    a, b = draw(BLOCK_ROWS + 3, STEP + 5), draw(STEP + 5, PANEL, seed=1)
    clean = product(a, b)
    a[2, 3], a[5, STEP + 1], a[BLOCK_ROWS, 0] = np.nan, np.inf, -np.inf
    out, spoilt = product(a, b), [2, 5, BLOCK_ROWS]
    assert not np.isfinite(out[spoilt]).any()
    others = np.setdiff1d(np.arange(len(a)), spoilt)
    assert (out[others] == clean[others]).all()


def test_largest_and_smallest_numbers():
    a = np.array([[3e38], [1e-30], [-0.0], [1e-42]], np.float32)
    b = np.array([[1.0, 1e-8, 0.0]], np.float32)
    assert (np.abs(product(a, b) - exact(a, b)) <= error_bound(a, b)).all()


@pytest.mark.parametrize("flag", ["amx-tile", "amx-bf16"])
def test_without_the_permission_of_the_system_there_are_none(flag, monkeypatch):
    assert f"+{flag}" in machine_code.host_features()
    monkeypatch.setattr(machine_code, "permitted", lambda: False)
    found = machine_code.host_features.__wrapped__()
    assert f"+{flag}" not in found
    assert f"-{flag}" in found
    assert len(found) == len(machine_code.host_features())


def test_they_can_be_left_out(monkeypatch):
    monkeypatch.setenv("LEPTONC_TILES", "0")
    found = machine_code.host_features.__wrapped__()
    assert not {f for f in found if f.startswith("+amx")}


def test_fewer_lanes_have_none(monkeypatch):
    monkeypatch.setattr(machine_code, "lanes", lambda: 8)
    assert not {f for f in machine_code.target_features().split(",") if f.startswith("+amx")}


# --- who chooses it ------------------------------------------------------------------------------


def ways(rows: int, k: int, n: int, precision: str = "fp32") -> list[str]:
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (rows, k)), "x")
    fn = b.finish(b(Linear(), x, b(Constant(meaning.const_of(torch.randn(n, k))))))
    return [c for q in questions.asked(fn, precision, questions.FAR) for c in q.ranked]


def test_who_is_asked():
    assert ways(128, 768, 3072) == [questions.BF16X3, questions.PLAIN]
    assert not ways(128, 768, 3072, "strict")
    assert not ways(16, 768, 3072)
    assert not ways(128, 16, 3072)


def pointwise(channels: int, columns: int, groups: int = 1) -> ConvShape:
    side, ones, none = (14, 14), (1, 1), (0, 0)
    return ConvShape(1, channels, side, columns, ones, ones, none, ones, groups, side)


def test_convolutions_choose_it():
    wide = pointwise(512, 512)
    assert choose(wide, "fp32") is Algorithm.BF16X3
    assert choose(wide, "strict") is Algorithm.IGEMM
    assert choose(pointwise(512, 512, 4), "fp32") is Algorithm.IGEMM
    assert choose(pointwise(3, 512), "fp32") is Algorithm.IGEMM
    assert held_bytes(wide, Algorithm.BF16X3) == held_bytes(wide, Algorithm.IGEMM)


@pytest.mark.parametrize("channels", [256, 4096])
def test_vectors_are_always_timed_beside_it(channels):
    q = questions.conv(pointwise(channels, 512), "fp32", questions.FAR)
    assert contenders(q) == ["bf16x3", "igemm"]


class Wide(nn.Module):
    """A pointwise convolution, a linear layer and a product of what is computed, all wide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(256, 512, 1), nn.Linear(512, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(F.relu(self.conv(x)).flatten(2).mT)
        return y @ y.mT.contiguous()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_takes_it_and_is_right(threads):
    torch.manual_seed(0)
    net, x = Wide().eval(), torch.randn(1, 256, 14, 14)
    made = leptonc.compile(net, x, threads=threads, cache=False, tune=False)
    with torch.no_grad():
        want = copy.deepcopy(net).double()(x.double())
    assert float((made(x).double() - want).abs().max() / want.abs().max()) <= 3e-6
    used = [u.algorithm for u in made.profile(x).units]
    assert sum("bf16x3" in u for u in used) == 3
    strict = leptonc.compile(net, x, threads=1, cache=False, precision="strict")
    assert not any("bf16x3" in u.algorithm for u in strict.profile(x).units)


def test_estimates_grow_with_each_size():
    sizes = (200, 9, 64, 96)
    for i in range(len(sizes)):
        larger = tuple(4 * n if i == j else n for j, n in enumerate(sizes))
        assert cycles(*larger) > 2 * cycles(*sizes)
