"""A program of two units laid out by hand, for reports and profiles; a checker of HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from leptonc import meaning
from leptonc.backends.numba_cpu.schedule import Schedule, Step, TorchStep, UnitInfo
from leptonc.backends.numba_cpu.views import Buffer
from leptonc.ir.core import Builder, Function, Origin
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType

EVIL = '<script>alert("x")</script>'


def function() -> Function:
    b = Builder("net")
    x = b.param(TensorType(DType.F32, (2, 8)), "x")
    b.origin = Origin(EVIL, "net.py:7")
    w = b(Constant(meaning.const_of(torch.ones(4, 8))))
    y = b(Linear(), x, w)
    b.origin = Origin("act", "net.py:8")
    return b.finish(b(Relu(), y))


def schedule(fn: Function) -> Schedule:
    """Return a schedule of the two units: a native step, then one through torch."""
    first, second = (op for op in fn.ops if isinstance(op.kind, Unit))
    assert isinstance(second.kind, Unit)
    infos = (
        UnitInfo(first, EVIL, "contract", 1, 0),
        UnitInfo(second, "act", "chain", 0, 1, f"no kernel {EVIL}"),
    )
    kernel: Any = SimpleNamespace(name="igemm[6]")
    between, extra = Buffer("arena", 32, 0, "between"), Buffer("arena", 64, 1)
    steps = (
        Step(kernel, (1, 2), (), (between,), 0),
        Step(kernel, (3,), (between,), (extra,), 0),
        TorchStep(second.kind.body, (), (), 1, "no kernel"),
    )
    return Schedule(
        "net", steps, infos, (), (), (np.zeros(3, np.float32),), {between: 0, extra: 64},
        128, 96, 96, 1,
    )  # fmt: skip


class Checker(HTMLParser):
    """Collects tags and whatever the page would load."""

    VOID = ("meta", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag != "meta":
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, f"</{tag}> closes another element"
