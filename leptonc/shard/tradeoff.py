"""Time against bytes: the cheapest choice that holds at most so many bytes, and how good it is.

A byte gets a price (Lagrangian relaxation; H. Everett, "Generalized Lagrange Multiplier Method",
1963). For each price the best choice is found exactly, many prices in one run of the elimination;
the price at which the limit is met is where the lines of a choice that fits and of one that does
not cross. No choice within the limit is cheaper than ``min(cost + price * bytes) - price * limit``
for any price, which says how far the one that is returned may be from the best.

Equal layers change their places at one price, all or none; so later ones pay a little more for a
byte in further runs, and what differs between a choice that fits and one that does not is changed
part by part, the best value for its bytes first, as long as it fits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from leptonc.shard.eliminate import Elimination, Table
from leptonc.shard.repair import Patch, patches, singly
from leptonc.shard.solve import Choice, Problem, choices

_FIRST = tuple(10.0**k for k in range(-16, 1, 2))  # seconds a byte; the last is worth any time
_ROUNDS = 12  # of the search for the price
_AROUND = 6  # prices in a bracket, beside the one where the lines cross
_SLOPE = 0.1  # how much dearer a byte of the last variable is than one of the first
_SLOPED = (12, 6)  # prices with a slope, in a bracket that gets narrower
_GAP = 1e-3  # of the cost: nearer to the best nothing is improved
_TRIED = 2  # choices that do not fit, whose parts are tried in one that does


@dataclass(frozen=True)
class Within:
    """A choice that keeps a limit.

    Attributes:
        choice: the choice; it is exact if none within the limit is cheaper.
        held: its bytes.
        bound: no choice within the limit costs less; -inf where that is not known.
    """

    choice: Choice
    held: float
    bound: float

    @property
    def gap(self) -> float:
        """By how much of its cost the choice may be dearer than the best; inf if unknown."""
        if math.isinf(self.bound):
            return math.inf
        return max(self.choice.cost - self.bound, 0.0) / self.choice.cost if self.choice.cost else 0


@dataclass(frozen=True)
class _Point:
    """A choice that was found, and for which price of a byte (None: with a slope, or repaired)."""

    states: tuple[int, ...]
    cost: float
    held: float
    price: float | None


@dataclass
class Tradeoff:
    """Choices of one problem by their time and bytes; those for one limit help with the next.

    Attributes:
        problem: costs in seconds.
        weighs: bytes of the states, of the variables that hold any.
        steps: the elimination of the problem.
    """

    problem: Problem
    weighs: Mapping[int, Table]
    steps: Elimination
    points: list[_Point] = field(default_factory=list[_Point])

    def held(self, states: Sequence[int]) -> float:
        """Return the bytes of a choice."""
        return sum(float(nbytes[states[i]]) for i, nbytes in self.weighs.items())

    def fastest(self) -> Choice:
        """Return the cheapest choice, however many bytes it holds."""
        return self._at(0.0)

    def smallest(self) -> Choice:
        """Return the choice of fewest bytes, then of least cost."""
        return self._at(_FIRST[-1])

    def sloped(self, price: float) -> Choice:
        """Return the choice for a price, later variables paying a little more."""
        return self._choice(self._ask([price], _SLOPE)[0])

    def within(self, limit: float) -> Within | None:
        """Return a cheap choice of at most ``limit`` bytes; None where there is none."""
        fast = self.fastest()
        if self.held(fast.states) <= limit:
            bound = fast.cost if self.steps.exact else -math.inf
            return Within(fast, self.held(fast.states), bound)
        if not any(p.price == _FIRST[0] for p in self.points):
            self._ask(_FIRST)
        if self.held(self.smallest().states) > limit or math.isinf(fast.cost):
            return None
        price = self._price(limit)
        if self._within(limit).gap > _GAP:
            self._layers(limit, price)
            self._repair(limit)
        return self._within(limit)

    # ----- prices ---------------------------------------------------------------------------------

    def _at(self, price: float) -> Choice:
        known = [p for p in self.points if p.price == price]
        return self._choice(known[0] if known else self._ask([price])[0])

    def _choice(self, p: _Point) -> Choice:
        return Choice(p.states, p.cost, self.steps.exact)

    def _ask(self, prices: Sequence[float], slope: float = 0.0) -> list[_Point]:
        """Return the best choices when a byte costs so much, and note them."""
        column, last = np.array(prices)[:, np.newaxis], max(len(self.problem.alone) - 1, 1)
        alone = [t[np.newaxis] for t in self.problem.alone]
        for i, nbytes in self.weighs.items():
            alone[i] = alone[i] + column * (1 + slope * i / last) * nbytes
        states = choices(self.problem, self.steps, alone, len(prices))
        held = np.zeros(len(prices))
        for i, nbytes in self.weighs.items():
            held += nbytes[states[:, i]]
        made = [
            _Point(tuple(row), float(cost), float(own), None if slope else price)
            for row, cost, own, price in zip(
                states.tolist(), self.problem.costs(states), held, prices, strict=True
            )
        ]
        self.points += made
        return made

    def _price(self, limit: float) -> float:
        """Return the price at which the limit is met, and note choices on both sides of it."""
        price = 0.0
        for _ in range(_ROUNDS):
            large, small = self._bracket(limit)
            assert large.price is not None and small.price is not None
            price = (small.cost - large.cost) / (large.held - small.held)
            if not large.price < price < small.price:
                return small.price  # rounding: the lines cross at an end
            best = small.cost + price * small.held
            low = max(large.price, price / 4)
            more = np.geomspace(low, min(small.price, price * 4), _AROUND + 2)[1:-1]
            found = self._ask([price, *more.tolist()])[0]
            if found.cost + price * found.held >= best * (1 - self._rounding()):
                return price
        return price

    def _layers(self, limit: float, price: float) -> None:
        """Note choices in which equal layers differ: near ``price``, with a slope."""
        low, high = price / (1 + _SLOPE), price
        for count in _SLOPED:
            prices = np.linspace(low, high, count).tolist()
            found = self._ask(prices, _SLOPE)
            fits = [p.held <= limit for p in found]
            at = fits.index(True) if True in fits else count - 1
            low, high = prices[max(at - 1, 0)], prices[at]

    def _bracket(self, limit: float) -> tuple[_Point, _Point]:
        """Return the last choice that is too large, as prices rise, and the first that fits."""
        lines = [p for p in self.points if p.price is not None]
        large = max((p for p in lines if p.held > limit), key=lambda p: p.price or 0.0)
        small = min((p for p in lines if p.held <= limit), key=lambda p: p.price or 0.0)
        return large, small

    def _rounding(self) -> float:
        """Return the relative error of a sum of all costs."""
        return (len(self.problem.alone) + len(self.problem.pairs)) * sys.float_info.epsilon

    # ----- within the limit -----------------------------------------------------------------------

    def _within(self, limit: float) -> Within:
        best = self._best(limit)
        bound = self._bound(limit)
        exact = best.cost <= bound + self._rounding() * best.cost
        return Within(Choice(best.states, best.cost, exact), best.held, bound)

    def _best(self, limit: float) -> _Point:
        fits = (p for p in self.points if p.held <= limit)
        return min(fits, key=lambda p: (p.cost, p.held, p.states))

    def _bound(self, limit: float) -> float:
        """Return the most that a price proves, less what its sum may be off by."""
        if not self.steps.exact:
            return -math.inf
        off = 1 - self._rounding()
        return max(
            (p.cost + p.price * p.held) * off - p.price * limit
            for p in self.points if p.price is not None
        )  # fmt: skip

    def _repair(self, limit: float) -> None:
        """Take over parts of choices that do not fit into the best that does, while they fit."""
        best = self._best(limit)
        faster = [p for p in self.points if p.held > limit and p.cost < best.cost]
        for other in sorted(faster, key=lambda p: (p.held, p.cost))[:_TRIED]:
            best = self._best(limit)
            found = patches(self.problem, self.weighs, best.states, other.states)
            states, room = list(best.states), limit - best.held
            for patch in sorted(found, key=_worth):
                if patch.cost < 0 and patch.held <= room:
                    room -= patch.held
                    for i in patch.variables:
                        states[i] = other.states[i]
            self._note(states)
        best = self._best(limit)
        self._note(singly(self.problem, self.weighs, best.states, limit - best.held))

    def _note(self, states: Sequence[int]) -> None:
        made = tuple(states)
        self.points.append(_Point(made, self.problem.cost(made), self.held(made), None))


def _worth(p: Patch) -> float:
    """Return the order in which patches are taken: the most time for a byte first."""
    return p.cost / p.held if p.held > 0 else -math.inf
