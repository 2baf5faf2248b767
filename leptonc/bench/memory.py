"""Memory of a compiled network: ``python -m leptonc.bench.memory NET...``.

Every figure comes from a process of its own: resident bytes above what it held when its libraries
were imported, after set-up and three calls, free heap pages given back to the system first. Once
with the user's model kept, once with it deleted. The ONNX file that onnxruntime and openvino read
is written by another process, so that they never hold the model; "first" finds an empty cache,
"again" what the first left.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from leptonc.bench import peers, protocol, suites

DEFAULT = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "vgg16", "minilm_128",
    "bert_base_128",
)  # fmt: skip
CONTESTANTS = ("first", "again", "eager", "inductor", "onnxruntime", "openvino")
OURS = ("first", "again")
CALLS = 3
TIMEOUT_S = 600
MIB = 1 << 20
_IMPORTS = {
    "first": ("leptonc.api", "torch.export._trace"),
    "again": ("leptonc.api", "torch.export._trace"),
    "inductor": ("torch._inductor.compile_fx",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


@dataclass(frozen=True)
class Held:
    """Resident bytes above the imports; of ours also the arena and the least it could be."""

    kept: int
    deleted: int
    arena: int = 0
    bound: int = 0


def resident() -> int:
    """Return the resident bytes after a collection, free heap pages given back where possible."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return protocol.memory("VmRSS") or 0


def measure(name: str, who: str, folder: Path) -> Held:
    """Return what ``who`` holds for a network in this process, which should be a new one."""
    net = _net(name)
    for module in _IMPORTS.get(who, ()):
        importlib.import_module(module)
    if net.needs:
        importlib.import_module("leptonc.bench.vision").beside(net.needs)
    elif "_" in name:
        _net("minilm_16").make()  # transformers imports its models when they are made
    torch.set_grad_enabled(False)
    inputs, before = net.inputs(1), resident()
    model = None if who in peers.NEEDS_ONNX else suites.build(net)
    call, stats = _prepare(model, inputs, who, name, folder)
    for _ in range(CALLS):
        call()
    kept = resident()
    if who == "eager":
        return Held(kept - before, kept - before)
    del model
    return Held(
        kept - before,
        resident() - before,
        stats.get("arena_bytes", 0),
        stats.get("arena_lower_bound_bytes", 0),
    )


def _prepare(
    model: Any, inputs: Sequence[torch.Tensor], who: str, name: str, folder: Path
) -> tuple[Callable[[], Any], dict[str, Any]]:
    if who in OURS:
        net = importlib.import_module("leptonc").compile(model, tuple(inputs))
        return (lambda: net(*inputs)), net.stats
    job = peers.Job(name, model, tuple(inputs), torch.get_num_threads(), folder)
    return peers.PEERS[who](job), {}


def export(name: str, folder: Path) -> None:
    """Write the ONNX file of a network."""
    net = _net(name)
    with torch.no_grad():
        peers.Job(name, suites.build(net), net.inputs(1), 1, folder).onnx()


def _net(name: str) -> suites.Net:
    return suites.pick(tuple(suites.SUITES), [name])[0]


def _elsewhere(*arguments: str, cache: Path) -> str:
    """Return what this module prints in a new process, or raise with its last line."""
    setting = f"LEPTONC_CACHE_DIR={cache}"
    command = ["env", setting, sys.executable, "-m", "leptonc.bench.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return (done.stdout.strip().splitlines() or [""])[-1]


def table(nets: Sequence[str], say: Callable[[str], None] = print) -> Table:
    """Return MiB of every contestant on ``nets``; a blank cell is said why."""
    title = "MiB above the imports, model deleted (kept); arena and its lower bound"
    made = Table("net", *CONTESTANTS, "arena", "bound", title=title)
    for name in nets:
        with tempfile.TemporaryDirectory(prefix="leptonc-memory-") as text:
            folder, cells, ours = Path(text), list[str](), Held(0, 0)
            _elsewhere("--export", name, str(folder), cache=folder)
            for who in CONTESTANTS:
                try:
                    raw = _elsewhere("--measure", name, who, str(folder), cache=folder)
                except (RuntimeError, subprocess.TimeoutExpired) as e:
                    say(f"{name}, {who}: {e}")
                    cells.append("")
                    continue
                held = Held(**json.loads(raw))
                ours = held if who in OURS else ours
                cells.append(f"{held.deleted / MIB:.0f} ({held.kept / MIB:.0f})")
            made.add_row(name, *cells, f"{ours.arena / MIB:.2f}", f"{ours.bound / MIB:.2f}")
    return made


def main(arguments: list[str]) -> None:
    """Export or measure one net for another process, or print the table."""
    if arguments[:1] == ["--export"]:
        export(arguments[1], Path(arguments[2]))
    elif arguments[:1] == ["--measure"]:
        name, who, folder = arguments[1:4]
        print(json.dumps(asdict(measure(name, who, Path(folder)))))
    else:
        Console(width=140).print(table(tuple(arguments) or DEFAULT))


if __name__ == "__main__":
    main(sys.argv[1:])
