"""The best layout for a work on a cluster: all ways to use its devices, or some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from leptonc.cost.cluster import Cluster
from leptonc.errors import PlanError
from leptonc.shard.simulate.layout import Layout, Prediction
from leptonc.shard.simulate.predict import Study
from leptonc.shard.simulate.work import Work

_PATIENCE = 2  # numbers of ranks that are no faster, after which no more are tried

Score = Callable[[Prediction], tuple[float, ...]]
# The smaller the better; the first number decides, the next ones where it is the same.
OBJECTIVES: Mapping[str, Score] = MappingProxyType(
    {
        "latency": lambda p: (p.latency_s, p.layout.devices),
        "throughput": lambda p: (-p.throughput, p.layout.devices, p.latency_s),
        "cost": lambda p: (p.device_seconds, p.latency_s, p.layout.devices),
    }
)


@dataclass(frozen=True)
class Found:
    """The best layout and others.

    Attributes:
        objective: what was asked for.
        devices: how many there are.
        best: of all layouts that fit.
        full: the best of those that use every device; None where none fits.
        alone: one device; None where the program does not fit on it.
        others: runners-up, the best of each number of ranks and stages, in order.
        tried: how many layouts were predicted.
    """

    objective: str
    devices: int
    best: Prediction
    full: Prediction | None
    alone: Prediction | None
    others: tuple[Prediction, ...]
    tried: int

    @property
    def fewer(self) -> bool:
        """Whether using fewer devices is better than using all."""
        return self.best.layout.devices < self.devices

    @property
    def gain(self) -> float:
        """By which factor the best layout is better than one device; inf where that is too small.

        Of latency, of throughput, or of device seconds a request.
        """
        if self.alone is None:
            return float("inf")
        figures: Mapping[str, tuple[float, float]] = {
            "latency": (self.alone.latency_s, self.best.latency_s),
            "throughput": (self.best.throughput, self.alone.throughput),
            "cost": (self.alone.device_seconds, self.best.device_seconds),
        }
        more, less = figures[self.objective]
        return more / less


def best_layout(work: Work, cluster: Cluster, objective: str = "latency", batch: int = 1) -> Found:
    """Return the layout that serves ``work`` best, and what else there is.

    Args:
        work: what is asked.
        cluster: as many devices as may be used.
        objective: ``"latency"`` of a batch, ``"throughput"`` of all devices, or ``"cost"`` of a
            request.
        batch: requests that a replica serves at once.

    Raises:
        PlanError: an unknown objective, or no layout fits into the devices' memory.
    """
    score = OBJECTIVES.get(objective)
    if score is None:
        raise PlanError(f"unknown objective {objective!r}; there are: {', '.join(OBJECTIVES)}")
    found = _Search(Study(work, cluster), batch, objective != "latency").run()
    fitting = sorted((p for p in found if p.fits), key=lambda p: _rounded(score(p)))
    if not fitting:
        raise PlanError(_nothing_fits(work, cluster, found))
    best = fitting[0]
    return Found(
        objective, cluster.count, best,
        next((p for p in fitting if p.layout.devices == cluster.count), None),
        next((p for p in fitting if p.layout.devices == 1), None),
        tuple(_distinct(fitting))[1:], len(found),
    )  # fmt: skip


def sizes(devices: int) -> tuple[int, ...]:
    """Return numbers of ranks or stages to try: those that divide ``devices``, powers of two."""
    return tuple(n for n in range(1, devices + 1) if devices % n == 0 or n & (n - 1) == 0)


@dataclass
class _Search:
    """Predicts layouts of growing numbers of ranks, until more ranks only wait for each other."""

    study: Study
    batch: int
    busy: bool

    def run(self) -> list[Prediction]:
        found, quickest, worse = list[Prediction](), math.inf, 0
        count = self.study.cluster.count
        for tensor in sizes(count):
            own = [p for s in sizes(count // tensor) for p in self._copies(Layout(s, tensor))]
            found += own
            best = min((p.latency_s for p in own if p.fits), default=math.inf)
            worse = worse + 1 if quickest <= best < math.inf else 0
            quickest = min(quickest, best)
            if worse == _PATIENCE:
                break
        return found

    def _copies(self, layout: Layout) -> Iterator[Prediction]:
        """Yield what one replica does, and as many as there is room for.

        Nothing is yielded where memory cannot suffice, or there are too few places for a cut.
        """
        study, stages = self.study, layout.pipeline
        if study.least_memory(layout) > study.cluster.device.memory:
            return
        if stages > 1 and stages > study.most_stages(layout.tensor, self.batch):
            return
        one = study.predict(layout, self.batch, busy=self.busy)
        room = study.cluster.count // layout.devices
        yield from (one.times(r) for r in dict.fromkeys((1, room)))


def _rounded(score: tuple[float, ...]) -> tuple[float, ...]:
    """Return figures of which equal ones are equal in every bit."""
    return tuple(float(f"{x:.9g}") for x in score)


def _distinct(ordered: list[Prediction]) -> Iterator[Prediction]:
    """Yield the first prediction of each shape of a copy."""
    seen = set[tuple[int, int]]()
    for p in ordered:
        shape = (p.layout.pipeline, p.layout.tensor)
        if shape not in seen:
            seen.add(shape)
            yield p


def _nothing_fits(work: Work, cluster: Cluster, found: list[Prediction]) -> str:
    least = min(p.memory for p in found)
    return (
        f"{work.name}: no layout of {cluster.count} x {cluster.device.name} fits: a device would "
        f"hold {least / 2**30:.1f} GiB at least, it has {cluster.device.memory / 2**30:.1f}; "
        "use more or larger devices, a smaller batch, or compress the weights"
    )
