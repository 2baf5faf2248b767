"""The key of a stored program tells apart whatever makes another program."""

from __future__ import annotations

import torch
from torch import nn

from leptonc.capture import Captured
from leptonc.capture.frontend import capture
from leptonc.stored import key_of

PARTS = ("O2", 1, "fp32", False)


def _captured(seed: int = 0, rows: int = 2) -> Captured:
    torch.manual_seed(seed)
    return capture(nn.Linear(4, 3).eval(), (torch.zeros(rows, 4),), {}, dynamic=None)


def test_the_same_model_and_settings_have_one_key():
    assert key_of(_captured(), PARTS) == key_of(_captured(), PARTS)


def test_other_weights_of_the_same_shapes_have_another_key():
    assert key_of(_captured(0), PARTS) != key_of(_captured(1), PARTS)


def test_other_sizes_have_another_key():
    assert key_of(_captured(rows=2), PARTS) != key_of(_captured(rows=3), PARTS)


def test_every_setting_is_part_of_the_key():
    others = (("O1", *PARTS[1:]), ("O2", 2, *PARTS[2:]), ("O2", 1, "strict", False),
              (*PARTS[:3], True))  # fmt: skip
    keys = {key_of(_captured(), parts) for parts in (PARTS, *others)}
    assert len(keys) == 1 + len(others)
