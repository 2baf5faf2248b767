"""Texts of kinds: each computes the bits that the kind's meaning does."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st
from strategies import applications, arrays
from strategies.kinds import COVERED

from leptonc.backends.torch_spmd.vocabulary import TEXTS, number, numbers, text_of
from leptonc.ir.core import Kind
from leptonc.ir.kinds import binary, collective, data, pointwise, shape
from leptonc.ir.types import DType
from leptonc.meaning import apply

# what torch ends the process for, when integers are divided by zero, or by minus one
DIVISIONS = (binary.FloorDiv, binary.TruncDiv, binary.Remainder, binary.Fmod)
WITH_TEXT = [k for k in COVERED if k in TEXTS]


def run(text: str, operands: list[torch.Tensor]) -> torch.Tensor:
    names = {f"x{i}": t for i, t in enumerate(operands)}
    return eval(text, {"torch": torch, "F": functional, "device": "cpu", **names})


@given(st.data())
@pytest.mark.parametrize("cls", WITH_TEXT, ids=lambda k: k.NAME)
@pytest.mark.filterwarnings("ignore")
def test_a_text_is_the_meaning(cls: type[Kind], data: st.DataObject) -> None:
    kind, types = data.draw(applications(cls))
    operands = [data.draw(arrays(t)) for t in types]
    if cls in DIVISIONS and not types[0].dtype.is_float:
        operands[1] = torch.full_like(operands[1], 3)
    text = text_of(kind, [f"x{i}" for i in range(len(operands))], types)
    if text is None:
        return
    try:
        want = apply(kind, *operands)
    except (RuntimeError, IndexError, ZeroDivisionError):
        return  # an index out of range, a division of integers by zero
    got = run(text, operands)
    assert got.dtype is want[0].dtype and got.shape == want[0].shape
    assert torch.equal(got.isnan(), want[0].isnan()) if got.is_floating_point() else True
    assert torch.equal(got.nan_to_num(), want[0].nan_to_num()) or not got.numel()


def test_most_kinds_have_a_text() -> None:
    assert len(WITH_TEXT) > 90


def test_what_has_no_text_says_so() -> None:
    assert text_of(shape.Pad((1,), (1,), "reflect"), ["x"]) is None
    assert text_of(shape.Roll((1,), (0,)), ["x"]) is None
    assert text_of(data.Iota(3, 0.5, 1, DType.F32), []) is None


def test_numbers_are_literals() -> None:
    assert [number(v) for v in (1, 0.5, None, True)] == ["1", "0.5", "None", "True"]
    assert math.isnan(eval(number(math.nan))) and eval(number(-math.inf)) == -math.inf
    assert numbers((3,)) == "(3,)" and numbers((1, 2)) == "(1, 2)"


def test_collectives_are_calls_of_comm() -> None:
    meets = {
        collective.AllReduce("max"): 'comm.all_reduce(x, "max")',
        collective.AllGather(1, (0, 2, 3)): "comm.all_gather(x, 1, (0, 2, 3))",
        collective.ReduceScatter(0, (0, 1, 2), 1): "comm.reduce_scatter(x, 0, (0, 1, 2))",
        collective.AllToAll(0, (0, 1, 2), 1, 1, (0, 3, 5)): (
            "comm.all_to_all(x, 0, (0, 1, 2), 1, (0, 3, 5))"
        ),
    }
    assert {k: text_of(k, ["x"]) for k in meets} == meets


def test_owned_is_zeros_on_other_ranks() -> None:
    assert text_of(collective.Owned(0), ["b"]) == "b"
    assert text_of(collective.Owned(2), ["b"]) == "torch.zeros_like(b)"


def test_signs_and_casts() -> None:
    assert text_of(binary.Add(), ["a", "b"]) == "a + b"
    assert text_of(pointwise.Cast(DType.BF16), ["a"]) == "a.to(torch.bfloat16)"
