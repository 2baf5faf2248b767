"""What is asked of a cluster: programs, how often each runs, and what their weights share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leptonc.errors import PlanError
from leptonc.ir.core import Function
from leptonc.shard.simulate.decoders import Decoder, prefill, step


@dataclass(frozen=True, eq=False)
class Phase:
    """One program of a request.

    Attributes:
        name: ``"prompt"``, ``"token"``.
        function: a program before fusion.
        times: how often it runs for a request, each run after the one before.
        growth: bytes of kept state (caches) at the end of a request, over those of ``function``.
    """

    name: str
    function: Function
    times: int = 1
    growth: float = 1.0


@dataclass(frozen=True, eq=False)
class Work:
    """Requests of one kind.

    Attributes:
        name: what is shown.
        phases: the programs that serve so many requests at once, in order.
        leader: which phase's plan says where weights live; all phases read the same ones.
        together: whether one run may serve several requests; else each request is a run.
        tokens: results of a request, for figures per token; 0 where it makes none.
    """

    name: str
    phases: Callable[[int], tuple[Phase, ...]]
    leader: int = 0
    together: bool = False
    tokens: int = 0


def single(fn: Function) -> Work:
    """Return the work of a program: a request is one run of it."""
    phase = Phase("run", fn)
    return Work(fn.name, lambda requests: (phase,))


def generation(d: Decoder, prompt: int, new: int) -> Work:
    """Return the work of reading ``prompt`` tokens and making ``new`` ones, one after another.

    A step is priced with the cache half way, of which its time is a linear function. The prompt's
    program makes the first token.

    Raises:
        PlanError: fewer than one token.
    """
    if prompt < 1 or new < 1:
        raise PlanError(f"a prompt and its answer have a token at least, got {prompt} and {new}")
    middle = prompt + max(1, new // 2)

    def phases(requests: int) -> tuple[Phase, ...]:
        first = Phase("prompt", prefill(d, requests, prompt))
        if new == 1:
            return (first,)
        more = Phase("token", step(d, requests, middle), new - 1, (prompt + new) / middle)
        return (first, more)

    return Work(f"{d.name}, {prompt} + {new} tokens", phases, int(new > 1), True, new)
