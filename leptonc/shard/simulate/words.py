"""A search for a layout in words: what is best, what it takes, what else there was."""

from __future__ import annotations

from collections.abc import Iterator

from leptonc.cost.cluster import Cluster
from leptonc.shard.simulate.layout import Layout, Prediction
from leptonc.shard.simulate.search import TIE, Found

_OTHERS = 5  # runners-up that are listed
_GB = 1e9
_SMALL = 0.005  # of a time: terms below are not told


def tell(name: str, found: Found, cluster: Cluster) -> str:
    """Return a found layout in words: the best, the runners-up, whether fewer devices are better.

    Args:
        name: of the work.
        found: by ``best_layout``.
        cluster: for which it was searched.
    """
    return "\n".join(_lines(name, found, cluster))


def _lines(name: str, found: Found, cluster: Cluster) -> Iterator[str]:
    best = found.best
    batch = f", batch {best.batch}" if best.batch > 1 else ""
    yield f"{name} on {_place(cluster)}{batch}, searched for {found.objective}"
    yield f"  best        {shape(best.layout)}: {best.layout.devices} of {found.devices} devices"
    yield f"  latency     {seconds(best.latency_s)}" + _against(found)
    yield f"  throughput  {rate(best)}"
    yield f"  memory      {held(best.memory)} of {held(best.limit)} on the fullest device"
    yield f"  cost        {cost(best)}"
    yield f"  time        {_terms(best)}"
    if best.layout.pipeline > 1:
        yield "  stages      busy " + ", ".join(f"{s.occupancy:.0%}" for s in best.stages)
    yield f"  devices     {advice(found)}"
    if found.others:
        yield f"  runners-up  of {found.tried} layouts tried"
    for p in found.others[:_OTHERS]:
        yield (
            f"    {shape(p.layout):38} {seconds(p.latency_s):>9}  {rate(p)}  "
            f"{held(p.memory)}  {cost(p)}"
        )


def _place(cluster: Cluster) -> str:
    text = f"{cluster.count} x {cluster.device.name}"
    if cluster.count > 1:
        text += f" over {cluster.link.name}"
    if cluster.count > cluster.per_node and cluster.network is not None:
        text += f", {cluster.per_node} to a machine, {cluster.network.name} between"
    return text


def shape(layout: Layout) -> str:
    """Return a layout in words."""
    parts = [_count(layout.pipeline, "stage"), _count(layout.tensor, "rank")]
    parts.append(_count(layout.replicas, "replica"))
    micro = layout.micro_batches
    most = max(micro) if isinstance(micro, tuple) else micro
    split = f", {most} micro-batches" if layout.pipeline > 1 and most > 1 else ""
    return " x ".join(parts) + split


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def seconds(s: float) -> str:
    """Return a time with a unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if s >= size:
            return f"{s / size:.3g} {unit}" if s < 1000 * size else f"{s / size:.0f} {unit}"
    return f"{s * 1e6:.3g} us"


def held(nbytes: float) -> str:
    """Return bytes in a unit that fits."""
    return f"{nbytes / _GB:.3g} GB" if nbytes >= _GB / 10 else f"{nbytes / _GB * 1000:.3g} MB"


def number(x: float) -> str:
    """Return three digits at least, whole from a hundred on."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def rate(p: Prediction) -> str:
    """Return requests a second, and tokens where there are any."""
    text = f"{number(p.throughput)} requests/s"
    return text + (f" ({number(p.throughput * p.tokens)} tokens/s)" if p.tokens else "")


def cost(p: Prediction) -> str:
    """Return what a million requests cost, in dollars or, without a price, in device hours."""
    if not p.hourly:
        return f"{number(p.device_seconds * 1e6 / 3600)} device hours per million requests"
    text = f"${number(p.million_requests)} per million requests"
    if p.tokens:
        text += f", ${number(p.million_tokens)} per million tokens"
    return f"{text} at ${p.hourly:.4g} an hour"


def _terms(p: Prediction) -> str:
    shown = [(v / p.latency_s, n) for n, v in p.terms.items() if v > _SMALL * p.latency_s]
    return ", ".join(f"{n} {share:.0%}" for share, n in sorted(shown, reverse=True))


def _against(found: Found) -> str:
    alone = found.alone
    if alone is None:
        return " (one device has too little memory)"
    if found.best.layout.devices == 1:
        return ""
    times = alone.latency_s / found.best.latency_s
    return f" ({seconds(alone.latency_s)} on one device: {times:.2f}x)"


def advice(found: Found) -> str:
    """Return whether more devices pay, in one sentence."""
    best, alone = found.best, found.alone
    if found.devices == 1:
        return "there is one"
    if found.fewer:
        return _fewer(found)
    if alone is None:
        return "all of them are of use: one has too little memory"
    dearer = best.device_seconds / alone.device_seconds
    return (
        f"all of them are of use: {_gain(found)}; a request takes {dearer:.2f}x the device "
        "seconds of one device"
    )


def _fewer(found: Found) -> str:
    """Return why not all devices are used."""
    best, full, one = found.best, found.full, found.one
    text = f"{best.layout.devices} of {found.devices} are enough"
    if one is not None:
        whole = f"one copy on all {found.devices} has {_against_one(found, one)}"
        text = f"{_verdict(found, one)}: {whole}"
    if full is None:
        return f"{text}; no layout of all of them fits"
    if full.layout.same_copy(best.layout):
        return f"{text}; {_count(full.layout.replicas, 'replica')} would serve {rate(full)}"
    if full is one:
        return text
    return f"{text}; all in {shape(full.layout)}: {_figure(found.objective, full)}"


def _verdict(found: Found, one: Prediction) -> str:
    worse = found.worse(one)
    return "fewer are better" if worse > 1 + TIE else "fewer are as good"


def _against_one(found: Found, one: Prediction) -> str:
    """Return how one copy on all devices compares with the best."""
    worse = found.worse(one)
    ratio = 1 / worse if found.objective == "throughput" else worse
    figure = _figure(found.objective, one)
    return f"{ratio:.2f}x the {found.objective} ({shape(one.layout)}: {figure})"


def _gain(found: Found) -> str:
    what = {"latency": "faster", "throughput": "more requests", "cost": "cheaper"}
    return f"{found.gain:.2f}x {what[found.objective]} than one"


def _figure(objective: str, p: Prediction) -> str:
    figures = {
        "latency": seconds(p.latency_s),
        "throughput": f"{number(p.throughput)} requests/s",
        "cost": cost(p),
    }
    return figures[objective]
