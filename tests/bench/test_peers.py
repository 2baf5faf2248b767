"""The real peers on a small net, where they are installed: same thread count, same results."""

from __future__ import annotations

import pytest
import torch

from leptonc.bench import peers, protocol, suites
from leptonc.errors import LeptoncError


@pytest.mark.parametrize("name", ["eager", "onnxruntime", "openvino"])
def test_peer_gives_eagers_result(name: str) -> None:
    if (reason := peers.missing(name)) is not None:
        pytest.skip(reason)
    net = suites.pick(["tiny"], ["mlp"])[0]
    model, inputs = suites.build(net), net.inputs(3)
    with peers.job("mlp", model, inputs, 1) as job, torch.no_grad():
        call = peers.PEERS[name](job)
        assert protocol.worst_error(call(), model(*inputs)) < 1e-5
        assert (job.export.seconds > 0) == (name in peers.NEEDS_ONNX)
        folder = job.folder
    assert not folder.exists()


@pytest.mark.skipif(peers.missing("ncnn") is not None, reason="ncnn is not installed")
def test_ncnn_gives_eagers_result_or_a_reason() -> None:
    net = suites.pick(["tiny"], ["conv3"])[0]
    model = suites.build(net)
    with peers.job("conv3", model, net.inputs(1), 1) as job, torch.no_grad():
        call = peers.PEERS["ncnn"](job)
        assert protocol.worst_error(call(), model(*job.inputs)) < 1e-5
    with (
        peers.job("conv3", model, net.inputs(2), 1) as job,
        torch.no_grad(),
        pytest.raises(LeptoncError, match="one sample"),
    ):
        peers.PEERS["ncnn"](job)


@pytest.mark.skipif(peers.missing("ncnn") is not None, reason="ncnn is not installed")
def test_ncnn_gets_no_truth_values() -> None:
    # A stored mask of bools made it write beyond its memory and ended the whole benchmark.
    (net,) = suites.pick(["kernels"], ["attention_12x64_384_padded"])
    model = suites.build(net)
    with (
        peers.job(net.name, model, net.inputs(1), 1) as job,
        pytest.raises(LeptoncError, match="truth values"),
    ):
        peers.PEERS["ncnn"](job)


def test_inductor_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as config

    seen = []

    def compile(model, dynamic):
        seen.append((config.freezing, config.cpp.threads))
        return model

    monkeypatch.setattr(torch, "compile", compile)
    net = suites.pick(["tiny"], ["mlp"])[0]
    with peers.job("mlp", suites.build(net), net.inputs(1), 1) as job, torch.no_grad():
        peers.PEERS["inductor"](job)()
    assert seen == [(True, 1)]
    assert not config.freezing


def test_missing_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "version", lambda package: None)
    assert peers.missing("openvino") == "not installed: openvino, onnx, onnxscript"
    assert peers.missing("eager") is None
