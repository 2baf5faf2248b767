"""The kernels that measure the machine do the work they are paid for."""

from __future__ import annotations

import re

import numpy as np
import pytest

from leptonc.backends.numba_cpu import peak
from leptonc.backends.numba_cpu.kernels.base import record
from leptonc.backends.numba_cpu.kernels.machine_code import host_features
from leptonc.backends.numba_cpu.kernels.vectype import LANES

pytestmark = pytest.mark.numba


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_every_chain_takes_every_turn(turns):
    sums = np.zeros((2, LANES), np.float32)
    peak.multiply_adds.run_all(record(turns, sums), 2)
    # x -> x / 2 + 1 moves x halfway to 2.
    exact = sum(2 + (n - 2) * 0.5**turns for n in peak.STARTS)
    np.testing.assert_array_equal(sums, exact)


@pytest.mark.skipif(
    not {"+fma", "+neon"} & host_features(), reason="sums are no single instruction"
)
def test_no_chain_is_left_out_of_the_machine_code():
    code = peak.multiply_adds.assembly()
    sums = len(re.findall(r"^\s*v?fm(?:add|la)", code, re.MULTILINE))
    assert sums > 0
    assert sums % peak.CHAINS == 0


@pytest.mark.parametrize("nt", [1, 2, 3])
def test_the_whole_array_is_read(nt):
    groups = 7
    data = np.random.default_rng(0).integers(-100, 100, groups * 8 * LANES).astype(np.float32)
    sums = np.zeros((nt, LANES), np.float32)
    peak.read_all.run_all(record(data, groups, sums), nt)
    np.testing.assert_array_equal(sums.sum(0), data.reshape(-1, LANES).sum(0))


def test_figures_are_measured_once():
    assert peak.gflops(2) == peak.gflops(2) > 0
    assert peak.gbytes(2) == peak.gbytes(2) > 0
