"""Programs of ranks as text, symbols of parts and all, and read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies.shard_cases import plain
from strategies.shard_functions import packed
from strategies.sharding import (
    Case,
    any_choice,
    built,
    chosen,
    chosen_for,
    lowered,
    same_everywhere,
    single,
    speeds_for,
    whole_numbers,
)

from leptonc.ir.core import Function
from leptonc.ir.dims import free_symbols
from leptonc.ir.kinds import contract, norm, shape
from leptonc.ir.text import constants, dump, parse
from leptonc.ir.verify import verify
from leptonc.meaning.lockstep import run_ranks
from leptonc.shard.program import Spmd
from leptonc.shard.spread import spread

SPEEDS = (1.0, 2.5, 1.0)


def comes_back(program: Spmd) -> Function:
    """Assert that the text says all there is; return what is read from it."""
    text = dump(program.function)
    read = parse(text, constants(program.function))
    verify(read)
    assert dump(read) == text
    assert read.dims == program.function.dims
    pairs = zip(read.ops, program.function.ops, strict=True)
    assert all(a.kind == b.kind for a, b in pairs)
    return read


@given(packed(), st.integers(2, 8).flatmap(speeds_for), st.integers(0, 999))
def test_any_program_comes_back_and_runs(
    fn: Function, speeds: tuple[float, ...], seed: int
) -> None:
    found = spread(fn, len(speeds))
    choice, shared = any_choice(fn, found, speeds, seed)
    program = lowered(fn, choice, found, speeds, shared)
    read = comes_back(program)
    xs = [whole_numbers(p.type, i, -1, 1) for i, p in enumerate(fn.params)]
    same_everywhere([run_ranks(f, program.tables, xs)[0] for f in (read, program.function)])


@pytest.mark.parametrize("case", list(plain()), ids=str)
def test_every_strategy_of_every_kind_comes_back(case: Case) -> None:
    base = single(case, None, constants=False)
    for s in spread(base.fn, len(SPEEDS)).strategies[base.at]:
        made = single(case, s, constants=False)
        found = spread(made.fn, len(SPEEDS))
        choice = chosen_for(made, s, found)
        assert choice is not None
        comes_back(lowered(made.fn, choice, found, SPEEDS))


def test_groups_of_a_convolution_are_a_size_of_a_rank() -> None:
    b, (x, w) = built("f32[2,10,6]", "f32[20,2,3]")
    y = b(contract.Conv((1,), (1,), (1,), 5), x, w)
    fn = b.finish(b(norm.GroupNorm(10, 1e-5, "none"), y))
    found = spread(fn, 3)
    program = lowered(fn, chosen(found, ("S1S0>S1", "S1>S1")), found, SPEEDS)
    read = comes_back(program)
    groups = {op.kind.NAME: op.kind.attributes.get("groups") for op in read.ops}
    assert str(groups["conv"]) == "len5" and str(groups["group_norm"]) == "2*len5"
    assert {d.name: (d.min, d.max) for d in read.dims} == {
        "len5": (1, 3), "off5": (0, 4), "rank": (0, 2),
    }  # fmt: skip


def test_names_of_sizes_are_the_units_that_are_dealt() -> None:
    b, (x, w) = built("f32[7,16]", "f32[40,16]")
    y = b(contract.Linear(), x, w)
    fn = b.finish(b(shape.Reshape((7, 5, 8)), y))
    found = spread(fn, 3)
    program = lowered(fn, chosen(found, ("RS0>S1", "S1>S1")), found, SPEEDS)
    assert "f32[7,8*len5]" in dump(comes_back(program))
    assert program.tables == {"rank": (0, 1, 2), "len5": (1, 3, 1), "off5": (0, 1, 4)}


def test_equal_parts_need_no_symbol_but_the_rank() -> None:
    b, (x, w) = built("f32[7,16]", "f32[40,16]")
    fn = b.finish(b(contract.Linear(), x, w))
    found = spread(fn, 4)
    program = lowered(fn, chosen(found, ("RS0>S1",)), found, (1.0,) * 4)
    read = comes_back(program)
    assert [d.name for d in read.dims] == ["rank"]
    names = free_symbols(d for op in read.ops for r in op.results for d in r.type.shape)
    assert not names, "every shape is the same on every rank"
