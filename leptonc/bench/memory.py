"""Memory of compiled networks and of their peers: ``python -m leptonc.bench.memory --help``.

Every figure comes from a process of its own: bytes above what it held when its libraries were
imported. "steady" is what stays resident after set-up and three calls, the model deleted, garbage
collected and free heap pages given back; "anonymous" the part of it that no file backs (the system
may drop pages of files, and processes share them); "peak" the most that was resident at once.
onnxruntime and openvino read an ONNX file that another process wrote and never hold the model;
"first" (empty cache) and "again" (what "first" left) are ``leptonc.compile`` and hold it while they
compile; "stored" has the stored program alone, neither model nor capture. What making the model and
dropping it leaves (pages of torch's code that draws weights, for one) is part of what they hold; it
is told by itself, too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from leptonc.bench import memory_table, peers, protocol, suites

OURS = ("first", "again", "stored")
CONTESTANTS = (*OURS, "eager", "inductor", "onnxruntime", "openvino")
DEFAULT = (*OURS, "onnxruntime", "openvino")
CALLS = 3
TIMEOUT_S = 600
_SIGNATURE = "signature.pickle"
_IMPORTS = {
    "first": ("leptonc.api", "torch.export._trace"),
    "again": ("leptonc.api", "torch.export._trace"),
    "stored": ("leptonc.stored",),
    "inductor": ("torch._inductor.compile_fx",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


@dataclass(frozen=True)
class Held:
    """Bytes of one process: ``imports`` in all, the others above that (see the module).

    ``kept`` is ``steady`` while the model is still there, ``making`` what a model that was made and
    dropped leaves before anything else is done. Of ours also the bytes of the program's
    constants, of its arena, and the least the arena could be.
    """

    imports: int
    steady: int
    anonymous: int
    peak: int
    kept: int
    making: int = 0
    constants: int = 0
    arena: int = 0
    bound: int = 0


def resident(field: str = "VmRSS") -> int:
    """Return the resident bytes after a collection, free heap pages given back where possible."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return protocol.memory(field) or 0


def measure(name: str, who: str, folder: Path) -> Held:
    """Return what ``who`` holds for a network in this process, which should be a new one."""
    net = _net(name)
    for module in _IMPORTS.get(who, ()):
        importlib.import_module(module)
    modelless = who in peers.NEEDS_ONNX or who == "stored"
    if not modelless:
        _import_model(net)
    torch.set_grad_enabled(False)
    inputs = net.inputs(1)
    before, anonymous = resident(), resident("RssAnon")
    if not modelless:
        suites.build(net)
    making = resident() - before
    with protocol.footprint() as footprint:
        model = None if modelless else suites.build(net)
        call, stats = _prepare(model, inputs, who, name, folder)
        for _ in range(CALLS):
            call()
    kept = resident()
    if who not in ("eager", "inductor"):
        del model
    return Held(
        imports=before,
        steady=resident() - before,
        anonymous=resident("RssAnon") - anonymous,
        peak=footprint.peak_bytes or 0,
        kept=kept - before,
        making=making,
        constants=stats.get("constant_bytes", 0),
        arena=stats.get("arena_bytes", 0),
        bound=stats.get("arena_lower_bound_bytes", 0),
    )


def _import_model(net: suites.Net) -> None:
    """Import what making ``net`` imports."""
    if net.needs:
        importlib.import_module("leptonc.bench.vision").beside(net.needs)
    if net in suites.SUITES["encoder"] and net.needs != "torchvision":
        _net("minilm_16").make()  # transformers imports its models when they are made


def _prepare(
    model: Any, inputs: Sequence[torch.Tensor], who: str, name: str, folder: Path
) -> tuple[Callable[[], Any], dict[str, Any]]:
    if who == "stored":
        net = _revived(name, inputs, folder)
        return (lambda: net(*inputs)), net.stats
    if who in OURS:
        net = importlib.import_module("leptonc").compile(model, tuple(inputs))
        if who == "first":
            _keep_signature(net, folder)
        return (lambda: net(*inputs)), net.stats
    job = peers.Job(name, model, tuple(inputs), torch.get_num_threads(), folder)
    return peers.PEERS[who](job), {}


def _keep_signature(net: Any, folder: Path) -> None:
    """Write what a stored program needs beside its cache entry: how it is called."""
    (spec,) = net.specializations
    alone = dataclasses.replace(spec.captured.function, ops=(), returns=())
    signature = dataclasses.replace(spec.captured, function=alone, remarks=())
    kept = (signature, {"threads": spec.threads, "precision": spec.precision})
    (folder / _SIGNATURE).write_bytes(pickle.dumps(kept))


def _revived(name: str, inputs: Sequence[torch.Tensor], folder: Path) -> Any:
    """Return the only program in the cache, loaded without the model it was captured from."""
    stored, compiled, compiler, cache = (
        importlib.import_module(f"leptonc.{part}")
        for part in ("stored", "compiled", "compiler", "runtime.cache")
    )
    (entry,) = (folder / "compile").glob("??/*")
    # Our own file, written by another process of this measurement.
    signature, made = pickle.loads((folder / _SIGNATURE).read_bytes())
    found = cache.CompileCache(folder)
    spec, _ = stored.load(found, entry.name, signature, inputs, stages=tuple, **made)
    net = compiled.CompiledModel(name, lambda *_: spec, respecialize=False, describe=str)
    net.specialize(tuple(inputs), {})
    net.stats.update(compiler.figures(net.specializations[0].bind({})))
    return net


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


def row(
    name: str, who: Sequence[str], known: memory_table.Row, say: Callable[[str], None] = print
) -> memory_table.Row:
    """Return what each of ``who`` holds for a network, ``known`` ones as they are.

    Who cannot take part is missing; ``say`` gets the reason.
    """
    found = dict(known)
    with tempfile.TemporaryDirectory(prefix="leptonc-memory-") as text:
        folder = Path(text)
        todo = [w for w in who if w not in known]
        if any(w in OURS for w in todo) and "first" not in todo:
            todo.insert(0, "first")  # fills the cache of the others
        if any(w in peers.NEEDS_ONNX for w in todo):
            _elsewhere("--export", name, str(folder), cache=folder)
        for contestant in todo:
            try:
                raw = _elsewhere("--measure", name, contestant, str(folder), cache=folder)
                found[contestant] = json.loads(raw)
            except (RuntimeError, subprocess.TimeoutExpired) as e:
                say(f"{name}, {contestant}: {e}")
    return found


def main(arguments: list[str]) -> None:
    """Export or measure one net for another process, or print the tables."""
    if arguments[:1] == ["--export"]:
        export(arguments[1], Path(arguments[2]))
    elif arguments[:1] == ["--measure"]:
        name, who, folder = arguments[1:4]
        print(json.dumps(asdict(measure(name, who, Path(folder)))))
    else:
        _print_tables(_options().parse_args(arguments))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m leptonc.bench.memory", description=__doc__)
    parser.add_argument("nets", nargs="*", help="networks; default: all of the suites")
    parser.add_argument("--suite", default="tiny,cnn,encoder", help="suites, by comma")
    parser.add_argument("--who", default=",".join(DEFAULT), help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--json", type=Path, help="figures: kept here, and not measured again")
    return parser


def _print_tables(asked: argparse.Namespace) -> None:
    console = Console(width=150)
    who = [w for w in CONTESTANTS if w in asked.who.split(",")]
    nets = suites.pick(
        tuple(suites.SUITES) if asked.nets else asked.suite.split(","), asked.nets or None
    )
    known = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else {}
    rows: dict[str, memory_table.Row] = {}
    for net in (n for n in nets if n.available):
        rows[net.name] = known[net.name] = row(net.name, who, known.get(net.name, {}))
        if asked.json:
            asked.json.write_text(json.dumps(known, indent=1))
    console.print(memory_table.bytes_table(rows, who))
    console.print(memory_table.arena_table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
