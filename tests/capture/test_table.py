"""The importer table names real operators."""

from __future__ import annotations

import importlib

import torch

from leptonc.capture.aten import IMPORTERS


def test_targets_exist() -> None:
    """Operators of other libraries are registered when the library is imported."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    try:
        importlib.import_module("torchao.quantization")
        known = ("torchao",)
    except ImportError:
        known = ()
    missing = []
    for target in IMPORTERS:
        namespace, name, overload = target.split(".")
        if namespace == "torchao" and not known:
            continue
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is None or overload not in packet.overloads():
            missing.append(target)
    assert not missing, missing


def test_it_covers_the_field() -> None:
    assert len(IMPORTERS) > 400
