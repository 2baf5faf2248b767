"""The straight road of a call: taken by the signature it was written for, and by no other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import leptonc
import leptonc.road
from leptonc.backends.numba_cpu import door, runtime
from leptonc.errors import InputError

pytestmark = pytest.mark.numba


class Pair(NamedTuple):
    """Two tensors."""

    first: Tensor
    second: Tensor


class Returns(nn.Module):
    """A model that returns what ``make`` makes of two products."""

    def __init__(self, make: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.make = make
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        return self.make(x, self.linear(x), torch.tanh(x))


class Nested(nn.Module):
    """A model with arguments inside of tuples and lists."""

    def forward(self, x: Tensor, state: Any, mask: Tensor | None = None) -> Any:
        h, (c, d) = state
        y = x + h * c - d
        return y if mask is None else y * mask


STRUCTURES: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "tensor": lambda x, a, b: a,
    "tuple": lambda x, a, b: (a, b),
    "one in a tuple": lambda x, a, b: (a,),
    "list": lambda x, a, b: [a, b],
    "nested": lambda x, a, b: (a, [b, (a, b)]),
    "dict": lambda x, a, b: {"a": a, "b'\"": [b]},
    "ordered": lambda x, a, b: OrderedDict(z=a, y=b),
    "named": lambda x, a, b: Pair(a, b),
    "twice": lambda x, a, b: (a, a),
    "constants": lambda x, a, b: (a, None, 3, "s", b),
    "input": lambda x, a, b: (x, a),
}


def no_general(*_: Any) -> Any:
    raise AssertionError("the general road was taken")


def same(got: Any, want: Any) -> None:
    flat, spec = pytree.tree_flatten(got)
    wanted, wanted_spec = pytree.tree_flatten(want)
    assert spec == wanted_spec
    for g, w in zip(flat, wanted, strict=True):
        if isinstance(w, Tensor):
            torch.testing.assert_close(g, w)
        else:
            assert g == w


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_of_results_has_a_road(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Returns(STRUCTURES[name]).eval(), torch.randn(3, 6)
    compiled = leptonc.compile(model, (x,))
    with torch.no_grad():
        same(compiled(x), model(x))
        monkeypatch.setattr(compiled, "_general", no_general)
        x = torch.randn(3, 6)
        got = compiled(x)
        same(got, model(x))
        if name == "twice":
            assert got[0] is got[1]
        if name == "input":
            assert got[0] is x


def test_nested_arguments_have_a_road(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c, d = (torch.randn(2, 5) for _ in range(4))
    model = Nested().eval()
    compiled = leptonc.compile(model, (a, (b, [c, d]), None))
    same(compiled(a, (b, [c, d]), None), model(a, (b, [c, d]), None))
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "_general", no_general)
        same(compiled(d, (c, [b, a]), None), model(d, (c, [b, a]), None))
        for other in ((a, [b, [c, d]], None), (a, (b, (c, d)), None), (a, (b, [c]), None),
                      (a, (b, [c, d]), a), (a, (b, [c, d])), (a, b, None)):  # fmt: skip
            with pytest.raises(AssertionError, match="general"):
                compiled(*other)


def strange(x: Tensor) -> dict[str, Tensor]:
    return {
        "negated": cast(Any, torch)._neg_view(-x),
        "strided": x.repeat_interleave(2, 1)[:, ::2],
        "subclass": nn.Parameter(x, requires_grad=False),
    }


@pytest.mark.parametrize("kind", ["negated", "strided", "subclass"])
def test_strange_tensors_take_the_general_road(kind: str) -> None:
    model, x = Returns(STRUCTURES["tuple"]).eval(), torch.randn(3, 6)
    compiled = leptonc.compile(model, (x,))
    with torch.no_grad():
        compiled(x)
        same(compiled(strange(x)[kind]), model(x))
        same(compiled(x), model(x))


TRANSFORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "vmap": lambda f, x: torch.vmap(f)(torch.stack([x, x])),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "functionalize": lambda f, x: torch.func.functionalize(f)(x),
    "fake": lambda f, x: f(FakeTensorMode().from_tensor(x)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_tensor_without_memory_is_refused(name: str) -> None:
    """Who asks machine code for its address ends the process, on the road and off it."""
    model, x = Returns(STRUCTURES["tensor"]).eval(), torch.randn(3, 6)
    compiled = leptonc.compile(model, (x,))
    with torch.no_grad():
        for _ in range(2):
            with pytest.raises(InputError, match="memory of its own"):
                TRANSFORMS[name](compiled, x)
            same(compiled(x), model(x))


def test_a_slice_of_one_row_takes_the_road(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Returns(STRUCTURES["tensor"]).eval(), torch.randn(3, 6)
    compiled = leptonc.compile(model, (x[:1],))
    compiled(x[:1])
    monkeypatch.setattr(compiled, "_general", no_general)
    with torch.no_grad():
        one = torch.randn(6, 1).t()
        assert one.stride() != x[:1].stride()
        same(compiled(one), model(one))
    with torch.inference_mode():
        same(compiled(x[1:2]), model(x[1:2]))
        inside = torch.randn(1, 6)
        same(compiled(inside), model(inside))


def test_the_road_needs_no_private_test_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leptonc.road, "_GUARDS", None)
    test_what_the_road_refuses_is_refused_as_before(monkeypatch)


@pytest.mark.parametrize("name", ["tuple", "nested"])
def test_the_road_needs_no_door(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "data_function", lambda: 0)
    monkeypatch.setattr(runtime, "data_function", lambda: 0)
    test_every_structure_of_results_has_a_road(name, monkeypatch)


def test_what_the_road_refuses_is_refused_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Returns(STRUCTURES["tensor"]).eval(), torch.randn(3, 6)
    compiled = leptonc.compile(model, (x,))
    compiled(x)
    refused = (x.double(), x[:2], x.clone().requires_grad_(), x.to_sparse(), x.to("meta"), None)
    for wrong in refused:
        with pytest.raises(InputError):
            compiled(wrong)
    monkeypatch.setattr(compiled, "_general", no_general)
    compiled(x)


def test_sizes_in_turn_keep_their_roads() -> None:
    model, dim = Returns(STRUCTURES["list"]).eval(), torch.export.Dim("n", min=2, max=64)
    compiled = leptonc.compile(model, (torch.randn(3, 6),), dynamic={"x": {0: dim}})
    with torch.no_grad():
        for n in (3, 5, 3, 3, 5, 5, 64, 3):
            x = torch.randn(n, 6)
            same(compiled(x), model(x))
    (spec,) = compiled.specializations
    assert len(spec.roads) == len(spec.bindings) == 3


class Kinds(nn.Module):
    """Results of many ranks and dtypes, one of them empty."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        flat = x.reshape(-1)
        return x.sum(), x[:0], x > 0, x.double(), flat.long(), x.transpose(0, 2) + 1.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("private", [True, False])
def test_results_are_tensors_like_any_other(
    mode: Callable[[], Any], private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not private:
        monkeypatch.setattr(leptonc.road, "_EMPTY", None)
    x = torch.randn(2, 1, 3)
    compiled = leptonc.compile(Kinds().eval(), (x,))
    with mode():
        want = compiled._general((x,), {})
        monkeypatch.setattr(compiled, "_general", no_general)
        got, again = compiled(x), compiled(x)
        same(got, want)
        pointers = {t.data_ptr() for r in (got, again) for t in r if t.numel()}
        assert len(pointers) == 2 * (len(got) - 1)
        for g, w in zip(got, want, strict=True):
            assert (g.dtype, g.shape, g.stride(), g.device) == (
                w.dtype,
                w.shape,
                w.stride(),
                w.device,
            )
            assert (g.is_inference(), g.requires_grad) == (w.is_inference(), w.requires_grad)
            assert g.untyped_storage().nbytes() == w.untyped_storage().nbytes()
            assert g.data_ptr() % 64 == 0 and (g.is_inference() or g._version == 0)
            assert g.resize_(100).numel() == 100
