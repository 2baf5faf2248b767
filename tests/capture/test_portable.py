"""How a model is called, as JSON: the same calls and the same errors after reading it back."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from leptonc import meaning
from leptonc.capture import Captured, Dim, InputSpec
from leptonc.capture.frontend import capture
from leptonc.capture.portable import from_json, to_json
from leptonc.capture.structure import Reader
from leptonc.errors import ArtifactError, InputError


class Net(nn.Module):
    """Arguments and results of every sort."""

    def forward(self, x: Tensor, pair: Any, flag: bool = True, unread: Any = None) -> Any:
        y = x + pair["a"][0] if flag else x
        return {"y": y, "x": x, "n": x.shape[0], "c": 2.5, "none": None, "size": y.shape}, [y * 2]


X, PAIR = torch.ones(2, 3), {"a": (torch.ones(3),)}


def captured(dynamic: bool) -> Captured:
    sizes = {"x": {0: Dim("b", max=8)}, "pair": {"a": (None,)}, "flag": None} if dynamic else None
    return capture(Net().eval(), (X, PAIR), {"flag": True}, dynamic=sizes)


def through_text(c: Captured) -> Captured:
    return from_json(json.loads(json.dumps(to_json(c))), c.function, Reader())


def call(c: Captured, *args: Any, **kwargs: Any) -> Any:
    leaves = c.flatten(args, kwargs)
    operands = c.tensors(leaves)
    sizes = meaning.bind_dims(c.function, [t.shape for t in operands])
    return c.restore(meaning.run(c.function, *operands), leaves, sizes)


@pytest.mark.parametrize("dynamic", [False, True])
def test_calls_give_the_same(dynamic: bool) -> None:
    before = captured(dynamic)
    after = through_text(before)
    for rows in (2, 5) if dynamic else (2,):
        x = torch.rand(rows, 3)
        for args, kwargs in (((x, PAIR), {"flag": True}), ((), {"x": x, "pair": PAIR})):
            one, [two] = call(before, *args, **{"flag": True, **kwargs})
            three, [four] = call(after, *args, **{"flag": True, **kwargs})
            assert torch.equal(one.pop("y"), three.pop("y")) and torch.equal(two, four)
            assert one.pop("x") is three.pop("x") is x and one == three
            assert one["n"] == rows and type(one["size"]) is type(three["size"])
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert (after.in_spec, after.out_spec) == (before.in_spec, before.out_spec)
    assert (after.arg_names, after.remarks) == (before.arg_names, before.remarks)
    assert not after.files  # no path of this machine is told


def test_wrong_calls_give_the_same_error() -> None:
    before = captured(False)
    for args, kwargs in (((X, PAIR), {"flag": 1}), ((X,), {}), ((X, {"b": X}), {"flag": True})):
        texts = []
        for c in (before, through_text(before)):
            with pytest.raises(InputError) as e:
                call(c, *args, **kwargs)
            texts.append(str(e.value))
        assert texts[0] == texts[1]


ONCE = captured(True)
FUNCTION, WRITTEN = ONCE.function, to_json(ONCE)
junk = st.sampled_from([None, 3, -1, "x", [], {}, [None], ["a"], {"a": 1}, 1.5, True, "s9", "1//0"])


@st.composite
def changed(draw: Any) -> Any:
    """Return the text with one part of it, at any depth, replaced."""
    data = json.loads(json.dumps(WRITTEN))
    at, key = data, draw(st.sampled_from(sorted(data)))
    while isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans()):
        at = at[key]
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
    at[key] = draw(junk)
    return data


@given(changed())
def test_changed_text_is_refused_or_stays_callable(data: Any) -> None:
    try:
        found = from_json(data, FUNCTION, Reader())
    except ArtifactError:
        return
    with suppress(InputError):  # it may be called in another way by now
        call(found, X, PAIR, flag=True)


def test_an_argument_of_another_type_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor, how: Any = None) -> Tensor:
            return x + 1

    c = capture(Odd().eval(), (X,), {}, dynamic=None)
    spec = InputSpec("how", fixed=True, constant={1})
    broken = Captured(c.function, c.in_spec, c.out_spec, (*c.inputs, spec), c.outputs)
    with pytest.raises(ArtifactError, match=r"argument how: .*cannot be saved"):
        to_json(broken)
