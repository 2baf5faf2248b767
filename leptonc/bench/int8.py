"""int8 against the best int8 of peers: ``python -m leptonc.bench.int8 [NET...] [--threads 1,2]``.

Every contestant quantizes the same float32 network with the same calibration data: leptonc with
``Quantize()``, ONNX Runtime with its static QDQ quantization (per channel, ``reduce_range``, and
without), OpenVINO with NNCF, or with ONNX Runtime's QDQ model where NNCF is not installed. Times
are interleaved (:mod:`protocol`); errors are relative ones of the results against float32, on
inputs that were not used for calibration. ``fp32`` is leptonc's own float32 program.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc.bench import peers, protocol, suites

NETS = ("resnet18", "resnet50", "mobilenet_v2", "minilm_128")
SAMPLES, CHECKED = 16, 4  # calibration inputs, and inputs that errors are taken on
OURS, FLOAT = "leptonc", "fp32"
Run = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Case:
    """One network: its example, calibration inputs, inputs for errors, and threads."""

    name: str
    model: nn.Module
    example: tuple[Tensor, ...]
    calibration: tuple[tuple[Tensor, ...], ...]
    checked: tuple[tuple[Tensor, ...], ...]
    threads: int
    folder: Path


@dataclass(frozen=True)
class Figure:
    """One contestant: milliseconds (median of each round's best), relative error to float32."""

    net: str
    threads: int
    contestant: str
    ms: float | None
    error: float | None
    note: str = ""


def drawn(inputs: Sequence[Tensor], count: int, seed: int) -> tuple[tuple[Tensor, ...], ...]:
    """Return ``count`` inputs like ``inputs``: normal floats, whole numbers shuffled in place."""
    g = torch.Generator().manual_seed(seed)
    made: list[tuple[Tensor, ...]] = []
    for _ in range(count):
        one = []
        for t in inputs:
            if t.is_floating_point():
                one.append(torch.randn(t.shape, generator=g))
            elif int(t.max()) <= 1:  # a mask
                one.append(t)
            else:
                one.append(torch.randint(1, 20000, t.shape, generator=g, dtype=t.dtype))
        made.append(tuple(one))
    return tuple(made)


# ----- contestants --------------------------------------------------------------------------------


def _ours(case: Case) -> Run:
    recipe = leptonc.Quantize()
    small = leptonc.compress.compress(case.model, case.example, recipe, data=case.calibration)
    return _compiled(small, case)


def _float(case: Case) -> Run:
    return _compiled(case.model, case)


def _compiled(model: nn.Module, case: Case) -> Run:
    net = leptonc.compile(model, case.example, threads=case.threads)
    return lambda inputs: protocol.tensors(net(*inputs))


def _onnx(case: Case) -> Path:
    path = case.folder / "float.onnx"
    if not path.exists():
        with peers._silent():
            torch.onnx.export(
                case.model, case.example, str(path), dynamo=True, verbose=False, external_data=False
            )
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


def _qdq(case: Case, reduce_range: bool) -> Path:
    """Return the model as ONNX Runtime quantizes it."""
    path = case.folder / f"qdq{int(reduce_range)}.onnx"
    if path.exists():
        return path
    q = importlib.import_module("onnxruntime.quantization")
    prepared = case.folder / "prepared.onnx"
    with peers._silent():
        importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process(
            str(_onnx(case)), str(prepared), skip_symbolic_shape=True
        )
        q.quantize_static(
            str(prepared), str(path), _Reader(prepared, case.calibration),
            quant_format=q.QuantFormat.QDQ, per_channel=True, reduce_range=reduce_range,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
        )  # fmt: skip
    return path


def _onnxruntime(reduce_range: bool) -> Callable[[Case], Run]:
    def prepare(case: Case) -> Run:
        ort = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = str(_qdq(case, reduce_range))
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        return lambda inputs: protocol.tensors(session.run(None, _feed(names, inputs)))

    return prepare


def _openvino(case: Case) -> Run:
    ov = importlib.import_module("openvino")
    config = {
        "INFERENCE_NUM_THREADS": case.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    core = ov.Core()
    try:
        nncf = importlib.import_module("nncf")
        model = core.read_model(str(_onnx(case)))
        data = nncf.Dataset([[t.numpy() for t in batch] for batch in case.calibration])
        with peers._silent():
            quantized = nncf.quantize(
                model, data, subset_size=SAMPLES,
                model_type=nncf.ModelType.TRANSFORMER if "minilm" in case.name else None,
            )  # fmt: skip
    except ImportError:
        quantized = core.read_model(str(_qdq(case, False)))
    compiled = core.compile_model(quantized, "CPU", config)
    request = compiled.create_infer_request()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        result = request.infer([t.numpy() for t in inputs], share_inputs=True, share_outputs=True)
        return protocol.tensors([result[o] for o in compiled.outputs])

    return run


CONTESTANTS: Mapping[str, Callable[[Case], Run]] = {
    OURS: _ours,
    FLOAT: _float,
    "onnxruntime": _onnxruntime(False),
    "onnxruntime reduce_range": _onnxruntime(True),
    "openvino": _openvino,
}


# ----- measuring ----------------------------------------------------------------------------------


def measure(name: str, threads: int, seconds: float, folder: Path) -> list[Figure]:
    """Return the figures of all contestants on one network."""
    (net,) = suites.pick(tuple(suites.SUITES), [name])
    model, example = suites.build(net), net.inputs(1)
    case = Case(
        name, model, example, drawn(example, SAMPLES, 1), drawn(example, CHECKED, 2), threads,
        folder,
    )  # fmt: skip
    torch.set_num_threads(threads)
    runs: dict[str, Run] = {}
    notes: dict[str, str] = {}
    with torch.no_grad():
        wanted = [protocol.tensors(model(*inputs)) for inputs in case.checked]
        for label, prepare in CONTESTANTS.items():
            try:
                runs[label] = prepare(case)
            except Exception as e:  # whatever a contestant throws makes a blank cell
                notes[label] = f"{type(e).__name__}: {str(e).strip().splitlines()[0][:120]}"
        calls = {label: (lambda run=run: run(example)) for label, run in runs.items()}
        with protocol.pinned(threads):
            times = protocol.measure(calls, seconds)
        errors = {label: _error(run, case.checked, wanted) for label, run in runs.items()}
    return [
        Figure(
            name, threads, label, 1e3 * sorted(times[label].best)[len(times[label].best) // 2]
            if label in times else None, errors.get(label), notes.get(label, ""),
        )
        for label in CONTESTANTS
    ]  # fmt: skip


def _error(
    run: Run, checked: Sequence[Sequence[Tensor]], wanted: Sequence[Sequence[Tensor]]
) -> float:
    off = size = 0.0
    for inputs, want in zip(checked, wanted, strict=True):
        for a, b in zip(run(inputs), want, strict=True):
            off += float((a.double() - b.double()).square().sum())
            size += float(b.double().square().sum())
    return (off / size) ** 0.5


def table(figures: Sequence[Figure]) -> Table:
    """Return all figures; the ratio is that of the contestant's time to leptonc's."""
    made = Table("net", "threads", "contestant", "ms", "of leptonc's", "error", "")
    ours = {(f.net, f.threads): f.ms for f in figures if f.contestant == OURS}
    for f in figures:
        base = ours.get((f.net, f.threads))
        made.add_row(
            f.net, str(f.threads), f.contestant, "" if f.ms is None else f"{f.ms:.2f}",
            "" if f.ms is None or base is None else f"{f.ms / base:.2f}",
            "" if f.error is None else f"{f.error:.4f}", f.note,
        )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; write JSON where a path is given."""
    parser = argparse.ArgumentParser(prog="leptonc.bench.int8")
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    found: list[Figure] = []
    for name in args.nets:
        with tempfile.TemporaryDirectory(prefix="leptonc-bench-") as folder:
            for threads in map(int, args.threads.split(",")):
                found += measure(name, threads, args.seconds, Path(folder))
    Console(width=120).print(table(found))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
