"""Capture a module or function, interpret it, and hold the result to eager."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from leptonc.capture import Captured
from leptonc.capture.frontend import capture
from leptonc.capture.shim import boxed
from leptonc.ir.text import constants, dump, parse
from leptonc.ir.verify import verify
from leptonc.meaning import bind_dims, run


class Fn(torch.nn.Module):
    """A function as a module in evaluation mode."""

    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn
        self.eval()

    def forward(self, *args: Any) -> Any:
        return self.fn(*args)


def call(captured: Captured, args: Any, kwargs: Any = None) -> Any:
    """Call the captured function through the interpreter as the model is called."""
    leaves = captured.flatten(args, kwargs or {})
    tensors = captured.tensors(leaves)
    sizes = bind_dims(captured.function, [t.shape for t in tensors])
    return captured.restore(run(captured.function, *tensors), leaves, sizes)


def same(got: Any, want: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Assert equal structure, dtypes, shapes and (close) values."""
    got, want = boxed(got), boxed(want)
    assert pytree.tree_structure(got) == pytree.tree_structure(want)
    for x, y in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        if isinstance(y, torch.Tensor):
            torch.testing.assert_close(x, y, rtol=rtol, atol=atol, equal_nan=True)
        else:
            assert type(x) is type(y) and x == y


def check(model: Any, args: Any, kwargs: Any = None, dynamic: Any = None) -> Captured:
    """Capture, verify, print and parse, run, compare with eager. Returns the capture."""
    captured = capture(model, args, kwargs, dynamic=dynamic)
    verify(captured.function)
    text = dump(captured.function)
    assert dump(parse(text, constants(captured.function))) == text
    with torch.no_grad():
        want = model(*args, **(kwargs or {}))
    same(call(captured, args, kwargs), want)
    return captured
