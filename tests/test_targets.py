"""What a target means, and what is refused."""

from __future__ import annotations

import pytest
import torch

from leptonc.errors import TargetError
from leptonc.targets import Target, check_there, parse_target


@pytest.mark.parametrize(
    ("text", "target", "sharded"),
    [
        ("cpu", Target("cpu"), False),
        ("cpu:2", Target("cpu", 2), True),
        ("cuda", Target("cuda"), True),
        ("cuda:4", Target("cuda", 4), True),
    ],
)
def test_targets(text: str, target: Target, sharded: bool) -> None:
    assert parse_target(text) == target
    assert str(target) == text and target.sharded is sharded


@pytest.mark.parametrize(
    "text", ["", "tpu", "cpu:", "cpu:x", "cuda:-1", "cuda:0", "cpu:2:3", "cpu 2"]
)
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(TargetError, match="target"):
        parse_target(text)


def test_a_device_is_pinned_without_a_number() -> None:
    assert parse_target("cuda", 3) == Target("cuda", None, 3)
    for text in ("cpu", "cpu:2", "cuda:4"):
        with pytest.raises(TargetError, match='pins one device of target="cuda"'):
            parse_target(text, 0)


def test_the_number_is_explained() -> None:
    text = parse_target("cuda:4").explain()
    assert "4 CUDA devices" in text and "not the device of index 4" in text and "device=4" in text


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_there(parse_target("cuda:2"))
    check_there(parse_target("cuda", 1))
    with pytest.raises(TargetError, match=r"finds 2 CUDA devices.*cuda:2"):
        check_there(parse_target("cuda:4"))
    with pytest.raises(TargetError, match="CUDA device 2;"):
        check_there(parse_target("cuda", 2))


def test_without_cuda_processes_are_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TargetError, match=r'no CUDA devices.*target="cpu:4"'):
        check_there(parse_target("cuda:4"))
    with pytest.raises(TargetError, match="at most 64"):
        check_there(parse_target("cpu:100"))
