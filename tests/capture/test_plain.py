"""Values as JSON: exact, and only of known types."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc.capture.plain import decode, encode
from leptonc.errors import ArtifactError

WORDS = [torch.float32, torch.bfloat16, torch.strided, torch.channels_last, torch.bool, ...]
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.complex_numbers(), st.sampled_from(WORDS), st.builds(torch.device, st.just("cpu")),
    st.lists(st.integers(0, 9), max_size=3).map(torch.Size),
    st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none()),
)  # fmt: skip
keys = st.text(max_size=3) | st.integers() | st.booleans()
values = st.recursive(
    leaves,
    lambda v: (
        st.lists(v, max_size=3)
        | st.lists(v, max_size=3).map(tuple)
        | st.dictionaries(keys, v, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        nan = a != a and b != b  # one NaN is as good as another
        return nan or (math.copysign(1, a) == math.copysign(1, b) and a == b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(k, m) and same(v, w) for (k, v), (m, w) in pairs)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    assert same(decode(json.loads(json.dumps(encode(value)))), value)


@pytest.mark.parametrize("value", [object(), {1}, b"x", torch.zeros(1), print, st, 1j.__class__])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(ArtifactError, match="cannot be saved; let the model"):
        encode([value])


class Text(str):
    """A type of its own."""


def test_subclasses_do_not_pass_for_what_they_derive_from() -> None:
    with pytest.raises(ArtifactError, match="Text"):
        encode(Text("x"))


junk = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.floats(),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["float", "complex", "tuple", "dict", "slice", "size", "device", "word"]
            )
            | st.text(max_size=3),
            v,
            max_size=2,
        )
    ),
    max_leaves=6,
)


@given(junk)
def test_junk_is_refused_or_read_as_a_value(data: Any) -> None:
    try:
        value = decode(data)
    except ArtifactError:
        return
    encode(value)  # whatever came out is one of ours


@pytest.mark.parametrize("word", ["os", "torch.load", "float32", "torch.float32 ", "__import__"])
def test_words_are_looked_up_in_a_table(word: str) -> None:
    with pytest.raises(ArtifactError):
        decode({"word": word})
