"""The best layout for a work on a cluster: all ways to use its devices, or some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from leptonc.cost.cluster import Cluster
from leptonc.errors import PlanError
from leptonc.shard.simulate.layout import Layout, Prediction
from leptonc.shard.simulate.predict import Study
from leptonc.shard.simulate.work import Work

TIE = 0.03  # relative difference of figures, below that of predictions and measurements
_PATIENCE = 2  # sizes that are no better, after which no larger ones are tried

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
        best: of all layouts that fit, with the fewest devices where more gain next to nothing.
        full: the best of those that use every device; None where none fits.
        one: the best of one copy that is divided over every device; None where none fits.
        alone: one device; None where the program does not fit on it.
        others: runners-up, the best of each number of ranks and stages, in order.
        tried: how many layouts were predicted.
    """

    objective: str
    devices: int
    best: Prediction
    full: Prediction | None
    one: Prediction | None
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
        return math.inf if self.alone is None else self.worse(self.alone)

    def worse(self, p: Prediction) -> float:
        """Return by which factor the objective is worse with ``p`` than with the best."""
        figures: Mapping[str, tuple[float, float]] = {
            "latency": (p.latency_s, self.best.latency_s),
            "throughput": (self.best.throughput, p.throughput),
            "cost": (p.device_seconds, self.best.device_seconds),
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
    study = Study(work, cluster)
    found = _Search(study, batch, objective).run()
    fitting = sorted((p for p in found if p.fits), key=lambda p: _rounded(score(p)))
    if not fitting:
        raise PlanError(_nothing_fits(study, found))
    best = _thrifty(fitting, score)
    every = [p for p in fitting if p.layout.devices == cluster.count]
    return Found(
        objective, cluster.count, best,
        next(iter(every), None),
        next((p for p in every if p.layout.replicas == 1), None),
        next((p for p in fitting if p.layout.devices == 1), None),
        tuple(p for p in _distinct(fitting) if not p.layout.same_copy(best.layout)),
        len(found),
    )  # fmt: skip


def _thrifty(fitting: list[Prediction], score: Score) -> Prediction:
    """Return the best, or one of fewer devices that is as good within what can be predicted."""
    limit = score(fitting[0])[0] + abs(score(fitting[0])[0]) * TIE
    tied = (p for p in fitting if score(p)[0] <= limit)
    return min(tied, key=lambda p: (p.layout.devices, *_rounded(score(p))))


def sizes(devices: int) -> tuple[int, ...]:
    """Return numbers of ranks or stages to try: those that divide ``devices``, powers of two."""
    return tuple(n for n in range(1, devices + 1) if devices % n == 0 or n & (n - 1) == 0)


@dataclass
class _Patience:
    """Ends a search in growing sizes when several in a row are no better than an earlier one."""

    best: float = math.inf
    worse: int = 0

    def ends(self, figures: Iterable[float]) -> bool:
        """Return whether to end after these figures, the smaller the better; () for nothing."""
        own = min(figures, default=math.inf)
        self.worse = self.worse + 1 if self.best <= own < math.inf else 0
        self.best = min(self.best, own)
        return self.worse == _PATIENCE


@dataclass
class _Search:
    """Predicts layouts of growing numbers of ranks and stages, while more of them may help."""

    study: Study
    batch: int
    objective: str

    def run(self) -> list[Prediction]:
        found, ranks = list[Prediction](), _Patience()
        for tensor in sizes(self.study.cluster.count):
            own = self._pipelines(tensor)
            found += own
            if ranks.ends(p.latency_s for p in own if p.fits):
                break
        return found

    def _pipelines(self, tensor: int) -> list[Prediction]:
        found, stages = list[Prediction](), _Patience()
        for count in sizes(self.study.cluster.count // tensor):
            own = list(self._copies(Layout(count, tensor)))
            found += own
            if stages.ends(OBJECTIVES[self.objective](p)[0] for p in own if p.fits):
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
        one = study.predict(layout, self.batch, busy=self.objective != "latency")
        room = study.cluster.count // layout.devices
        yield from (one.times(r) for r in dict.fromkeys((1, room)))


def _rounded(score: tuple[float, ...]) -> tuple[float, ...]:
    """Return figures of which equal ones are equal in every bit."""
    return tuple(float(f"{x:.9g}") for x in score)


def _distinct(ordered: list[Prediction]) -> Iterator[Prediction]:
    """Yield the first prediction of each shape of a copy."""
    seen = list[Layout]()
    for p in ordered:
        if not any(p.layout.same_copy(other) for other in seen):
            seen.append(p.layout)
            yield p


def _nothing_fits(study: Study, found: list[Prediction]) -> str:
    device, count = study.cluster.device, study.cluster.count
    least = min((p.memory for p in found), default=study.least_memory(Layout(1, count)))
    return (
        f"{study.work.name}: no layout of {count} x {device.name} fits: a device would hold "
        f"{least / 1e9:.1f} GB at least, it has {device.memory / 1e9:.0f}; use more or larger "
        "devices, a smaller batch, or compress the weights"
    )
