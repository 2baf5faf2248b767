"""The importer table names real operators."""

from __future__ import annotations

import torch

from leptonc.capture.aten import IMPORTERS


def test_targets_exist() -> None:
    missing = []
    for target in IMPORTERS:
        namespace, name, overload = target.split(".")
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is None or overload not in packet.overloads():
            missing.append(target)
    assert not missing, missing


def test_it_covers_the_field() -> None:
    assert len(IMPORTERS) > 400
