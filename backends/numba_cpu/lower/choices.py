"""numba_cpu > lower > choices: several ways to compute one unit: questions, answers, who wins.

The road of a choice: a lowering asks a :class:`Question` (candidates with their estimated costs);
:func:`contenders` are the candidates worth timing; :func:`pick` makes the :class:`Answer` from
their times; ``Lowering.decide`` gives the candidate to lower. Everything here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CLOSE = 1.6  # a candidate estimated at more than this multiple of the best is not timed
MARGIN = 0.95  # who is to beat the model's favourite must need less than this part of its time
GIVEN = 0.08  # of the fastest time, for each halving of the bytes that are held
GIVEN_CYCLES = 0.4  # of a core, for each byte: of large weights the share alone is within noise
LIGHT = 1 << 17  # bytes of weights; fewer are no matter
AGREE = 1.15  # the two fastest runs of a candidate may differ by this factor

ONLY_WAY = "the only way"
NO_RIVAL = "estimated: no other is near"
NOT_TIMED = "estimated: not timed"
TOO_BUSY = "estimated: the machine was too busy to tell"
NO_TIME = "estimated: the time for tuning was spent"
MEASURED = "measured"


@dataclass(frozen=True)
class Question:
    """Which candidate computes something; ``costs`` are estimated cycles of one core by candidate.

    ``key`` is text that names what is computed, a colon and the candidates: equal keys mean equal
    questions, whichever network asks. ``close``: the multiple of the best estimate up to which a
    candidate is worth timing, ``CLOSE`` where it is None. ``held``: the bytes of the weights by
    candidate, empty where they are no matter; ``light``: fewer are none. ``risk``: of candidates
    that lose more than others beside other processes: how many times as long others must take for
    them to be chosen.
    """

    key: str
    costs: Mapping[str, float]
    close: float | None = None
    held: Mapping[str, int] = field(default_factory=dict[str, int])
    light: int = LIGHT
    risk: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def about(self) -> str:
        """What is to be computed."""
        return self.key.partition(":")[0]

    @property
    def ranked(self) -> Sequence[str]:
        """The candidates, the one with the lowest estimate first, risks included."""
        return sorted(self.costs, key=lambda c: self.costs[c] * self.risk.get(c, 1.0))


@dataclass(frozen=True)
class Answer:
    """The candidate chosen, why, and the seconds that candidates took where they were timed."""

    chosen: str
    why: str
    times: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Decision:
    """A question that a unit asked, with its answer."""

    question: Question
    answer: Answer


def estimate(question: Question, why: str = NOT_TIMED) -> Answer:
    """Return the model's own answer."""
    return Answer(question.ranked[0], why if len(question.costs) > 1 else ONLY_WAY)


def answer(question: Question, known: Mapping[str, Answer]) -> Answer:
    """Return the known answer if it names a candidate, else the model's."""
    found = known.get(question.key)
    return found if found is not None and found.chosen in question.costs else estimate(question)


def contenders(question: Question) -> Sequence[str]:
    """Return the candidates worth timing, the model's favourite first."""
    ranked = question.ranked
    close = CLOSE if question.close is None else question.close
    most = close * min(question.costs.values())
    return [c for c in ranked if question.costs[c] <= most or c == ranked[0]]


def pick(times: Mapping[str, Sequence[float]], question: Question) -> Answer:
    """Return the answer that measured seconds give; the first candidate is the model's favourite.

    Each counts by its fastest run, because whatever disturbs a run makes it slower, and by its
    risk, see :func:`_expected`. The favourite stays unless another is clearly faster, and where the
    runs do not agree with each other. Of those that take about the same time the one wins that
    holds fewest bytes: a network's weights are most of the memory that it takes, and after others
    have run they are read again. A quarter of the bytes may take 16 % longer, half of them 8 %,
    down to ``light`` of them, or ``GIVEN_CYCLES`` for each byte less.
    """
    measured = {c: min(t) for c, t in times.items()}
    favourite, held = next(iter(measured)), question.held
    if not all(steady(t) for t in times.values()):
        return Answer(favourite, TOO_BUSY, measured)
    least = _expected(measured, question)
    best = min(least, key=lambda c: least[c])
    chosen = best if least[best] < MARGIN * least[favourite] else favourite
    if held:
        size = {c: max(held[c], question.light) for c in least}
        halvings = {c: math.log2(size[chosen] / size[c]) for c in least}
        worth = GIVEN_CYCLES * least[best] / question.costs[best]  # seconds
        given = {
            c: max(GIVEN * n * least[best], worth * (size[chosen] - size[c]))
            for c, n in halvings.items()
        }
        lighter = [c for c, n in halvings.items() if n > 0 and least[c] <= least[best] + given[c]]
        chosen = min(lighter, key=lambda c: (held[c], least[c]), default=chosen)
    return Answer(chosen, MEASURED, measured)


def _expected(measured: Mapping[str, float], question: Question) -> dict[str, float]:
    """Return the seconds that candidates are expected to take, which are measured but for risks.

    What another process takes from a risky candidate changes from second to second, and the answer
    is for good. So it counts by the mean (of logarithms) of its time and of what the estimates say
    that it takes when nobody is there, if that is less; and times its risk.
    """
    risk, costs = question.risk, question.costs
    sure = {c: t for c, t in measured.items() if c not in risk}
    found = dict(measured)
    for c in found.keys() - sure:
        best = min(sure, key=lambda s: sure[s], default=c)
        alone = measured[best] * costs[c] / costs[best]
        found[c] = risk[c] * math.sqrt(measured[c] * min(measured[c], alone))
    return found


def steady(times: Sequence[float]) -> bool:
    """Return whether the fastest run was no accident: another one took nearly the same time."""
    first, second = sorted(times)[:2]
    return second <= AGREE * first


def settled(times: Mapping[str, Sequence[float]]) -> bool:
    """Return whether one candidate's slowest run is faster than every other's fastest."""
    best = min(times, key=lambda c: max(times[c]))
    return all(max(times[best]) < min(t) for c, t in times.items() if c != best)
