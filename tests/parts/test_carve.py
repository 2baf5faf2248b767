"""Whatever the program and the cuts: every op and constant once, and the same bits in the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies.arrays import arrays_for
from strategies.functions import functions
from strategies.laws import results, same_bits

from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.verify import verify
from leptonc.parts.blocks import Blocks, blocks_of
from leptonc.parts.carve import Carved
from leptonc.parts.plan import interpret
from leptonc.parts.split import cut
from leptonc.parts.weigh import Machine, Original

from .dags import SIDE, dags

PIPELINES = st.sampled_from(["O0", "O1", "O2", "O3", "cse,dce"])


def _carved(data: st.DataObject, fn: Function, pipeline: str) -> tuple[Blocks, Carved] | None:
    blocks = blocks_of(fn, pipeline)
    if data.draw(st.booleans()):
        blocks = blocks.finest()
    if not blocks.blocks:
        return None
    n = data.draw(st.integers(1, min(5, len(blocks.blocks))))
    speeds = data.draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=n, max_size=n))
    names = [f"in{i}" for i in range(len(fn.params))]
    carved, costs = cut(blocks, {}, speeds, Machine(link=1e6), names, _known(fn))
    assert len(carved.pieces) == len(costs) == n
    return blocks, carved


def _known(fn: Function) -> list[Original]:
    constants = [op for op in fn.ops if isinstance(op.kind, Constant)]
    return [Original(op.result.hint, op.kind.const, True) for op in constants]


def _check_pieces(blocks: Blocks, carved: Carved) -> None:
    made: set[str] = set(carved.params)
    work = [op for ops in blocks.blocks for op in ops]
    kinds = [op.kind for op in work]
    found = [
        op for p in carved.pieces for op in p.function.ops
        if not isinstance(op.kind, (Constant, Full))
    ]  # fmt: skip
    assert [op.kind for op in found] == kinds, "every op once, in order"
    assert [op.results for op in found] == [op.results for op in work]
    for piece in carved.pieces:
        verify(piece.function)
        assert len(piece.inputs) == len(set(piece.inputs)) == len(piece.function.params)
        assert set(piece.inputs) <= made, "nothing is read before an earlier part has made it"
        assert not made & set(piece.outputs), "nothing is made twice"
        made |= set(piece.outputs)
    assert set(carved.returns) <= made


def _check_parameters(blocks: Blocks, carved: Carved, known: Sequence[Original]) -> None:
    """A parameter is in one part, whether other parameters equal it or not."""
    homes: dict[str, set[int]] = {}
    for i, piece in enumerate(carved.pieces):
        inside = {op.result.hint for op in piece.function.ops if isinstance(op.kind, Constant)}
        for name in inside | piece.held.keys():
            homes.setdefault(name, set()).add(i)
    names = {o.name for o in known}
    assert all(len(found) == 1 for name, found in homes.items() if name in names)
    left = {op.kind.const for op in blocks.function.ops if isinstance(op.kind, Constant)}
    assert left == {
        const for piece in carved.pieces
        for const in (
            *(o.kind.const for o in piece.function.ops if isinstance(o.kind, Constant)),
            *(k.const for k in piece.held.values()),
        )
    }  # fmt: skip


@given(data=st.data(), fn=dags(), pipeline=PIPELINES)
def test_parts_are_the_program(data: st.DataObject, fn: Function, pipeline: str) -> None:
    made = _carved(data, fn, pipeline)
    if made is None:
        return
    blocks, carved = made
    _check_pieces(blocks, carved)
    flat = blocks.function
    _check_parameters(blocks, carved, _known(fn))
    args = [torch.full((SIDE, SIDE), float(i + 1)).tril() for i in range(len(fn.params))]
    same_bits(results(flat, args), interpret(carved, args))


@given(data=st.data(), fn=functions(max_ops=10), pipeline=PIPELINES)
def test_every_kind_may_be_cut_off(data: st.DataObject, fn: Function, pipeline: str) -> None:
    made = _carved(data, fn, pipeline)
    if made is None:
        return
    blocks, carved = made
    _check_pieces(blocks, carved)
    args = data.draw(arrays_for(fn))
    same_bits(results(blocks.function, args), interpret(carved, args))
