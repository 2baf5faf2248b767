"""What kernels are written in means what it means in Python, and brings nothing along."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numba.core import types

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.operands import NOTHING
from leptonc.backends.numba_cpu.kernels.statements import ModuleWriter
from leptonc.backends.numba_cpu.kernels.vec import argf, ldd, ldi64, std, sti64

pytestmark = pytest.mark.numba

SIZES = (1, 4, 6, 8)
SMALL = st.integers(-(2**31), 2**31)
FEATURES = 12


@inline_njit
def _both(a, b):
    return a // b, a % b


@inline_njit
def _steps(n):
    total = 0
    for i in range(n, 0, -3):
        total = 2 * total + i
    for i, size in enumerate(SIZES[1:]):
        total += i * size
    return total


def words(a, b, n, x):
    """Return what the language makes of integers and a float, as integers of 64 bits."""
    quotient, rest = _both.py_func(a, b)
    return [
        quotient, rest, min(a, b), max(a, b), abs(a), int(a in SIZES), int(bool(a) and a != b),
        _steps.py_func(n), math.floor(x), int(x), (a << 3) ^ (b >> 1) | ~a, -a & b,
    ]  # fmt: skip


@kernel
def language(args, tid, nt):
    """Write what :func:`words` returns."""
    a, b, n, x = ldi64(args, 0), ldi64(args, 1), ldi64(args, 2), argf(args, 3)
    out = ldi64(args, 4)
    quotient, rest = _both(a, b)
    sti64(out, 0, quotient)
    sti64(out, 1, rest)
    sti64(out, 2, min(a, b))
    sti64(out, 3, max(a, b))
    sti64(out, 4, abs(a))
    sti64(out, 5, 1 if a in SIZES else 0)
    sti64(out, 6, 1 if bool(a) and a != b else 0)
    sti64(out, 7, _steps(n))
    sti64(out, 8, math.floor(x))
    sti64(out, 9, int(x))
    sti64(out, 10, (a << 3) ^ (b >> 1) | ~a)
    sti64(out, 11, -a & b)


@kernel
def product(args, tid, nt):
    """Write what is left of a square when it is subtracted, rounded."""
    std(ldi64(args, 1), 0, ldd(args, 2) * ldd(args, 2) - ldd(args, 3))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTONC_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


@given(
    SMALL | st.sampled_from(SIZES), SMALL.filter(bool), st.integers(-5, 40), st.floats(-1e9, 1e9)
)
def test_numbers_tuples_and_loops_mean_what_they_mean_in_python(a, b, n, x) -> None:
    out = np.zeros(FEATURES, np.int64)
    record = np.array([a, b, n, 0, out.ctypes.data], np.int64)
    record[3:4] = np.array([x]).view(np.int64)
    language(record)
    assert out.tolist() == words(a, b, n, x)


def test_a_product_and_a_sum_of_floats_are_rounded_each() -> None:
    x = 1.0 + 2.0**-30  # its square takes more bits than a float64 has
    out = np.zeros(1)
    record = np.array([0, out.ctypes.data, 0, 0], np.int64)
    record[2:] = np.array([x, x * x]).view(np.int64)
    product(record)
    assert out[0] == 0.0


def test_compiling_a_kernel_imports_no_arrays_strings_or_other_packages() -> None:
    code = """
        import sys
        from leptonc.backends.numba_cpu.kernels import lines, norm
        before = set(sys.modules)
        lines.lines._object(), norm.norm_rows._object()
        print(*sorted(m for m in set(sys.modules) - before))
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = done.stdout.split()
    assert "numba.cpython.numbers" in new
    packages = {name.partition(".")[0] for name in new}
    assert packages <= {"numba", "leptonc"}
    foreign = ("numba.np", "numba.typed", "numba.core.interpreter", "numba.core.typeinfer")
    assert not [n for n in new if n.startswith(foreign)]


@inline_njit
def _scaled(x, by):
    return x * by


@kernel
def several(args, tid, nt):
    total = 0
    for by in (3, 5):
        total += _scaled(total + 1, by)
    std(args, 0, 1.0 * (_scaled(total, 2) + _scaled(ldi64(args, 1), 7)))


def test_a_helper_is_written_once_whatever_constants_it_is_called_with() -> None:
    args = np.array([0, 11], np.int64)
    several(args)
    assert args.view(np.float64)[0] == 2 * (3 + 4 * 5) + 7 * 11
    module = ir.Module()
    ModuleWriter(module).kernel(several.fn, "several", [types.int64] * 3, NOTHING)
    assert [f.name for f in module.functions if f.blocks] == ["several", "_scaled"]
