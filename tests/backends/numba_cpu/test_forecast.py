"""The kernels that take longest to compile are named before a model is captured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from leptonc.backends.numba_cpu.forecast import SIGNS, forecast
from leptonc.backends.numba_cpu.kernels.ahead import HELPERS, with_parts
from leptonc.backends.numba_cpu.kernels.amx import AMX
from leptonc.backends.numba_cpu.kernels.base import Kernel, Native
from leptonc.backends.numba_cpu.kernels.bf16x3 import bf16x3
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.lines import lines
from leptonc.backends.numba_cpu.kernels.microkernel import TILES
from leptonc.backends.numba_cpu.kernels.part import Part
from leptonc.backends.numba_cpu.kernels.strassen import strassen
from leptonc.backends.numba_cpu.kernels.winograd import winograd
from leptonc.backends.numba_cpu.kernels.winograd_calls import TRANSFORMS
from leptonc.backends.numba_cpu.kernels.winograd_points import FORMS, Form
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.runtime import ahead as begin
from leptonc.backends.numba_cpu.schedule import Step
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.capture.frontend import capture
from leptonc.compiler import optimize

pytestmark = pytest.mark.numba
LARGE = {kernel for _, kernel in SIGNS}


def residual() -> nn.Module:
    wide = nn.Conv2d(64, 64, 3, padding=1)
    first = nn.Conv2d(3, 64, 7, stride=2, padding=3)
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(3, 2, 1), wide, nn.ReLU(), wide)


def mobile() -> nn.Module:
    deep = nn.Conv2d(64, 64, 3, padding=1, groups=64)
    return nn.Sequential(nn.Conv2d(16, 64, 1), nn.ReLU6(), deep, nn.ReLU6(), nn.Conv2d(64, 16, 1))


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)


NETS = {
    "residual": (residual, (1, 3, 64, 64)),
    "mobile": (mobile, (1, 16, 56, 56)),
    "encoder": (encoder, (1, 64, 64)),
    "rows": (lambda: nn.Linear(64, 64), (32, 64)),
}


@pytest.mark.parametrize("net", NETS)
def test_no_large_kernel_of_a_schedule_comes_as_a_surprise(net) -> None:
    make, shape = NETS[net]
    model = make().eval()
    with torch.no_grad():
        fn = optimize(capture(model, (torch.randn(shape),), {}).function, "O2")
    steps = [s for s in schedule(fn, ConstPool(), Options()).steps if isinstance(s, Step)]
    used = {k for s in steps for k in (s.kernel, *s.slots) if isinstance(k, Kernel)}
    assert used & LARGE
    assert used & LARGE <= set(forecast(model))
    assert {k for s in steps for k in s.slots if isinstance(k, Part)} <= set(forecast(model))


def test_nothing_is_forecast_for_what_a_model_does_not_show() -> None:
    assert forecast(nn.Linear(8, 8)) == (TILES, igemm)
    assert forecast(torch.relu) == ()
    assert winograd in forecast(residual())
    assert winograd not in forecast(residual(), "strict")
    assert lines not in forecast(residual()) and lines in forecast(residual(), "strict")
    deep = nn.Conv2d(64, 64, 3, padding=1, groups=64)
    assert lines not in forecast(nn.Sequential(nn.Conv2d(3, 64, 3, 2), deep))  # in bands
    assert strassen not in forecast(encoder())
    wide = nn.TransformerEncoderLayer(512, 4, 512, batch_first=True)
    fast = bf16x3 if AMX else strassen
    assert fast in forecast(wide)
    assert fast not in forecast(wide, "strict")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_transforms_are_forecast_for_the_forms_that_fit(form: Form) -> None:
    pad = (form.kernel[0] // 2, form.kernel[1] // 2)
    model = nn.Conv2d(64, 64, form.kernel, form.stride, padding=pad)
    fits = {f for f in FORMS if (f.kernel, f.stride) == (form.kernel, form.stride)}
    found = set(forecast(model))
    assert {f for f in FORMS if found & set(TRANSFORMS[f].needed)} == fits
    assert not set(forecast(model, "strict")) & set(TRANSFORMS[form].needed)


def test_helpers_are_asked_before_the_block_begins(monkeypatch) -> None:
    monkeypatch.setattr(Native, "ready", False)  # other tests have compiled some
    told: list[list[Native]] = []
    monkeypatch.setattr(HELPERS, "_running", [SimpleNamespace(ask=told.append)])
    monkeypatch.setattr(HELPERS, "_end", lambda: None)
    monkeypatch.setattr(HELPERS, "_asked", {})
    with begin(residual()):
        first, *_ = told
    assert first == list(dict.fromkeys(with_parts(forecast(residual()))))
