"""Torch's own operator database, one sample an entry: right, or refused with a reason."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from capture.harness import call
from torch.utils import _pytree as pytree

from leptonc.capture.frontend import capture
from leptonc.errors import CaptureError
from leptonc.ir.kinds.region import TorchOp
from leptonc.ir.verify import verify

# Data-dependent results, sparse tensors: CaptureError says so.
MAX_REFUSED = 24
MIN_NATIVE = 290


class Call(torch.nn.Module):
    """One operator call whose inputs are its tensor leaves."""

    def __init__(self, op: Any, leaves: list[Any], spec: Any) -> None:
        super().__init__()
        self.op, self.leaves, self.spec = op, leaves, spec

    def forward(self, *tensors: torch.Tensor) -> Any:
        it = iter(tensors)
        leaves = [next(it).clone() if isinstance(v, torch.Tensor) else v for v in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.op(*args, **kwargs)


def _database() -> list[Any]:
    for name in ("nms", "qnms"):  # a torchvision built for another torch breaks the database
        lib = torch.library.Library("torchvision", "FRAGMENT")
        with contextlib.suppress(RuntimeError):
            lib.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torch.testing._internal.common_methods_invocations import op_db

    return [op for op in op_db if torch.float32 in op.dtypes and "empty" not in op.name]


def _one(op: Any) -> str:
    """Return ``native``, ``opaque``, ``refused``, ``skipped`` or what went wrong."""
    sample = next(iter(op.sample_inputs("cpu", torch.float32)), None)
    if sample is None:
        return "skipped"
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    tensors = tuple(v for v in leaves if isinstance(v, torch.Tensor))
    net = Call(op.op, leaves, spec).eval()
    try:
        with torch.no_grad():
            want = net(*tensors)
    except Exception:
        return "skipped"
    try:
        captured = capture(net, tensors)
    except CaptureError:
        return "refused"
    fn = captured.function
    verify(fn)
    if any(isinstance(o.kind, TorchOp) and not o.kind.pure for o in fn.ops):
        return "skipped"  # random
    got = call(captured, tensors)
    for x, y in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)
    return "opaque" if captured.opaque else "native"


def _sweep(step: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    wrong: list[str] = []
    for op in _database()[::step]:
        try:
            found.setdefault(_one(op), []).append(op.name)
        except Exception as e:
            wrong.append(f"{op.name}: {type(e).__name__}: {e}"[:300])
    assert not wrong, "\n".join(wrong)
    return found


def test_a_part_of_the_operator_database() -> None:
    found = _sweep(8)
    assert len(found["native"]) >= MIN_NATIVE // 10


@pytest.mark.slow
def test_operator_database() -> None:
    found = _sweep(1)
    assert len(found["native"]) >= MIN_NATIVE
    assert len(found["refused"]) <= MAX_REFUSED, found["refused"]
