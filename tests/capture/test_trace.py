"""One pass over a plain model: the very program that torch.export gives; the rest is left to it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from capture.harness import Fn, call, same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leptonc.bench import suites
from leptonc.capture import Captured, frontend
from leptonc.capture.frontend import capture
from leptonc.capture.trace import NotPlain, trace
from leptonc.errors import CaptureError
from leptonc.ir.text import dump

_X = torch.linspace(-2, 2, 24).view(2, 3, 4)


def exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """Return the capture by torch.export."""
    with mock.patch.object(frontend, "trace", side_effect=NotPlain("told so")):
        return capture(model, args, kwargs)


def traced(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """Return the capture by one pass; torch.export does not run."""
    with mock.patch.object(frontend, "_export_any", side_effect=AssertionError("exported")):
        return capture(model, args, kwargs)


def text(captured: Captured) -> str:
    """Return the program without source lines: torch's are often those of a caller."""
    return re.sub(r" *(//.*?)? *(\(\S+:\d+\))?$", r"\1", dump(captured.function), flags=re.M)


def check(model: nn.Module, *args: Any, **kwargs: Any) -> Captured:
    """Hold the trace to torch.export, and what it computes to the model."""
    mine, theirs = traced(model, args, kwargs), exported(model, args, kwargs)
    assert text(mine) == text(theirs)
    for part in ("in_spec", "out_spec", "inputs", "outputs", "arg_names", "parameters"):
        assert getattr(mine, part) == getattr(theirs, part), part
    assert [r.op for r in mine.remarks] == [r.op for r in theirs.remarks]
    with torch.no_grad():
        same(call(mine, args, kwargs), model(*args, **kwargs))
    return mine


# ----- what is traced -------------------------------------------------------------------------


@dataclass
class Pair:
    first: Tensor
    second: Any


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("shift", torch.arange(4.0), persistent=False)
        self.table = torch.tensor([0.5, 2.0, -1.0, 3.0])  # no buffer

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(self.a(x)) + self.shift) * self.table


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


class Call(nn.Module):
    def forward(self, x: Tensor, batch: dict[str, Any], *, scale: float = 1.0) -> Any:
        y = x * scale + batch["bias"][0]
        return Pair(y, {"same": x, "n": x.shape[0], "none": None, "pair": (y, x.clone())})


def _inplace(x: Tensor) -> Tensor:
    y = x + 1
    y.relu_()
    y += x
    return y.mul_(2).unsqueeze(0)


def _no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return y + x


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "factories": lambda x: x + torch.arange(4) + torch.zeros(3, 1) + torch.full((4,), 2.0),
    "literal": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.tensor(3),
    "known literal": lambda x: x * int(torch.tensor(3)) + float(torch.tensor(0.5)),
    "several results": lambda x: [*x.split(2, -1), *x.unbind(1), *torch.topk(x, 2)],
    "nothing done": lambda x: x.contiguous().to(torch.float32).detach() + x.expand(2, 3, 4),
    "views": lambda x: x.transpose(1, 2).reshape(2, -1).view(8, 3)[1:5, [0, 2]].T,
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)).masked_fill(x < -1, 7.0),
    "own gradient": lambda x: Doubled.apply(x) * 2,
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "opaque": lambda x: torch.special.bessel_j0(x) + 1,
    "dead": lambda x: (x.exp(), x.detach(), x * 2)[2],
    "passed through": lambda x: (x, x * 2, 5, "text", None),
    "sizes": lambda x: (x + 1, x.shape, [x.shape[1:]]),
    "in place": _inplace,
    "no_grad": _no_grad,
    "inference": torch.inference_mode()(lambda x: x.sin() + x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    check(Fn(FUNCTIONS[name]), _X)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 5, batch_first=True, bidirectional=True),
        nn.GRU(4, 5, num_layers=2),
        nn.MultiheadAttention(4, 2, batch_first=True),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.BatchNorm1d(3),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)),
        Tied(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_layers(layer: nn.Module) -> None:
    count = 3 if isinstance(layer, nn.MultiheadAttention) else 1
    check(layer.eval(), *(_X.clone() for _ in range(count)))


def test_models_that_ask_are_told_of_an_export() -> None:
    told = Fn(lambda x: x + torch.compiler.is_exporting() + 2 * torch.compiler.is_compiling())
    mine, theirs = (by(told, (_X,), {}) for by in (traced, exported))
    assert text(mine) == text(theirs)
    same(call(mine, (_X,)), _X + 3)


def test_writing_through_a_view() -> None:
    def run(x: Tensor) -> Tensor:
        y = x + 1
        y[:, 0] = 0.5
        return y * 2

    captured = capture(Fn(run), (_X,))
    same(call(captured, (_X,)), run(_X))


def test_structures_and_names() -> None:
    batch = {"bias": [torch.ones(4)], "name": "any"}
    captured = check(Call().eval(), _X, batch, scale=2.0)
    assert [s.name for s in captured.inputs][1:2] == ["batch['bias'][0]"]
    check(Call().eval(), x=_X, batch=batch)
    tied = check(Tied().eval(), _X)
    names = {op.results[0].hint for op in tied.function.ops if op.kind.NAME == "constant"}
    assert {"shift", "table"} <= names


_VISION = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite0",
        "minilm_16",
        pytest.param("mobilenet_v2", marks=_VISION),
        pytest.param("shufflenet_v2_x1_0", marks=_VISION),
    ],
)
def test_networks(name: str) -> None:
    (net,) = suites.pick(tuple(suites.SUITES), [name])
    model, inputs = suites.build(net), net.inputs(1)
    assert text(traced(model, inputs, {})) == text(exported(model, inputs, {}))


_STEPS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.relu_(),
    lambda x: x + x.mean(-1, keepdim=True),
    lambda x: x.transpose(1, 2),
    lambda x: x.chunk(2, 0)[1].expand(2, -1, -1),
    lambda x: x.reshape(2, -1, 1).expand(-1, -1, 2) if x.numel() < 96 else x * 0.5,
    lambda x: x.add_(torch.arange(x.shape[-1])),
    lambda x: torch.cat([x, x.flip(1)], 1)[:, : x.shape[1]],
    lambda x: F.layer_norm(x, x.shape[-1:]),
    lambda x: x.softmax(1) * torch.ones(x.shape[-1]),
)


@given(st.lists(st.sampled_from(range(len(_STEPS))), max_size=7))
def test_chains(chosen: list[int]) -> None:
    def run(x: Tensor) -> Tensor:
        x = x * 1
        for i in chosen:
            x = _STEPS[i](x)
        return x

    model = Fn(run)
    mine, theirs = capture(model, (_X,)), exported(model, (_X,), {})
    assert text(mine) == text(theirs)


def test_source_lines_are_those_of_the_call() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * 3

    captured = traced(Outer().eval(), (_X,), {})
    here = Outer.forward.__code__.co_firstlineno + 1
    origins = {op.kind.NAME: op.origin for op in captured.function.ops}
    assert origins["mul"].module == "" and origins["mul"].source == f"test_trace.py:{here}"
    linear = next(op.origin for op in captured.function.ops if op.origin.module)
    assert linear.module == "inner" and linear.source == f"test_trace.py:{here}"
    assert captured.files[f"test_trace.py:{here}"] == __file__


# ----- what is not ----------------------------------------------------------------------------


class Sets(nn.Module):
    def __init__(self, act: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.act = act
        self.register_buffer("kept", torch.ones(4))
        self.seen: list[Any] = []
        self.count = 0
        self.scale = torch.full((4,), 2.0)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.act(self, x)
        return self.linear(x) + self.kept


def _autocast(m: Any, x: Tensor) -> None:
    with torch.autocast("cpu"):
        _ = x @ x.transpose(1, 2)


OTHERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a count": lambda m, x: setattr(m, "count", m.count + 1),
    "an attribute": lambda m, x: setattr(m, "last", x * 2),
    "a list": lambda m, x: m.seen.append(x * 2),
    "a buffer": lambda m, x: setattr(m, "kept", m.kept + 1),
    "a parameter": lambda m, x: setattr(m.linear, "bias", None),
    "a value": lambda m, x: float(x.sum()),
    "a branch": lambda m, x: x if x.sum() > 0 else -x,
    "a shape": lambda m, x: x.nonzero(),
    "a hidden tensor": lambda m, x: x.data * 2,
    "a transform": lambda m, x: torch.vmap(torch.sin)(x),
    "a turned tensor": lambda m, x: (x * 2).unsqueeze_(0),
    "autocast": _autocast,
}


@pytest.mark.parametrize("name", OTHERS)
def test_left_to_export(name: str) -> None:
    model = Sets(OTHERS[name]).eval()
    before = {path: dict(vars(m)) for path, m in model.named_modules()}
    with frontend._tracing(), pytest.raises(Exception) as raised:
        trace(model, (_X,), {})
    assert "is set while" not in str(raised.value) or isinstance(raised.value, NotPlain)
    assert before == {path: dict(vars(m)) for path, m in model.named_modules()}
    assert model.count == 0 and model.seen == []
    assert type(model.kept) is Tensor and type(model.linear.bias) is nn.Parameter
    assert not torch.compiler.is_exporting()


@pytest.mark.parametrize(
    ("what", "args"),
    [
        (lambda m: m, (_X, _X)),  # an argument twice
        (lambda m: m, (_X, _X.view(-1))),  # two of one memory
        (lambda m: m, (_X, m) if (m := slice(1, 2)) else ()),  # no plain value
        (lambda m: torch.fx.symbolic_trace(m), (_X, 1)),
        (lambda m: torch.jit.script(nn.ReLU()), (_X,)),
    ],
    ids=["twice", "memory", "slice", "GraphModule", "ScriptModule"],
)
def test_unusual_arguments_and_models(what: Callable[[Any], Any], args: tuple[Any, ...]) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Any) -> Tensor:
            return x * 2

    with frontend._tracing(), pytest.raises(NotPlain):
        trace(what(Two().eval()), args, {})


def test_weights_as_arguments() -> None:
    model = nn.Linear(4, 4).eval()
    with frontend._tracing(), pytest.raises(NotPlain, match="share memory"):
        trace(model, (model.weight.detach(),), {})


def test_written_constants_are_not_written_and_refused() -> None:
    model = Sets(lambda m, x: m.scale.add_(1)).eval()
    before = model.scale.clone()
    with frontend._tracing():
        trace(model, (_X,), {})
    assert torch.equal(model.scale, before)
    with pytest.raises(CaptureError, match="in place"):
        capture(model, (_X,))
