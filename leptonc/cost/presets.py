"""Devices and links by name, and clusters from text: ``"8xA100"``, ``"4xa100-80@pcie4"``.

Peaks, bandwidths and memory are the makers' figures; what of them a program reaches is ``REACHED``,
fitted to published measurements (``python -m leptonc.bench.simulator``). Prices are examples of
what one device costs an hour on demand, in dollars; they differ between sellers and months, so give
your own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from leptonc.cost.cluster import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
    SEND,
    Cluster,
    Device,
    Link,
)
from leptonc.errors import PlanError

_G, _T = 1e9, 1e12


@dataclass(frozen=True)
class Reached:
    """What of a maker's figures programs reach, and the times that no figure tells.

    Attributes:
        arithmetic: share of the peak that products reach.
        bandwidth: share of the memory's bandwidth.
        launch_s: seconds of the smallest op.
        alpha_s: seconds of the shortest all-reduce of two ranks in a machine.
        step_s: seconds that each further rank adds.
        far_alpha_s: seconds of the shortest all-reduce between two machines.
        far_step_s: seconds that each further machine adds.
    """

    arithmetic: float
    bandwidth: float
    launch_s: float
    alpha_s: float
    step_s: float
    far_alpha_s: float
    far_step_s: float


# Of a compiled decoder that a GPU replays as a graph (gpt-fast); the network's times are
# FasterTransformer's.
REACHED = Reached(0.633, 0.732, 1.23e-6, 8.78e-6, 4.12e-6, 31.0e-6, 11.8e-6)

# Against an all-reduce: one of its two halves, and one message. With one time for all kinds two
# all-gathers would cost what an all-reduce does.
_SHARE: Mapping[str, float] = MappingProxyType(
    {ALL_REDUCE: 1.0, ALL_GATHER: 0.6, REDUCE_SCATTER: 0.6, ALL_TO_ALL: 0.7, SEND: 0.4}
)


@dataclass(frozen=True)
class Sheet:
    """A device as its maker describes it.

    Attributes:
        tensor: operations a second of f16 products, dense.
        f32: of f32 products.
        bandwidth: bytes a second.
        memory: bytes.
        price: dollars an hour, an example.
        link: what connects it with others in a machine.
        network: what connects machines.
        per_node: devices of a machine.
        bf16: whether bf16 is as fast as f16; else it is as slow as f32.
    """

    tensor: float
    f32: float
    bandwidth: float
    memory: float
    price: float
    link: str
    network: str
    per_node: int = 8
    bf16: bool = True


_IB, _ETH = "ib200", "eth100"
SHEETS: Mapping[str, Sheet] = MappingProxyType(
    {
        "v100-32": Sheet(125 * _T, 15.7 * _T, 900 * _G, 32 * _G, 0.8, "nvlink2", _ETH, bf16=False),
        "t4": Sheet(65 * _T, 8.1 * _T, 320 * _G, 16 * _G, 0.53, "pcie3", "eth25", 4, bf16=False),
        "a10g": Sheet(70 * _T, 31.2 * _T, 600 * _G, 24 * _G, 1.0, "pcie4", "eth25", 4),
        "a100-40": Sheet(312 * _T, 19.5 * _T, 1555 * _G, 40 * _G, 1.3, "nvlink3", _IB),
        "a100-80": Sheet(312 * _T, 19.5 * _T, 2039 * _G, 80 * _G, 1.8, "nvlink3", _IB),
        "l4": Sheet(121 * _T, 30.3 * _T, 300 * _G, 24 * _G, 0.71, "pcie4", _ETH),
        "l40s": Sheet(362 * _T, 91.6 * _T, 864 * _G, 48 * _G, 1.6, "pcie4", _ETH),
        "h100-80": Sheet(989 * _T, 67 * _T, 3352 * _G, 80 * _G, 3.0, "nvlink4", "ib400"),
        "h200": Sheet(989 * _T, 67 * _T, 4800 * _G, 141 * _G, 3.8, "nvlink4", "ib400"),
        "b200": Sheet(2250 * _T, 75 * _T, 8000 * _G, 180 * _G, 5.0, "nvlink5", "ib400"),
    }
)

# One core with AVX2 at 2.5 GHz: two fused multiply-adds of eight floats a cycle.
CORE = Device(
    "cpu", {"f32": 60 * _G, "f64": 30 * _G}, 10 * _G, memory=4 * _G, launch_s=2e-6, price=0.04
)

# Bytes a second of one rank that collectives reach, of the makers' 150, 300, 450 and 900 GB/s a
# direction, 16 and 32 (PCIe), 25 and 50 (InfiniBand), 3.1 and 12.5 (Ethernet).
_BETA: Mapping[str, float] = MappingProxyType(
    {
        "nvlink2": 130 * _G,
        "nvlink3": 230 * _G,
        "nvlink4": 360 * _G,
        "nvlink5": 680 * _G,
        "pcie3": 10 * _G,
        "pcie4": 20 * _G,
        "ib200": 22 * _G,
        "ib400": 44 * _G,
        "eth25": 2.7 * _G,
        "eth100": 10 * _G,
    }
)
_NETWORKS = ("ib200", "ib400", "eth25", "eth100")
# Between two processes of one host, measured: shared memory, and gloo.
SHM = Link("shm", 2.5 * _G, {k: 20e-6 * share for k, share in _SHARE.items()}, 5e-6)
GLOO = Link("gloo", 0.6 * _G, {k: 1.5e-3 * share for k, share in _SHARE.items()}, 0.2e-3)

_SHORT: Mapping[str, str] = MappingProxyType(
    {
        "v100": "v100-32",
        "a100": "a100-80",
        "h100": "h100-80",
        "pcie": "pcie4",
        "ib": "ib200",
        "eth": "eth100",
        "ethernet": "eth100",
    }
)
_TEXT = re.compile(
    r"(?P<count>\d+)\s*x\s*(?P<device>[\w-]+)(?:@(?P<link>\w+))?"
    r"(?:/(?P<per_node>\d+))?(?:\+(?P<network>\w+))?"
)
_EXAMPLES = "8xA100, 4xa100-80@pcie4, 16xh100/8+eth100, 2xcpu"


def device(name: str, reached: Reached = REACHED, price: float | None = None) -> Device:
    """Return a device by name.

    Args:
        name: ``"a100-80"``; ``"a100"`` is short for it.
        reached: what programs reach of the maker's figures.
        price: dollars an hour; default: the example's.

    Raises:
        PlanError: an unknown name.
    """
    name = _known(name, (*SHEETS, CORE.name), "device")
    if name == CORE.name:
        return CORE if price is None else replace(CORE, price=price)
    sheet = SHEETS[name]
    fast, slow = sheet.tensor * reached.arithmetic, sheet.f32 * reached.arithmetic
    flops = {"f16": fast, "bf16": fast if sheet.bf16 else slow, "f32": slow}
    return Device(
        name, flops, sheet.bandwidth * reached.bandwidth, sheet.memory, reached.launch_s,
        sheet.price if price is None else price,
    )  # fmt: skip


def link(name: str, reached: Reached = REACHED) -> Link:
    """Return a link by name. Raises PlanError for an unknown one."""
    own = {SHM.name: SHM, GLOO.name: GLOO}
    name = _known(name, (*_BETA, *own), "link")
    if name in own:
        return own[name]
    far = name in _NETWORKS
    alpha = reached.far_alpha_s if far else reached.alpha_s
    step = reached.far_step_s if far else reached.step_s
    return Link(name, _BETA[name], {k: alpha * share for k, share in _SHARE.items()}, step)


def cluster(
    count: int,
    name: str,
    *,
    between: str | None = None,
    network: str | None = None,
    per_node: int | None = None,
    price: float | None = None,
    reached: Reached = REACHED,
) -> Cluster:
    """Return ``count`` devices of one kind, connected as is usual for them where nothing is said.

    Args:
        count: how many.
        name: of the device.
        between: the link inside a machine.
        network: the link between machines.
        per_node: devices of a machine.
        price: dollars an hour of one device.
        reached: what programs reach of the makers' figures.

    Raises:
        PlanError: unknown names, or no devices.
    """
    if count < 1 or (per_node is not None and per_node < 1):
        raise PlanError(f"a cluster has one device at least, got {count} with {per_node} a machine")
    made = device(name, reached, price)
    sheet = SHEETS.get(made.name)
    inner, outer, node = ("shm", "gloo", 64) if sheet is None else (
        sheet.link, sheet.network, sheet.per_node)  # fmt: skip
    node = per_node or node
    far = link(network or outer, reached) if count > node else None
    return Cluster(f"{count}x{made.name}", made, count, link(between or inner, reached), node, far)


def parse_cluster(text: str, price: float | None = None, reached: Reached = REACHED) -> Cluster:
    """Return the cluster that ``COUNTxDEVICE[@LINK][/PER_MACHINE][+NETWORK]`` describes.

    Args:
        text: ``"8xA100"``, ``"4xa100-80@pcie4"``, ``"16xh100/8+eth100"``, ``"2xcpu"``.
        price: dollars an hour of one device; default: an example's.
        reached: what programs reach of the makers' figures.

    Raises:
        PlanError: text of another form, unknown names (close ones are listed), no devices.
    """
    found = _TEXT.fullmatch(text.strip().lower())
    if found is None:
        raise PlanError(f"cluster {text!r}: expected COUNTxDEVICE, for example {_EXAMPLES}")
    node = found["per_node"]
    return cluster(
        int(found["count"]), found["device"], between=found["link"], network=found["network"],
        per_node=None if node is None else int(node), price=price, reached=reached,
    )  # fmt: skip


def _known(name: str, names: Iterable[str], what: str) -> str:
    """Return the full name; PlanError lists names that are close."""
    names, low = list(names), name.lower()
    full = low if low in names else _SHORT.get(low, low)
    if full in names:
        return full
    near = difflib.get_close_matches(low, names, 4, 0.4)
    close = f"did you mean {' or '.join(near)}? " if near else ""
    raise PlanError(f"unknown {what} {name!r}; {close}there are: {', '.join(names)}")
