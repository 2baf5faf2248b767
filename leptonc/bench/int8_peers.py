"""bench > int8_peers: one float32 network in int8 by others, with the same calibration inputs.

ONNX Runtime quantizes statically (QDQ, per channel, with ``reduce_range`` and without); OpenVINO
runs what NNCF quantizes, and what ONNX Runtime does. A peer that is not installed raises
ImportError when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leptonc.bench import peers, protocol

Run = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Job:
    """What is quantized: a network, an example, calibration inputs; ``folder`` is for files.

    ``transformer`` lets a peer that asks treat it as one.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    calibration: Sequence[tuple[Tensor, ...]]
    threads: int
    folder: Path
    transformer: bool = False

    def onnx(self) -> Path:
        """Return the path of the float32 model as ONNX, exported when first asked for."""
        path = self.folder / "float.onnx"
        if not path.exists():
            with peers.silent():
                torch.onnx.export(
                    self.model, self.example, str(path), dynamo=True, verbose=False,
                    external_data=False,
                )  # fmt: skip
        return path


class _Reader:
    """Calibration data as ONNX Runtime reads it."""

    def __init__(self, path: Path, batches: Sequence[Sequence[Tensor]]) -> None:
        ort = importlib.import_module("onnxruntime")
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        self.feeds = iter([_feed(names, batch) for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next feed, None at the end."""
        return next(self.feeds, None)


def _feed(names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, Any]:
    return dict(zip(names, (t.numpy() for t in inputs), strict=True))


def _qdq(job: Job, reduce_range: bool) -> Path:
    """Return the model as ONNX Runtime quantizes it."""
    path = job.folder / f"qdq{int(reduce_range)}.onnx"
    if path.exists():
        return path
    q = importlib.import_module("onnxruntime.quantization")
    prepared = job.folder / "prepared.onnx"
    with peers.silent():
        importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process(
            str(job.onnx()), str(prepared), skip_symbolic_shape=True
        )
        q.quantize_static(
            str(prepared), str(path), _Reader(prepared, job.calibration),
            quant_format=q.QuantFormat.QDQ, per_channel=True, reduce_range=reduce_range,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
        )  # fmt: skip
    return path


def _onnxruntime(job: Job, reduce_range: bool) -> Run:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = str(_qdq(job, reduce_range))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda inputs: protocol.tensors(session.run(None, _feed(names, inputs)))


def _nncf(job: Job) -> Run:
    nncf, ov = (importlib.import_module(name) for name in ("nncf", "openvino"))
    model = ov.Core().read_model(str(job.onnx()))
    data = nncf.Dataset([[t.numpy() for t in batch] for batch in job.calibration])
    kind = nncf.ModelType.TRANSFORMER if job.transformer else None
    with peers.silent():
        quantized = nncf.quantize(model, data, subset_size=len(job.calibration), model_type=kind)
    return _openvino(job, quantized)


def _openvino(job: Job, model: Any) -> Run:
    """Return what runs a model or the ONNX file of one."""
    config = {
        "INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    compiled = importlib.import_module("openvino").Core().compile_model(model, "CPU", config)
    request = compiled.create_infer_request()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        result = request.infer([t.numpy() for t in inputs], share_inputs=True, share_outputs=True)
        return protocol.tensors([result[o] for o in compiled.outputs])

    return run


PEERS: Mapping[str, Callable[[Job], Run]] = {
    "onnxruntime": lambda job: _onnxruntime(job, reduce_range=False),
    "onnxruntime reduce_range": lambda job: _onnxruntime(job, reduce_range=True),
    "openvino nncf": _nncf,
    "openvino of onnxruntime's": lambda job: _openvino(job, str(_qdq(job, reduce_range=True))),
}
"""By name what quantizes a job and returns what runs it."""


def prepared(
    contestants: Mapping[str, Callable[[Job], Run]], job: Job
) -> tuple[dict[str, Run], dict[str, str]]:
    """Return what runs each contestant, and why others do not: a line by name."""
    runs, notes = dict[str, Run](), dict[str, str]()
    for name, prepare in contestants.items():
        try:
            runs[name] = prepare(job)
        except Exception as e:  # whatever a contestant throws makes a blank row
            first = str(e).strip().splitlines() or [""]
            notes[name] = f"{type(e).__name__}: {first[0][:120]}"
    return runs, notes
