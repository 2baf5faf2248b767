"""Predict latency, throughput, memory and cost of a layout on a cluster, from the sharded IR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from leptonc.cost.cluster import SEND, Cluster, Link
from leptonc.cost.flops import known, nbytes
from leptonc.errors import PlanError
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant
from leptonc.shard.placement import Placement
from leptonc.shard.simulate.divide import Divided, divide
from leptonc.shard.simulate.layout import Layout, Prediction, Stage
from leptonc.shard.simulate.repeat import Short, shorten
from leptonc.shard.simulate.stages import Cutter, crossing, places
from leptonc.shard.simulate.tally import TERMS
from leptonc.shard.simulate.work import Phase, Work

Numbers = NDArray[np.float64]
_DEAR = 1.0  # seconds a byte: weights are cut wherever they can be


@dataclass(frozen=True)
class Ran:
    """A phase on its stages: seconds by stage and term, and bytes.

    Attributes:
        terms: ``[stages]`` for each of ``TERMS`` and ``"transfer"``.
        weights: bytes of constants by stage.
        state: bytes of kept parameters by stage at the end of a request, of one micro-batch.
        activations: bytes of other values of one micro-batch.
    """

    terms: Mapping[str, Numbers]
    weights: Numbers
    state: Numbers
    activations: float

    @property
    def stages(self) -> Numbers:
        """Seconds of a micro-batch in each stage."""
        return np.sum(list(self.terms.values()), axis=0)


@dataclass
class Study:
    """Predictions for one work on one cluster; what was planned once is kept.

    Attributes:
        work: what is asked.
        cluster: devices and links; a layout may use fewer.
    """

    work: Work
    cluster: Cluster
    shorts: dict[Function, Short] = field(default_factory=dict[Function, Short])
    crossed: dict[Short, Numbers] = field(default_factory=dict[Short, Numbers])
    parts: dict[object, Divided] = field(default_factory=dict[object, Divided])
    cutters: dict[object, Cutter] = field(default_factory=dict[object, Cutter])

    def predict(self, layout: Layout, batch: int = 1, *, busy: bool = False) -> Prediction:
        """Return what a layout does with ``batch`` requests at once for each replica.

        The number of micro-batches, where it is free, is that of the least latency, or of the most
        throughput with ``busy``. Where the fastest way to divide weights among ranks does not fit
        into memory, they are divided as finely as they can be; ``Prediction.fits`` says whether
        that is enough.

        Raises:
            PlanError: fewer devices or cuts than the layout needs, or no requests.
        """
        self.check(layout, batch)
        found = self._best(layout, batch, busy, 0.0)
        if not found.fits and layout.tensor > 1:
            found = self._best(layout, batch, busy, _DEAR)
        return found

    def least_memory(self, layout: Layout) -> float:
        """Return bytes that no device of a layout can do without: its part of the weights."""
        leader = self.work.phases(1)[self.work.leader]
        ops = leader.function.ops
        held = sum(known(nbytes(op.results)) for op in ops if isinstance(op.kind, Constant))
        return held / (layout.tensor * layout.pipeline)

    def most_stages(self, tensor: int, batch: int = 1) -> int:
        """Return how many stages there can be at most when ``tensor`` ranks share each."""
        requests = batch if self.work.together else 1
        led = self._divided(self.work.phases(requests)[self.work.leader], tensor, None, 0.0)
        return len(places(led.short, self._crossed(led.short)))

    def _crossed(self, short: Short) -> Numbers:
        found = self.crossed.get(short)
        if found is None:
            found = self.crossed[short] = crossing(short)
        return found

    def check(self, layout: Layout, batch: int) -> None:
        """Raise PlanError unless every number is one at least and there are devices enough."""
        numbers = (layout.pipeline, layout.tensor, layout.replicas, batch)
        if min(numbers) < 1:
            raise PlanError(f"{layout}, batch {batch}: every number must be 1 at least")
        if layout.devices > self.cluster.count:
            raise PlanError(
                f"{layout} takes {layout.devices} devices, {self.cluster.name} has "
                f"{self.cluster.count}"
            )

    def _best(self, layout: Layout, batch: int, busy: bool, price: float) -> Prediction:
        """Return the prediction with the fastest number of micro-batches for each phase."""
        phases = self.work.phases(1)
        chosen = list[int]()
        runs = list[Ran]()
        for i, phase in enumerate(phases):
            tried = [
                (_spans(ran.stages, m, phase.times)[busy], m, ran)
                for m in self._options(layout, batch, i)
                for ran in (self._run(layout, batch, m, i, price),)
            ]
            _, micro, ran = min(tried, key=lambda one: one[0])
            chosen.append(micro)
            runs.append(ran)
        layout = replace(layout, micro_batches=tuple(chosen))
        times = [p.times for p in phases]
        return summed(self.work, self.cluster, layout, batch, times, chosen, runs)

    def _options(self, layout: Layout, batch: int, phase: int) -> Sequence[int]:
        """Return the numbers of micro-batches to try."""
        if not self.work.together:
            return (batch,)
        asked = layout.micro_batches
        wanted = asked[phase] if isinstance(asked, tuple) else asked
        if wanted:
            return (min(wanted, batch),)
        if layout.pipeline == 1:
            return (1,)
        return tuple(dict.fromkeys((1, min(batch, layout.pipeline))))

    def _run(self, layout: Layout, batch: int, micro: int, phase: int, price: float) -> Ran:
        """Return what one micro-batch of a phase takes."""
        phases = self.work.phases(-(-batch // micro))
        leader, own = phases[self.work.leader], phases[phase]
        led = self._divided(leader, layout.tensor, None, price)
        done = led if own is leader else self._divided(own, layout.tensor, led, price)
        starts = self._starts(led, own, done, layout)
        return self._on_stages(layout, own, done, starts)

    def _short(self, fn: Function) -> Short:
        found = self.shorts.get(fn)
        if found is None:
            found = self.shorts[fn] = shorten(fn)
        return found

    def _divided(self, phase: Phase, ranks: int, led: Divided | None, price: float) -> Divided:
        key = (phase.function, ranks, None if led is None else id(led), price)
        if key not in self.parts:
            fixed: Mapping[str, Placement] | None = None if led is None else led.weights
            short = self._short(phase.function)
            self.parts[key] = divide(short, self.cluster, ranks, fixed, price)
        return self.parts[key]

    def _starts(self, led: Divided, own: Phase, done: Divided, layout: Layout) -> tuple[int, ...]:
        """Return the first op of each stage in the phase's program; stages hold equal weights."""
        if layout.pipeline == 1:
            return (0,)
        cutter = self._cutter(led, layout)
        if layout.pipeline > cutter.most:
            raise PlanError(f"{self.work.name} has {cutter.most} stages at most, {layout} asked")
        starts = cutter.cut(layout.pipeline)
        return starts if done is led else _followed(starts, led.short, done.short)

    def _cutter(self, led: Divided, layout: Layout) -> Cutter:
        """Return what cuts the leader's program; it is made for twice the stages if too small."""
        link, most = self._send(layout), 1 << (layout.pipeline - 1).bit_length()
        key = (id(led), link.name, most)
        if key not in self.cutters:
            short = led.short
            crossed = self._crossed(short)
            received = np.array([link.collective_s(SEND, b, 2) if b else 0.0 for b in crossed])
            seconds = _expanded(np.sum(list(self._seconds(led).values()), axis=0), short)
            self.cutters[key] = Cutter.of(seconds, received, places(short, crossed), most)
        return self.cutters[key]

    def _seconds(self, done: Divided) -> Mapping[str, Numbers]:
        ranks = done.tally.ranks
        return done.tally.seconds(self.cluster.device, self.cluster.link_of(ranks))

    def _send(self, layout: Layout) -> Link:
        """Return what stages send over: the network unless a copy fits into one machine."""
        far = layout.pipeline * layout.tensor > self.cluster.per_node
        return self.cluster.network if far and self.cluster.network else self.cluster.link

    def _on_stages(
        self, layout: Layout, phase: Phase, done: Divided, starts: tuple[int, ...]
    ) -> Ran:
        short, at = done.short, np.array(starts)
        terms = {
            name: np.add.reduceat(_expanded(values, short), at)
            for name, values in self._seconds(done).items()
        }
        link, crossed = self._send(layout), self._crossed(short)
        terms["transfer"] = np.array(
            [link.collective_s(SEND, float(crossed[i]), 2) if i else 0.0 for i in starts]
        )
        weights = np.add.reduceat(_expanded(done.tally.weights, short), at)
        state = np.add.reduceat(_expanded(done.tally.state, short), at) * phase.growth
        return Ran(terms, weights, state, done.tally.activations)


def summed(
    work: Work,
    cluster: Cluster,
    layout: Layout,
    batch: int,
    times: Sequence[int],
    micro: Sequence[int],
    runs: Sequence[Ran],
) -> Prediction:
    """Return the prediction of phases that run one after another.

    Args:
        work: what is asked.
        cluster: devices and links.
        layout: how they are used.
        batch: requests that a replica serves at once.
        times: how often each phase runs.
        micro: in how many micro-batches.
        runs: what one micro-batch of each phase takes.
    """
    latency = busy = 0.0
    terms: dict[str, float] = {name: 0.0 for name in (*TERMS, "transfer", "waiting")}
    worked, held = np.zeros(layout.pipeline), np.zeros(layout.pipeline)
    for ran, m, n in zip(runs, micro, times, strict=True):
        if n == 0:
            continue
        span, period = _spans(ran.stages, m, n)
        latency, busy = latency + span, busy + period
        for name, values in ran.terms.items():
            terms[name] += n * float(values.sum())
        worked += n * m * ran.stages
        kept = ran.state * (m if work.together else 1)
        held = np.maximum(held, ran.weights + kept + ran.activations)
    terms["waiting"] = max(0.0, latency - sum(terms.values()))
    device = cluster.device
    stages = tuple(
        Stage(float(w), min(1.0, float(w) / busy) if busy else 0.0, float(h))
        for w, h in zip(worked, held, strict=True)
    )
    rate = layout.replicas * batch / busy if busy else math.inf
    return Prediction(
        layout, batch, latency, rate, float(held.max()), device.memory,
        device.price * layout.devices, work.tokens, terms, stages,
    )  # fmt: skip


def _expanded(values: Numbers, short: Short) -> Numbers:
    """Return values by op of the whole program, of values by place of the short one."""
    return values[np.array(short.stands)]


def _spans(stages: Numbers, micro: int, times: int) -> tuple[float, float]:
    """Return seconds of a phase for one batch, and seconds after which the next may come.

    Each of ``times`` runs needs the results of the one before; the micro-batches of a run follow
    each other through the stages.
    """
    through, longest = float(stages.sum()), float(stages.max())
    fill = through + (micro - 1) * longest
    period = max(through, micro * longest) if times > 1 else micro * longest
    return (times - 1) * period + fill, times * period


def _followed(starts: tuple[int, ...], led: Short, own: Short) -> tuple[int, ...]:
    """Return where ``own`` first reads the weights with which ``led`` begins its stages."""
    where = {
        op.result.hint: i for i, op in reversed(list(enumerate(own.whole.ops)))
        if isinstance(op.kind, Constant)
    }  # fmt: skip
    found = [0]
    for i in starts[1:]:
        op = led.whole.ops[i]
        hint = op.results[0].hint if isinstance(op.kind, Constant) else ""
        if hint not in where:
            raise PlanError(f"phases of a work must name their weights alike; {hint!r} is missing")
        found.append(where[hint])
    return tuple(found)
