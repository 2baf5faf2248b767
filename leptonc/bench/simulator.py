"""How far the simulator's predictions are from what others measured: fit, test, and the order.

``python -m leptonc.bench.simulator`` prints every point with what was predicted and the error.
Predictions come from the planner and the sharded programs; the parameters below, two for the device
and a few times for each software, are fitted by least squares of relative errors to the points that
``published`` marks, and the others are only predicted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from leptonc.bench.published import GPT_FAST, MEGATRON, TENSORRT, Point, points
from leptonc.cost.cluster import Cluster
from leptonc.cost.presets import Reached, cluster
from leptonc.shard.simulate.decoders import decoder, prefill, step
from leptonc.shard.simulate.layout import Layout, Prediction
from leptonc.shard.simulate.predict import Study
from leptonc.shard.simulate.work import Phase, Work, generation

Numbers = NDArray[np.float64]
# FasterTransformer splits a batch until a part has so many tokens (nccl_utils.cc).
_PART_TOKENS = 2048
# Training with activations computed again: a pass forward counts once, again, and twice backward;
# the sums of a layer are exchanged forward, again, and backward.
_TRAINING: Mapping[str, int] = {"arithmetic": 4, "memory": 4, "launch": 4, "communication": 3}


@dataclass(frozen=True)
class Parameters:
    """What is fitted; times in seconds.

    Attributes:
        arithmetic: share of an A100's peak.
        bandwidth: share of its memory's bandwidth.
        step: each further rank of a collective.
        far_alpha: an all-reduce between two machines.
        far_step: each further machine.
        launch: the smallest op, by software.
        alpha: an all-reduce of two ranks, by software.
        v100: share of a V100's peak.
    """

    arithmetic: float
    bandwidth: float
    step: float
    far_alpha: float
    far_step: float
    fast_launch: float
    fast_alpha: float
    faster_launch: float
    faster_alpha: float
    v100: float

    def reached(self, source: str) -> Reached:
        """Return what a software reaches."""
        fast = source == GPT_FAST
        return Reached(
            self.v100 if source == MEGATRON else self.arithmetic,
            self.bandwidth,
            self.fast_launch if fast else self.faster_launch,
            self.fast_alpha if fast else self.faster_alpha,
            self.step,
            self.far_alpha,
            self.far_step,
        )


_NAMES = tuple(Parameters.__dataclass_fields__)
# Where the fit begins, round numbers; and where it ended.
START = Parameters(0.7, 0.75, 3e-6, 60e-6, 10e-6, 2e-6, 15e-6, 5e-6, 25e-6, 0.5)
FITTED = Parameters(
    0.633, 0.732, 4.12e-6, 31.0e-6, 11.8e-6, 1.23e-6, 8.78e-6, 0.73e-6, 56.0e-6, 0.526
)


@dataclass
class Bench:
    """Predicts points; programs are planned once, whatever the parameters."""

    kept: dict[object, Study] = field(default_factory=dict[object, Study])

    def seconds(self, p: Point, parameters: Parameters) -> float:
        """Return the predicted seconds of a point."""
        made = self.predict(p, parameters)
        if p.source != MEGATRON:
            return made.latency_s
        return sum(n * made.terms[name] for name, n in _TRAINING.items())

    def predict(self, p: Point, parameters: Parameters) -> Prediction:
        """Return the prediction of a point."""
        where = self._cluster(p, parameters)
        # Plans are made with the parameters that came first and kept while others are tried.
        first = self.kept.setdefault((p.model, p.prompt, p.new), Study(_work(p), where))
        study = Study(first.work, where, first.shorts, first.crossed, first.parts)
        return study.predict(_layout(p), p.batch)

    def _cluster(self, p: Point, parameters: Parameters) -> Cluster:
        name = "v100-32" if p.source == MEGATRON else "a100-80"
        return cluster(p.devices, name, per_node=8, reached=parameters.reached(p.source))


def _work(p: Point) -> Work:
    if p.source != MEGATRON:
        return generation(decoder(p.model), p.prompt, p.new)
    d = decoder(p.model)

    def phases(requests: int) -> tuple[Phase, ...]:
        # Weights are cut as for one token, where every byte of them counts, as training keeps them.
        return (
            Phase("forward", prefill(d, requests, p.prompt, every=True)),
            Phase("token", step(d, 1, 1), 0),
        )

    return Work(d.name, phases, leader=1, together=True)


def _layout(p: Point) -> Layout:
    if p.pipeline == 1:
        return Layout(p.pipeline, p.tensor)
    parts = [_parts(p.batch, tokens, p.pipeline) for tokens in (p.prompt, 1)]
    return Layout(p.pipeline, p.tensor, 1, tuple(parts))


def _parts(batch: int, tokens: int, pipeline: int) -> int:
    """Return into how many micro-batches FasterTransformer splits a batch."""
    own = batch // pipeline if batch % pipeline == 0 else batch
    while own * tokens > _PART_TOKENS and own % 2 == 0:
        own //= 2
    return batch // own


def fit(bench: Bench, held: Sequence[Point], start: Parameters = START) -> Parameters:
    """Return parameters that minimise the squared relative errors of ``held`` (Gauss-Newton).

    Parameters are fitted as logarithms, so none becomes negative.
    """
    x = np.log([getattr(start, n) for n in _NAMES])

    def errors(x: Numbers) -> Numbers:
        parameters = Parameters(*np.exp(x))
        return np.array([np.log(bench.seconds(p, parameters) / p.seconds) for p in held])

    return Parameters(*(float(v) for v in np.exp(_least_squares(errors, x))))


def _least_squares(errors: Callable[[Numbers], Numbers], x: Numbers, steps: int = 30) -> Numbers:
    """Return where the sum of squares of ``errors`` is least near ``x`` (Levenberg-Marquardt)."""
    damping, now = 1e-2, errors(x)
    for _ in range(steps):
        slope = np.stack([(errors(x + h) - now) / 1e-3 for h in np.eye(len(x)) * 1e-3], 1)
        matrix = slope.T @ slope + damping * np.eye(len(x))
        moved = x - np.clip(np.linalg.solve(matrix, slope.T @ now), -0.5, 0.5)
        then = errors(moved)
        if then @ then < now @ now:
            done = now @ now - then @ then < 1e-9
            x, now, damping = moved, then, damping / 3
            if done:
                break
        else:
            damping *= 4
    return x


def ordered(found: Mapping[Point, float]) -> tuple[int, int]:
    """Return of pairs of plans for one setting how many are in the right order, and how many."""
    right = count = 0
    for a, b in itertools.combinations(found, 2):
        if a.setting == b.setting:
            count += 1
            right += (found[a] < found[b]) == (a.seconds < b.seconds)
    return right, count


def mean_error(found: Mapping[Point, float], *, within: bool, fit: bool = False) -> float:
    """Return the mean of relative errors, within a machine or across, of fitted points or others.

    Training is not among them: it has a parameter of its own.
    """
    own = [p for p in found if p.within == within and p.fit == fit and p.source != MEGATRON]
    return fmean(abs(found[p] / p.seconds - 1) for p in own)


def line(p: Point, seconds: float) -> str:
    """Return a row of the table."""
    shape = f"tp{p.tensor}" + (f" x pp{p.pipeline}" if p.pipeline > 1 else "")
    used = "fit" if p.fit else "test"
    error = seconds / p.seconds - 1
    return (
        f"{p.source:17} {p.model:11} {p.prompt:4} + {p.new:3} x {p.batch:3} {shape:9} "
        f"{seconds * 1e3:9.0f} {p.seconds * 1e3:9.0f} {error:+7.1%}  {used}"
    )


def summary(found: Mapping[Point, float]) -> str:
    """Return means, the order of plans and the worst point."""
    right, count = ordered(found)
    worst = max(found, key=lambda p: abs(found[p] / p.seconds - 1))
    rows = [
        f"mean error in a machine: {mean_error(found, within=True):.1%} of points not fitted, "
        f"{mean_error(found, within=True, fit=True):.1%} of fitted ones",
        f"mean error across machines: {mean_error(found, within=False):.1%} of points not fitted",
        f"order of plans: {right} of {count} pairs right ({right / count:.1%})",
        f"worst: {line(worst, found[worst])}",
    ]
    return "\n".join(rows)


def monotone(parameters: Parameters) -> list[tuple[float, ...]]:
    """Return tokens a second of Llama-2-70B on 1 to 8 devices, for the shapes of TensorRT-LLM.

    Published are FP4 and another Llama; only that more devices make more tokens is compared.
    """
    made = list[tuple[float, ...]]()
    for prompt, new in TENSORRT:
        study = Study(
            generation(decoder("llama-2-70b"), prompt, new),
            cluster(8, "b200", reached=parameters.reached(GPT_FAST)),
        )
        rates = [study.predict(Layout(1, t), 64).throughput * new for t in (1, 2, 4, 8)]
        made.append(tuple(rates))
    return made


def main() -> None:
    """Fit, predict every point and print the table."""
    bench, every = Bench(), points()
    parameters = fit(bench, [p for p in every if p.fit])
    print(f"{'source':17} {'model':11} tokens x batch  plan      predicted published   error")
    found = dict[Point, float]()
    for p in every:
        found[p] = bench.seconds(p, parameters)
        print(line(p, found[p]))
    print(summary(found))
    print("fitted:", ", ".join(f"{n} {getattr(parameters, n):.3g}" for n in _NAMES))
    for tokens, rates in zip(TENSORRT, monotone(parameters), strict=True):
        print(
            f"B200, tokens {tokens}: {', '.join(f'{r:.0f}' for r in rates)} tokens/s on 1, 2, 4, 8"
        )


if __name__ == "__main__":
    main()
