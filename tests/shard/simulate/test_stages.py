"""Stages are contiguous, and the longest is as short as can be."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies.decoders import small

from leptonc.ir.kinds.data import Constant
from leptonc.shard.simulate.decoders import step
from leptonc.shard.simulate.repeat import shorten
from leptonc.shard.simulate.stages import Cutter, crossing, places

_TIMES = st.lists(st.integers(0, 20), min_size=1, max_size=9)


def _longest(seconds: list[int], received: list[int], starts: tuple[int, ...]) -> int:
    ends = (*starts[1:], len(seconds))
    return max(received[a] + sum(seconds[a:b]) for a, b in zip(starts, ends, strict=True))


@given(_TIMES, st.data())
def test_no_other_cut_is_shorter(seconds: list[int], data: st.DataObject) -> None:
    n = len(seconds)
    received = [0, *data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))]
    count = data.draw(st.integers(1, n))
    cutter = Cutter.of(np.array(seconds, float), np.array(received, float), range(n), n)
    assert cutter.most == n
    starts = cutter.cut(count)
    assert len(starts) == count and starts[0] == 0 and list(starts) == sorted(set(starts))
    others = ((0, *c) for c in itertools.combinations(range(1, n), count - 1))
    assert _longest(seconds, received, starts) == min(
        _longest(seconds, received, o) for o in others
    )


def test_between_layers_one_value_crosses() -> None:
    d = small(6)
    short = shorten(step(d, 2, 16))
    crossed = crossing(short)
    assert len(crossed) == len(short.whole.ops) + 1 and crossed[0] == crossed[-1] == 0
    one = 2 * d.hidden * 2  # requests x width x bytes
    for i, op in enumerate(short.whole.ops):
        if isinstance(op.kind, Constant) and op.result.hint.endswith("before.scale"):
            assert crossed[i] == one
        if isinstance(op.kind, Constant) and op.result.hint.endswith(".up"):
            assert crossed[i] == 2 * one  # the stream, and the normalised stream


def test_stages_begin_where_weights_of_one_name_are_read() -> None:
    short = shorten(step(small(6), 1, 16))
    starts = places(short, crossing(short))
    hints = [short.whole.ops[i].results[0].hint for i in starts[1:]]
    assert len(set(hints)) == len(hints) >= 12 and not {"cosine", "sine"} & set(hints)
