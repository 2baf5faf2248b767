"""Products of one row: panels one after another give the bits that single tiles give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu.kernels import igemm_plan, pack
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.igemm_record import IGemm, Res
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from tests.backends.numba_cpu.harness import some_cuts

pytestmark = pytest.mark.numba

CLAMPS = {Act.NONE: (-np.inf, np.inf), Act.RELU: (0.0, np.inf), Act.CLAMP: (-0.5, 0.25)}


def launch(call: IGemm, nt: int, **arrays: np.ndarray | None) -> None:
    """Run ``call`` on ``nt`` threads, one after another."""
    arrays["scratch"] = np.zeros(nt * call.scratch_bytes, np.uint8)
    bound = {k: 0 if a is None else a.ctypes.data for k, a in arrays.items()}
    igemm.run_all(replace(call, **bound).record(), nt, some_cuts(nt, call.columns))


@given(
    n=st.integers(1, 5 * PANEL), k=st.integers(0, 70), nt=st.integers(1, 7), bias=st.booleans(),
    res=st.booleans(), act=st.sampled_from(list(CLAMPS)), seed=st.integers(0, 99),
)  # fmt: skip
def test_panels_in_a_row_are_the_tiles_one_by_one(n, k, nt, bias, res, act, seed):
    rng = np.random.default_rng(seed)
    # Behind A there are odd values: who reads too far shows.
    a = np.concatenate([rng.normal(size=k), np.full(16, np.nan)]).astype(np.float32)
    w, b, r = (rng.normal(size=s).astype(np.float32) for s in ((n, k), n, n))
    out, want = np.full(n + 1, 7, np.float32), np.empty(n, np.float32)
    low, high = CLAMPS[act]
    base = igemm_plan.linear(1, k, n)
    given = {"a": a, "b": pack.pack_linear(w), "bias": b if bias else None}
    call = replace(base, act=act, act_p0=low, act_p1=high)
    launch(call, nt, **given, res=r if res else None, out=out)
    # A residual that comes behind an activation is added by what finishes single tiles.
    late = replace(base, res_mode=Res.AFTER)
    launch(late, 1, **given, res=r if res else np.zeros(n, np.float32), out=want)
    np.testing.assert_array_equal(out[:n], np.clip(want, low, high))
    assert out[n] == 7


def test_a_record_of_two_rows_of_taps_is_no_plain_row():
    k, n = 9, PANEL + 3
    rng = np.random.default_rng(0)
    image, w = rng.normal(size=(2, k)).astype(np.float32), rng.normal(size=(n, 2 * k))
    table = np.array([[0, 0, 0], [0, 0, 1]], np.int64)
    out = np.empty(n, np.float32)
    call = replace(igemm_plan.linear(1, k, n), taps=2, in_w=2, tap_block=2)
    scratch = np.zeros(1 << 16, np.uint8)
    packed = pack.pack_linear(w.astype(np.float32))
    call = replace(
        call, a=image.ctypes.data, b=packed.ctypes.data, out=out.ctypes.data,
        tap_table=table.ctypes.data, scratch=scratch.ctypes.data, scratch_bytes=scratch.nbytes,
    )  # fmt: skip
    igemm.run_all(call.record(), 1)
    exact = image.reshape(-1).astype(np.float64) @ w.T
    np.testing.assert_allclose(out, exact, rtol=0, atol=3e-7 * np.abs(exact).max() * 6)
