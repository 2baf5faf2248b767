"""Devices, links and clusters: what an op and a collective take on them, in seconds.

A device runs an op in ``max(flops / peak, bytes / bandwidth, launch)``, the roofline. A collective
over ``n`` ranks takes ``alpha[kind] + step * (n - 2) + volume / beta`` (Hockney's model, with the
volumes of Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH", 2005). ``alpha`` is kept per kind: with one for all, an all-reduce would cost as much as two
all-gathers and the planner could not tell them apart.

Ranks on several machines meet in two levels: inside each machine, then each rank with its peers on
the other machines over the part of the value that falls to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
)
SEND = "send"  # from one rank to another

# Bytes that pass a rank's link, of a whole value of one byte over n ranks.
VOLUME: Mapping[str, Callable[[int], float]] = MappingProxyType(
    {
        ALL_REDUCE: lambda n: 2 * (n - 1) / n,
        ALL_GATHER: lambda n: (n - 1) / n,
        REDUCE_SCATTER: lambda n: (n - 1) / n,
        ALL_TO_ALL: lambda n: (n - 1) / n**2,
        SEND: lambda n: 1.0,
    }
)


@dataclass(frozen=True)
class Device:
    """One accelerator, or one process's share of a CPU.

    Attributes:
        name: ``"a100-80"``.
        flops: operations a second that products reach, by dtype (``"f32"``, ``"bf16"``, ...).
        bandwidth: bytes a second that memory-bound ops reach.
        memory: bytes.
        launch_s: seconds that the smallest op takes.
        winograd: how much faster than by its own multiplications a 3x3 convolution runs, where
            kernels transform it (Lavin and Gray, "Fast Algorithms for Convolutional Neural
            Networks", 2016); 1.0 where none do.
        price: of an hour, in dollars; 0 where nobody told.
    """

    name: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: float = math.inf
    launch_s: float = 0.0
    price: float = 0.0
    winograd: float = 1.0

    def op_s(self, flops: float, nbytes: float, dtype: str = "f32") -> float:
        """Return the seconds of an op of ``flops`` operations that moves ``nbytes``."""
        peak = self.flops.get(dtype) or max(self.flops.values())
        return max(flops / peak, nbytes / self.bandwidth, self.launch_s)


@dataclass(frozen=True)
class Link:
    """What connects the ranks of a group.

    Attributes:
        name: ``"nvlink3"``.
        beta: bytes a second of one rank.
        alpha_s: seconds that a collective of two ranks takes however short it is, by kind.
        step_s: seconds that every further rank adds.
    """

    name: str
    beta: float
    alpha_s: Mapping[str, float] = field(default_factory=dict[str, float])
    step_s: float = 0.0

    def collective_s(self, kind: str, nbytes: float, ranks: int) -> float:
        """Return the seconds of one collective over ``nbytes``, those of the whole value."""
        if ranks == 1:
            return 0.0
        alpha = self.alpha_s.get(kind, 0.0)
        return alpha + self.step_s * (ranks - 2) + VOLUME[kind](ranks) * nbytes / self.beta


@dataclass(frozen=True)
class Tiered(Link):
    """Links of machines of ``per_node`` ranks each, and the network between the machines.

    ``beta``, ``alpha_s`` and ``step_s`` are the network's. Machines meet along a tree, so every
    doubling of their number adds as much as the first two steps do.
    """

    inner: Link = field(default_factory=lambda: Link("", math.inf))
    per_node: int = 8

    @staticmethod
    def of(inner: Link, network: Link, per_node: int) -> Tiered:
        """Return the two levels as one link."""
        name = f"{inner.name}+{network.name}"
        return Tiered(name, network.beta, network.alpha_s, network.step_s, inner, per_node)

    def collective_s(self, kind: str, nbytes: float, ranks: int) -> float:
        """Return the seconds of one collective over ``nbytes``, those of the whole value."""
        near = min(ranks, self.per_node)
        nodes = -(-ranks // near)
        inside = self.inner.collective_s(kind, nbytes, near)
        if nodes == 1:
            return inside
        alpha = self.alpha_s.get(kind, 0.0) + 2 * self.step_s * math.log2(nodes / 2)
        # A rank exchanges its machine's share of the value, all ranks of a machine at once.
        return inside + alpha + VOLUME[kind](nodes) * nbytes / near / self.beta


@dataclass(frozen=True)
class Cluster:
    """``count`` equal devices, ``per_node`` on each machine.

    Attributes:
        name: ``"8xa100-80"``.
        device: each of them.
        count: how many.
        per_node: how many share one ``link``.
        link: between devices of one machine.
        network: between machines; None where there is one machine only.
    """

    name: str
    device: Device
    count: int
    link: Link
    per_node: int = 8
    network: Link | None = None

    def link_of(self, ranks: int) -> Link:
        """Return what a group of ``ranks`` neighbours meets over: one link, or two levels."""
        if ranks > self.per_node and self.network is not None:
            return Tiered.of(self.link, self.network, self.per_node)
        return self.link
