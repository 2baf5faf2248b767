"""Decoders are as large as published, and a token takes the operations it must."""

from __future__ import annotations

import pytest
from hypothesis import given
from strategies.decoders import decoders

from leptonc.cost.flops import function_cost
from leptonc.cost.presets import parse_cluster
from leptonc.errors import PlanError
from leptonc.ir.core import Function
from leptonc.ir.kinds.collective import AllGather, AllReduce
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.shard.plan import plan
from leptonc.shard.simulate.decoders import DECODERS, Decoder, decoder, prefill, step

# Parameters as published, in billions; the tables of the embedding and of the head count once
# where the model has one for both.
_SIZES = {
    "llama-2-7b": 6.74, "llama-2-70b": 68.98, "gpt-20b": 20.2, "gpt-89b": 87.6, "gpt-175b": 174.6,
    "gpt-530b": 529.6, "megatron-1b": 1.16, "megatron-2b": 2.03, "megatron-4b": 4.24,
    "megatron-8b": 8.67,
}  # fmt: skip


def _weights(fn: Function) -> int:
    held = {op.result.hint: op.result.type for op in fn.ops if isinstance(op.kind, Constant)}
    return sum(int(t.numel) for n, t in held.items() if n not in ("cosine", "sine", "positions"))


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_sizes_are_those_published(name: str) -> None:
    d = decoder(name)
    count = _weights(step(d, 1, 16))
    if not d.gated:
        count -= d.vocabulary * d.hidden
    assert count / 1e9 == pytest.approx(_SIZES[name], rel=0.005)


@given(decoders())
def test_programs_are_valid_and_give_logits(d: Decoder) -> None:
    for fn, tokens in ((step(d, 3, 16), 1), (prefill(d, 3, 8), 1), (prefill(d, 3, 8, True), 8)):
        verify(fn)
        assert [v.type for v in fn.returns] == [TensorType(DType.F16, (3, tokens, d.vocabulary))]
    cache = step(d, 3, 16).params[1:]
    assert len(cache) == 2 * d.layers
    assert {v.type.shape for v in cache} == {(3, d.groups, 16, d.width)}


@pytest.mark.parametrize("name", ["llama-2-7b", "gpt-20b"])
def test_a_token_takes_two_operations_a_weight(name: str) -> None:
    d = decoder(name)
    read = _weights(step(d, 1, 1)) - d.vocabulary * d.hidden  # one row of the embedding
    assert function_cost(step(d, 1, 1)).flops == pytest.approx(2 * read, rel=0.01)
    assert function_cost(step(d, 1, 1)).bytes == pytest.approx(2 * read, rel=0.01)
    assert step(d, 1, 1) is step(d, 1, 1)


@given(decoders())
def test_constants_have_names_of_their_own_and_no_bytes(d: Decoder) -> None:
    consts = {op.kind.const for op in step(d, 1, 8).ops if isinstance(op.kind, Constant)}
    assert all(isinstance(c.payload, str) for c in consts)
    assert len({c.digest for c in consts}) == len({c.payload for c in consts})


def test_the_planner_finds_the_two_sums_of_a_layer() -> None:
    d = Decoder("four", 4, 6144, 48, 48, 24576, 51200)
    made = plan(step(d, 1, 100), parse_cluster("8xa100"))
    kinds = [type(op.kind) for op in made.program.collectives]
    assert kinds.count(AllReduce) in (2 * d.layers, 2 * d.layers + 1)
    assert kinds[-1] is AllGather and made.exact


def test_an_unknown_decoder_is_told_with_close_ones() -> None:
    with pytest.raises(PlanError, match="llama-2-70b"):
        decoder("llama-70b")
    assert decoder("GPT-20B").hidden == 6144
