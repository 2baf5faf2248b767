"""What a user may ask of a sharded compile, the cluster that is here, and plans without running."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from leptonc.backends.numba_cpu import peak
from leptonc.capture import Captured
from leptonc.capture.captured import arguments
from leptonc.capture.frontend import capture as capture_model
from leptonc.cost.cluster import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
    Cluster,
    Device,
    Link,
)
from leptonc.errors import TargetError
from leptonc.runtime.governor import Governor
from leptonc.shard import explain as words
from leptonc.shard.hints import Hints, Spatial
from leptonc.shard.placement import Placement
from leptonc.shard.plan import Plan
from leptonc.shard.plan import plan as make_plan
from leptonc.shard.prepare import prepare
from leptonc.targets import Target, parse_target

LAUNCHERS = ("local", "torchrun", "ray")
ENGINES = ("native", "torch", "inductor")

# What products reach of the burst peak, and streams of the bandwidth, on whole nets.
_PRODUCTS, _STREAMS = 0.6, 0.7
_WINOGRAD = 2.25  # 3x3 convolutions of ResNet-18 and VGG-16 against products
_STEP_S = 3e-6  # the least an op takes: its step, and its share of a call
# Between processes of one machine over shared memory: ``python -m leptonc.bench.collectives``.
_SHARED = Link(
    "shared memory", 10e9,
    {ALL_REDUCE: 5e-6, ALL_GATHER: 4e-6, REDUCE_SCATTER: 4.5e-6, ALL_TO_ALL: 4e-6}, 2e-6,
)  # fmt: skip
# More ranks than cores wait for each other's turn: a switch of processes takes this long.
_TURN_S = 10e-6


@dataclass(frozen=True)
class Sharding:
    """How a model is divided and run on several devices; ``leptonc.compile(..., sharding=...)``.

    Attributes:
        hints: placements of weights by name or pattern, ``{"layers.*.mlp.up": Shard(0)}``; images
            are cut with ``leptonc.shard.hints.Spatial``.
        objective: ``"latency"``, or ``"memory"``: the fewest bytes of weights on each rank, and no
            kernels that hold larger ones (Winograd's).
        speeds: of the ranks, for uneven parts; default: equal.
        memory: bytes that a rank may hold; default: what the device has.
        engine: what runs a rank's own units: ``"native"`` CPU kernels, ``"torch"`` or
            ``"inductor"``; default: native on CPUs, else inductor where it works.
        launcher: ``"local"`` (processes of this machine), ``"torchrun"`` (this process is a rank
            of a job that runs already) or ``"ray"`` (extra ``ray``; several machines).
        backend: between local CPU ranks ``"shm"`` or ``"gloo"``.
        deadline_s: seconds that a call may take.
        load_deadline_s: seconds that starting the ranks may take.
    """

    hints: Hints = field(default_factory=dict[str, "Placement | Spatial"])
    objective: str = "latency"
    speeds: Sequence[float] | None = None
    memory: float | None = None
    engine: str | None = None
    launcher: str = "local"
    backend: str = "shm"
    deadline_s: float = 60.0
    load_deadline_s: float = 120.0

    def __post_init__(self) -> None:
        """Raise TargetError for a launcher or an engine that does not exist."""
        if self.launcher not in LAUNCHERS:
            raise TargetError(
                f"unknown launcher {self.launcher!r}; there are: {', '.join(LAUNCHERS)}"
            )
        if self.engine is not None and self.engine not in ENGINES:
            raise TargetError(f"unknown engine {self.engine!r}; there are: {', '.join(ENGINES)}")


class Planned:
    """A plan for a model: print it, or ask for its parts."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self.plan = plan
        self.target = target

    def explain(self, full: bool = False) -> str:
        """Return what was planned and why; ``full`` lists every weight and every op."""
        return f"{self.target.explain()}\n{words.explain(self.plan, full)}"

    def __repr__(self) -> str:
        return self.explain()


def plan(
    model: Any,
    example_inputs: Any,
    target: str = "cpu:2",
    *,
    sharding: Sharding | None = None,
    cluster: Cluster | None = None,
    dynamic: Any = None,
) -> Planned:
    """Return how ``model`` would be divided over the devices of ``target``; nothing runs.

    Args:
        model: as for ``leptonc.compile``.
        example_inputs: as for ``leptonc.compile``.
        target: ``"cpu:2"``, ``"cuda:4"``; the devices need not be there.
        sharding: hints, objective, memory.
        cluster: devices and links to plan for; default: what this machine has.
        dynamic: as for ``leptonc.compile``.

    Raises:
        LeptoncError: a target, a hint or a limit that cannot be met; the text says why.
    """
    asked = parse_target(target)
    args, kwargs = arguments(example_inputs)
    with torch.no_grad():
        captured = capture_model(model, args, kwargs, dynamic=dynamic)
    name = type(model).__name__
    return Planned(plan_captured(name, captured, asked, sharding or Sharding(), cluster), asked)


def plan_captured(
    name: str,
    captured: Captured,
    target: Target,
    sharding: Sharding,
    cluster: Cluster | None = None,
) -> Plan:
    """Return the plan of a captured model, which is called ``name`` in it. Raises PlanError."""
    return make_plan(
        replace(prepare(captured.function), name=name),
        cluster or cluster_here(target),
        hints=sharding.hints,
        objective=sharding.objective,
        speeds=sharding.speeds,
        memory=sharding.memory,
    )


def cluster_here(target: Target) -> Cluster:
    """Return what this machine offers for ``target``, measured where it can be."""
    return _cuda(target.ranks) if target.kind == "cuda" else _processes(target.ranks)


@functools.cache
def _processes(ranks: int) -> Cluster:
    """Return processes of this machine, each with its share of the cores."""
    cores = Governor().decision.cores
    threads = max(1, cores // ranks)
    busy = min(1.0, cores / ranks)  # the share of a core that a rank has
    flops = peak.gflops(threads) * 1e9 * _PRODUCTS * busy
    bandwidth = peak.gbytes(cores) * 1e9 * _STREAMS / ranks
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / ranks
    link = _SHARED
    if ranks > cores:
        slow = {kind: alpha + _TURN_S for kind, alpha in link.alpha_s.items()}
        link = Link("shared memory, taking turns", link.beta, slow, _TURN_S)
    share = f"CPU process of {threads} thread" + "s" * (threads > 1)
    device = Device(share, {"f32": flops}, bandwidth, memory, _STEP_S, winograd=_WINOGRAD)
    return Cluster(f"{ranks} processes", device, ranks, link, per_node=max(ranks, 1))


# Figures of a device that this torch cannot ask about: an A100 of 80 GB on NVLink.
_FLOPS = {"f32": 60e12, "f16": 200e12, "bf16": 200e12}
_NVLINK = Link(
    "NVLink", 200e9,
    {ALL_REDUCE: 17e-6, ALL_GATHER: 12e-6, REDUCE_SCATTER: 12e-6, ALL_TO_ALL: 14e-6}, 2e-6,
)  # fmt: skip


@functools.cache
def _cuda(ranks: int) -> Cluster:
    """Return CUDA devices; memory is that of the first one if there is any."""
    name, memory = "CUDA device", 80 * 2.0**30
    if torch.cuda.is_available():
        seen = torch.cuda.get_device_properties(0)
        name, memory = seen.name, float(seen.total_memory)
    return Cluster(f"{ranks}x{name}", Device(name, _FLOPS, 1.48e12, memory, 4e-6), ranks, _NVLINK)
