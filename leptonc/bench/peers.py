"""The peers that leptonc is measured against. Each is optional: a missing one is a blank cell."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leptonc.bench import ncnn_peer
from leptonc.bench.protocol import Call, Footprint, footprint
from leptonc.errors import LeptoncError


@dataclass
class Job:
    """One network on its input at a thread count, and the ONNX file that two peers share.

    ``folder`` is a temporary directory of the job's own.
    """

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    threads: int
    folder: Path
    export: Footprint = field(default_factory=Footprint)

    def onnx(self) -> Path:
        """Return the path of the model as ONNX, exported when first asked for."""
        path = self.folder / "model.onnx"
        if not path.exists():
            with footprint() as self.export, silent():
                torch.onnx.export(self.model, self.inputs, str(path), dynamo=True, verbose=False)
        return path


@contextlib.contextmanager
def job(name: str, model: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Iterator[Job]:
    """Yield a job whose folder goes away with it."""
    with tempfile.TemporaryDirectory(prefix="leptonc-bench-") as folder:
        yield Job(name, model, inputs, threads, Path(folder))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep an exporter's chatter out of the table; errors are raised as ever."""
    quiet = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(quiet):
                yield
    finally:
        logging.disable(before)


def _eager(job: Job) -> Call:
    model, inputs = job.model, job.inputs
    return lambda: model(*inputs)


def _inductor(job: Job) -> Call:
    """``torch.compile`` with weights frozen; without freezing it is slower than eager."""
    config = importlib.import_module("torch._inductor.config")
    torch.compiler.reset()
    with config.patch({"freezing": True, "cpp.threads": job.threads}), silent():
        compiled = torch.compile(job.model, dynamic=False)
        compiled(*job.inputs)
    inputs = job.inputs
    return lambda: compiled(*inputs)


def _onnxruntime(job: Job) -> Call:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(job.onnx()), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    feed = dict(zip(names, (t.numpy() for t in job.inputs), strict=True))
    return lambda: session.run(None, feed)


def _openvino(job: Job) -> Call:
    ov = importlib.import_module("openvino")
    path = job.onnx()
    config = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = ov.Core().compile_model(str(path), "CPU", config)
    request = compiled.create_infer_request()
    arrays = [t.numpy() for t in job.inputs]

    def call() -> list[Any]:
        result = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [result[o] for o in compiled.outputs]

    return call


def _ncnn(job: Job) -> Call:
    with silent():
        return ncnn_peer.prepare(job.model, job.inputs, job.threads, job.folder)


PEERS: Mapping[str, Callable[[Job], Call]] = {
    "eager": _eager,
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
}
NEEDS_ONNX = ("onnxruntime", "openvino")
# What must be importable beside torch for a peer to take part.
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "ncnn": ("ncnn", "pnnx"),
}


def missing(peer: str) -> str | None:
    """Return why ``peer`` cannot take part on this machine, None if it can."""
    absent = [p for p in _PACKAGES.get(peer, ()) if version(p) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def version(package: str) -> str | None:
    """Return the installed version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def chosen(text: str) -> Sequence[str]:
    """Return the peers that ``text`` names: ``all``, ``none``, or names by comma; eager always.

    Raises:
        LeptoncError: a name that is no peer.
    """
    if text == "all":
        return tuple(PEERS)
    names = [] if text == "none" else [n.strip() for n in text.split(",") if n.strip()]
    for name in names:
        if name not in PEERS:
            raise LeptoncError(f"unknown peer {name!r}; there are: {', '.join(PEERS)}, all, none")
    return ("eager", *(n for n in names if n != "eager"))
