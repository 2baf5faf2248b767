"""Small decoders, and clusters on which they are worth dividing."""

from __future__ import annotations

from hypothesis import strategies as st

from leptonc.cost.cluster import VOLUME, Cluster, Device, Link
from leptonc.ir.types import DType
from leptonc.shard.simulate.decoders import Decoder


def small(layers: int = 6, groups: int = 8, gated: bool = True) -> Decoder:
    """Return a decoder of eight heads."""
    return Decoder("small", layers, 512, 8, groups, 1024, 4096, gated, DType.F16)


def decoders() -> st.SearchStrategy[Decoder]:
    """Draw small decoders of both families, some with shared heads of keys."""
    families = st.sampled_from(((8, False), (8, True), (2, True)))
    return st.builds(lambda layers, family: small(layers, *family), st.integers(4, 9), families)


def machine(
    count: int = 8,
    *,
    flops: float = 1e12,
    bandwidth: float = 1e9,
    beta: float = 1e9,
    alpha: float = 1e-6,
    memory: float = 1e9,
    per_node: int = 4,
) -> Cluster:
    """Return a cluster whose memory is slow against its links."""
    device = Device("d", {"f16": flops}, bandwidth, memory, 1e-7, 1.0)
    link = Link("near", beta, dict.fromkeys(VOLUME, alpha), alpha / 10)
    far = Link("far", beta / 10, dict.fromkeys(VOLUME, 3 * alpha), alpha)
    return Cluster(f"{count}xd", device, count, link, per_node, far)
