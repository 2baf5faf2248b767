"""ncnn as a peer: pnnx converts TorchScript to its files; fp32, Winograd, light mode.

ncnn takes one float sample without a batch axis; for anything else it has no figure. pnnx is a
program of its own that links its own libtorch, so it runs beside this process, on a traced module.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leptonc.errors import LeptoncError

TIMEOUT_S = 300
_HALF = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage")


class Unsupported(LeptoncError):
    """A network that ncnn cannot run, and why."""


def prepare(
    model: nn.Module, inputs: Sequence[Tensor], threads: int, folder: Path
) -> Callable[[], list[np.ndarray]]:
    """Return a call of ``model`` in ncnn on ``inputs``; its files lie in ``folder``.

    Raises:
        Unsupported: pnnx or ncnn cannot take it.
    """
    if any(not t.is_floating_point() for t in inputs):
        raise Unsupported("integer inputs: pnnx leaves casts that ncnn has no layer for")
    if any(t.ndim < 2 or t.shape[0] != 1 for t in inputs):
        raise Unsupported("ncnn runs one sample at a time, without a batch axis")
    if any(b.dtype is torch.bool for b in model.buffers()):
        # It would read four bytes of each and write beyond them: the heap is broken then.
        raise Unsupported("stored truth values: ncnn takes their bytes for floats")
    _convert(model, inputs, folder)
    net = _load(folder, threads)
    mats = [importlib.import_module("ncnn").Mat(t[0].contiguous().numpy()).clone() for t in inputs]
    names, results = net.input_names(), net.output_names()
    if len(names) != len(mats) or not results:
        raise Unsupported(f"the converted net has {len(names)} inputs, {len(results)} results")

    def call() -> list[np.ndarray]:
        run = net.create_extractor()
        for name, mat in zip(names, mats):
            run.input(name, mat)
        found: list[np.ndarray] = []
        for name in results:
            status, out = run.extract(name)
            if status:
                raise Unsupported(f"ncnn fails with status {status} at {name}")
            found.append(np.array(out)[None])
        return found

    return call


def _convert(model: nn.Module, inputs: Sequence[Tensor], folder: Path) -> None:
    """Write ``net.ncnn.param`` and ``net.ncnn.bin``. Raises Unsupported."""
    script, pnnx = folder / "net.pt", importlib.import_module("pnnx")
    traced: Any = torch.jit.trace(model, tuple(inputs), check_trace=False)
    traced.save(str(script))
    shapes = ",".join(f"[{','.join(map(str, t.shape))}]f32" for t in inputs)
    command = [pnnx.EXEC_PATH, script.name, f"inputshape={shapes}", "fp16=0"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace"
    )
    if not (folder / "net.ncnn.param").exists():
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise Unsupported(f"pnnx cannot convert it: {last}")


def _load(folder: Path, threads: int) -> Any:
    """Return the net loaded. Raises Unsupported."""
    ncnn = importlib.import_module("ncnn")
    net = ncnn.Net()
    for name in _HALF:
        setattr(net.opt, f"use_{name}", False)
    net.opt.num_threads = threads
    net.opt.lightmode = True
    net.opt.use_winograd_convolution = True
    param, weights = folder / "net.ncnn.param", folder / "net.ncnn.bin"
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise Unsupported("ncnn lacks a layer that pnnx asks for")
    return net
