"""A part on several ranks: ``part.to("cpu:2")`` in a row with one that is not."""

from __future__ import annotations

import pytest
import torch
from strategies.planned import convs

import leptonc
from leptonc.errors import TargetError

pytestmark = pytest.mark.numba


def test_a_part_on_two_ranks_gives_the_model_s_result() -> None:
    model, x = convs()
    first, second = leptonc.split(model, 2, x)
    second = second.to("cpu:2")
    try:
        got = leptonc.run((first, second), *x)
        want = model(*x).detach()
        assert isinstance(second.net, leptonc.ShardedModel)
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    finally:
        second.net.close()


def test_a_part_on_devices_that_are_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there are devices")
    model, x = convs()
    first, _ = leptonc.split(model, 2, x)
    with pytest.raises(TargetError, match="4 CUDA devices"):
        first.to("cuda:4")
