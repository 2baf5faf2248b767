"""Commands that plan for several devices without having them: plan."""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Annotated, Any

import typer

from leptonc.cli.app import app
from leptonc.cli.names import model_of
from leptonc.cli.options import Inputs, inputs_of
from leptonc.errors import LeptoncError

_TOKENS = re.compile(r"(\d+)\+(\d+)")


@app.command()
def plan(
    model: Annotated[
        str, typer.Argument(help="MODULE:CALLABLE, or a known decoder, e.g. llama-2-70b")
    ],
    input: Inputs = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="devices to plan for: 8xA100, 4xa100-80@pcie4, 16xh100/8+eth100, 2xcpu"),
    ] = None,
    objective: Annotated[str, typer.Option(help="latency, throughput or cost")] = "latency",
    batch: Annotated[int, typer.Option(min=1, help="requests at once for each replica")] = 1,
    tokens: Annotated[
        str, typer.Option(help="of a decoder's prompt and answer, e.g. 128+128")
    ] = "128+128",
    price: Annotated[
        float | None, typer.Option(min=0.0, help="dollars an hour of one device")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="instead of a cluster: this machine's cpu:2 or cuda:4")
    ] = None,
    full: Annotated[bool, typer.Option(help="with --target: list every weight and op")] = False,
) -> None:
    """Say how a model is best divided over devices: the layout, its speed, memory and cost."""
    if (cluster is None) == (target is None):
        raise LeptoncError("give --cluster (8xA100, any devices) or --target (cpu:2, this machine)")
    if target is not None:
        leptonc = importlib.import_module("leptonc")
        _print(leptonc.plan(model_of(model), inputs_of(input), target).explain(full))
        return
    simulate = importlib.import_module("leptonc.shard.simulate")
    presets = importlib.import_module("leptonc.cost.presets")
    words = importlib.import_module("leptonc.shard.simulate.words")
    where = presets.parse_cluster(cluster, price)
    work = _decoding(model, tokens) if ":" not in model else _running(model, input)
    found = simulate.best_layout(work, where, objective, batch)
    _print(words.tell(work.name, found, where))


def _print(text: str) -> None:
    """Print without colours or wrapping: tables are aligned."""
    print(text)


def _decoding(name: str, tokens: str) -> Any:
    """Return the work of a known decoder."""
    simulate = importlib.import_module("leptonc.shard.simulate")
    decoders = importlib.import_module("leptonc.shard.simulate.decoders")
    found = _TOKENS.fullmatch(tokens)
    if found is None:
        raise LeptoncError(f"--tokens {tokens}: expected prompt and answer, e.g. 128+128")
    return simulate.generation(decoders.decoder(name), int(found[1]), int(found[2]))


def _running(model: str, input: list[str] | None) -> Any:
    """Return the work of a model: one run is a request."""
    simulate = importlib.import_module("leptonc.shard.simulate")
    prepare = importlib.import_module("leptonc.shard.prepare")
    frontend = importlib.import_module("leptonc.capture.frontend")
    made, inputs = model_of(model), inputs_of(input)
    fn = prepare.prepare(frontend.capture(made, inputs).function)
    return dataclasses.replace(simulate.single(fn), name=f"{model} of {', '.join(input or ())}")
