"""bench > layer_times: times of layers in the parts of a split model, before and after."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from torch import Tensor, nn

import leptonc

AND = " + "  # between the names of layers of one row
BETWEEN = "between layers"  # values that change their layout or their format on the way


def layers_of(module: nn.Module) -> dict[str, str]:
    """Return the kind of every layer with a time of its own, by path, in order: ``Conv2d``."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.pooling._MaxPoolNd)
    return {name: type(m).__name__ for name, m in module.named_modules() if isinstance(m, kinds)}


def part_profiles(module: nn.Module, x: Tensor, count: int, threads: int) -> list[Any]:
    """Return the profiles of the ``count`` parts of a model of one input, in order.

    Each part is given what the parts before it made.
    """
    parts = leptonc.split(module, count, x, threads=threads)
    known, found = {parts[0].inputs[0]: x}, list[Any]()
    for part in parts:
        given = [known[name] for name in part.inputs]
        found.append(part.profile(*given))
        known |= part(*given)
    return found


def by_layer(units: Iterable[Any], layers: Mapping[str, str]) -> dict[str, float]:
    """Return the microseconds of each layer, and of what belongs to none.

    A pool that works on codes is said to be of the layer that reads them: it is counted with the
    pool before that. One that is done by the convolution before it has no time of its own.
    """
    names = list(layers)
    found = dict.fromkeys((*names, BETWEEN), 0.0)
    for unit in units:
        at = unit.where if unit.where in layers else BETWEEN
        if "pool" in unit.algorithm and at in layers and "Pool" not in layers[at]:
            at = names[names.index(at) - 1]
        found[at] += unit.us
    return found


def together(
    times: Sequence[Mapping[str, float]], layers: Mapping[str, str]
) -> list[dict[str, float]]:
    """Return the times of steps, a pool that some step does with the layer before it as one row."""
    names, made = list(layers), [dict(t) for t in times]
    for before, name in itertools.pairwise(names):
        if "Pool" in layers[name] and not all(t[name] for t in times):
            made = [_joined(t, before, name) for t in made]
    return made


def _joined(times: Mapping[str, float], before: str, name: str) -> dict[str, float]:
    both = {before: f"{before}{AND}{name}"}
    found = {both.get(n, n): us for n, us in times.items() if n != name}
    found[both[before]] += times[name]
    return found


def layer_table(
    steps: Sequence[tuple[str, nn.Module]], x: Tensor, count: int, threads: int
) -> Table:
    """Return the time of each layer at each step; the first step is the model as it was trained.

    Args:
        steps: names and modules: the model, then what was made of it.
        x: a batch.
        count: into how many parts each is split.
        threads: of each part.
    """
    layers = layers_of(steps[0][1])
    times = list[dict[str, float]]()
    for _, module in steps:
        profiles = part_profiles(module, x, count, threads)
        times.append(by_layer((u for p in profiles for u in p.units), layers))
    times = together(times, layers)
    heads = [f"{name}, us" for name, _ in steps] + [f"{name}: faster" for name, _ in steps[1:]]
    made = Table("layer", *heads, title=f"each layer in {count} parts, {threads} threads")
    for name in (*times[0], "all"):
        us = [sum(t.values()) if name == "all" else t[name] for t in times]
        label = f"{name} {layers[name]}" if name in layers else name
        faster = [f"{us[0] / u:.2f}x" if u and us[0] else "" for u in us[1:]]
        made.add_row(label, *(f"{u:.0f}" for u in us), *faster, end_section=name == BETWEEN)
    return made
