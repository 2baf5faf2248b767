"""Look-ups of so many elements that threads share the rows, which no thread count divides."""

from __future__ import annotations

import torch

from leptonc.ir.kinds import data as d
from tests.backends.numba_cpu.harness import check_op


def test_rows_of_a_large_embedding_are_all_looked_up() -> None:
    w = torch.randn(11, 37)
    check_op(d.Embedding(), w, torch.randint(0, 11, (301,)), rtol=0, atol=0, threads=(1, 2, 3, 7))


def test_rows_of_a_large_index_select_are_all_looked_up() -> None:
    x = torch.randn(5, 11, 37)
    index = torch.randint(0, 11, (61,))
    check_op(d.IndexSelect(1), x, index, rtol=0, atol=0, threads=(1, 2, 3, 7))
