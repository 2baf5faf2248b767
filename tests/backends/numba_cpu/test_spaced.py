"""Gaps between the rows of a wide hidden layer: where they are made, and that results hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leptonc
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.igemm_plan import WHOLE_DEPTH, large_blocks, linear
from leptonc.backends.numba_cpu.kernels.igemm_record import LINE, OUT_X, SET_BYTES
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS
from leptonc.backends.numba_cpu.schedule import Step

pytestmark = pytest.mark.numba
PAGE = SET_BYTES // 4  # floats


class Twice(nn.Module):
    """Two readers of the hidden layer, one of them no product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, PAGE), nn.Linear(PAGE, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        return self.second(hidden) + hidden.softmax(-1).sum(-1, keepdim=True)


def block(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(24, hidden), nn.GELU(), nn.Linear(hidden, 24))


def out_steps(module: nn.Module, x: torch.Tensor, threads: int = 1) -> list[int]:
    """Return the row strides that products write, after comparing the results with float64."""
    module = module.eval()
    compiled = leptonc.compile(module, (x,), threads=threads)
    with torch.no_grad():
        got, exact = compiled(x), module.double()(x.double())
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-5)
    steps = compiled._program().schedule.steps
    slots = [s.slots[OUT_X] for s in steps if isinstance(s, Step) and s.kernel is igemm]
    return [s for s in slots if isinstance(s, int)]


@pytest.mark.parametrize("shape", [(5, 24), (2, 17, 24), (8, 3, 24)])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_a_page_apart_get_a_gap(shape, threads):
    assert out_steps(block(PAGE), torch.randn(shape), threads)[0] == PAGE + LINE // 4


@pytest.mark.parametrize("hidden", [PAGE - 16, PAGE + 16])
def test_other_rows_lie_dense(hidden):
    assert out_steps(block(hidden), torch.randn(5, 24))[0] == hidden


def test_a_result_lies_dense():
    assert out_steps(nn.Linear(24, PAGE), torch.randn(5, 24)) == [PAGE]


def test_what_others_read_lies_dense():
    assert out_steps(Twice(), torch.randn(5, 24))[0] == PAGE


@pytest.mark.parametrize("rows", [1, 128, 197, 384, 5000])
@pytest.mark.parametrize("depth", [1, 768, 3080, WHOLE_DEPTH - 8])
def test_large_blocks_cover_the_depth_at_once(rows, depth):
    call = large_blocks(linear(rows, depth, 64))
    assert call.depth_block == depth
    assert call.row_block % ROWS == 0
    assert call.row_block * -(-rows // call.row_block) < rows + call.row_block


@pytest.mark.parametrize("depth", [WHOLE_DEPTH + 8, PAGE, 0])
def test_long_and_copied_rows_keep_their_blocks(depth):
    call = linear(128, depth, 64)
    if depth:
        assert large_blocks(call) == call
    else:
        assert large_blocks(call).depth_block == 1
