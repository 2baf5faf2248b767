"""Measured choice: who is timed, who wins, what is remembered, and what the budget allows."""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc.backends.numba_cpu import scheduler
from leptonc.backends.numba_cpu import tune as module
from leptonc.backends.numba_cpu.arena import SCRATCH, SCRATCH_ALIGN
from leptonc.backends.numba_cpu.context import ARENA
from leptonc.backends.numba_cpu.lower import choices, questions
from leptonc.backends.numba_cpu.lower.choices import Answer, Question
from leptonc.backends.numba_cpu.lower.conv_choice import ConvShape
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.lower.questions import (
    FAR,
    FARTHEST,
    NEAREST,
    SMALL,
    SMALL_LIGHT,
    Reuse,
    conv,
    reuse,
)
from leptonc.backends.numba_cpu.peak import read_all
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.check import isolate
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.region import Unit
from leptonc.runtime.caches import Caches, read_caches
from leptonc.runtime.choices import Book, Measured
from leptonc.runtime.slabs import FEWEST, HUGE, SLAB
from leptonc.show.explain import explain

pytestmark = pytest.mark.usefixtures("no_tiles")
COSTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(1.0, 1e6), min_size=1)
TIMES = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8), min_size=2
)


# --- the pure part -------------------------------------------------------------------------------


def even(times: Iterable[str], held: Mapping[str, int] | None = None) -> Question:
    """Return a question whose candidates the model thinks equally fast."""
    return Question("q", dict.fromkeys(times, 1e12), held=held or {})


@given(COSTS)
def test_contenders_are_those_near_the_best_estimate(costs: dict[str, float]) -> None:
    found = choices.contenders(Question("q", costs))
    least = min(costs.values())
    assert costs[found[0]] == least
    assert set(found) == {c for c, cost in costs.items() if cost <= choices.CLOSE * least}


@given(TIMES)
def test_the_favourite_loses_only_to_the_fastest_and_clearly(times: dict[str, list[float]]) -> None:
    favourite = next(iter(times))
    found = choices.pick(times, even(times))
    least = {c: min(t) for c, t in times.items()}
    assert found.times == least
    if not all(sorted(t)[1] <= choices.AGREE * min(t) for t in times.values()):
        assert (found.chosen, found.why) == (favourite, choices.TOO_BUSY)
    elif min(least.values()) < choices.MARGIN * least[favourite]:
        assert least[found.chosen] == min(least.values()) and found.why == choices.MEASURED
    else:
        assert (found.chosen, found.why) == (favourite, choices.MEASURED)


@given(TIMES, st.data())
def test_about_as_fast_fewest_bytes_win(times: dict[str, list[float]], draw) -> None:
    half = choices.LIGHT // 2
    held = {c: half * draw.draw(st.integers(1, 8)) for c in times}
    plain, found = choices.pick(times, even(times)), choices.pick(times, even(times, held))
    least = {c: min(t) for c, t in times.items()}
    assert (found.times, found.why) == (plain.times, plain.why)
    assert choices.pick(times, even(times, dict.fromkeys(times, 7))) == plain
    if found.why == choices.TOO_BUSY:
        assert found == plain
        return
    size = {c: max(2 * half, n) for c, n in held.items()}
    fastest, most = min(least.values()), size[plain.chosen]
    given = {c: 1 + choices.GIVEN * math.log2(most / size[c]) for c in least if size[c] < most}
    near = {plain.chosen, *(c for c, factor in given.items() if least[c] <= factor * fastest)}
    assert found.chosen in near
    assert size[found.chosen] <= min(size[c] for c in near)


@pytest.mark.parametrize(("fast", "slow", "chosen"), [(1, 0, "fast"), (4, 1, "slow")])
def test_light_weights_are_no_matter(fast: int, slow: int, chosen: str) -> None:
    held = {"fast": fast * choices.LIGHT, "slow": slow * choices.LIGHT + 1}
    times = {"fast": [1.0, 1.0], "slow": [1.08, 1.08]}
    assert choices.pick(times, even(times, held)).chosen == chosen
    heavier = replace(even(times, held), light=4 * choices.LIGHT)
    assert choices.pick(times, heavier).chosen == "fast"


@pytest.mark.parametrize(("cycles", "chosen"), [(4e6, "fast"), (3e6, "slow")])
def test_many_bytes_are_worth_some_cycles(cycles: float, chosen: str) -> None:
    """4 MiB less are worth 1.7 million cycles: here less than half of the time, or more."""
    held = {"fast": 12 << 20, "slow": 8 << 20}
    times = {"fast": [1.0, 1.0], "slow": [1.5, 1.5]}
    question = replace(even(times, held), costs=dict.fromkeys(times, cycles))
    assert choices.pick(times, question).chosen == chosen


@pytest.mark.parametrize(("distance", "chosen"), [(SMALL, "winograd4"), (2 * SMALL, "igemm")])
def test_a_small_network_takes_faster_weights_that_a_core_can_hold(
    distance: int, chosen: str
) -> None:
    shape = ConvShape(1, 32, (16, 16), 64, (3, 3), (1, 1), (1, 1), (1, 1), 1, (16, 16))
    question = conv(shape, "fp32", Reuse(distance, near=True))
    times = {c: [9.0, 9.0] for c in question.costs} | {
        "winograd4": [1.0, 1.0], "igemm": [1.1, 1.1],
    }  # fmt: skip
    assert question.held["igemm"] < question.held["winograd4"] < SMALL_LIGHT
    assert choices.pick(times, question).chosen == chosen


@pytest.mark.parametrize(
    ("tiles", "vectors", "ratio", "chosen"),
    [
        (1.0, 1.2, 1.2, "vectors"),  # nobody beside it and a little faster: not worth the risk
        (1.0, 1.4, 1.4, "tiles"),
        (1.0, 1.4, 1.0, "tiles"),  # faster than estimated
        (3.0, 3.5, 3.0, "tiles"),  # beside others; it would be three times as fast alone
        (4.0, 3.5, 3.0, "tiles"),
        (9.0, 3.5, 3.0, "vectors"),
    ],
)
def test_a_risk_is_taken_where_it_pays_alone_and_beside_others(
    tiles, vectors, ratio, chosen
) -> None:
    times = {"tiles": [tiles, tiles], "vectors": [vectors, vectors]}
    question = Question("q", {"tiles": 1.0, "vectors": ratio}, risk={"tiles": 1.3})
    found = choices.pick(times, question)
    assert (found.chosen, found.times["tiles"]) == (chosen, tiles)


def test_a_risk_is_part_of_the_estimate() -> None:
    costs = {"tiles": 1.0, "vectors": 1.2}
    assert choices.estimate(Question("q", costs)).chosen == "tiles"
    risky = Question("q", costs, close=1.1, risk={"tiles": 1.3})
    assert choices.estimate(risky).chosen == "vectors"
    assert choices.contenders(risky) == ["vectors", "tiles"]
    times = {"tiles": [1.0, 1.0]}
    assert choices.pick(times, risky).chosen == "tiles"  # there may be nothing to compare it with


def test_an_answer_that_is_no_candidate_is_not_taken() -> None:
    question = Question("q", {"a": 2.0, "b": 1.0})
    assert choices.answer(question, {"q": Answer("gone", "measured")}).chosen == "b"
    assert choices.answer(question, {"q": Answer("a", "measured")}).chosen == "a"
    assert choices.answer(Question("r", {"a": 1.0}), {}).why == choices.ONLY_WAY


def test_a_race_ends_early_when_it_is_clear_and_goes_on_while_runs_disagree() -> None:
    def fixed(*seconds: float):
        source = itertools.cycle(seconds)
        return lambda: next(source)

    clear = module.race({"a": fixed(1.0), "b": fixed(2.0)}, 1e9, lambda: 0.0)
    assert [len(t) for t in clear.values()] == [module.FEWEST] * 2
    close = module.race({"a": fixed(1.0, 1.01), "b": fixed(1.005)}, 1e9, lambda: 0.0)
    assert [len(t) for t in close.values()] == [module.USUAL] * 2
    wild = (float(2**i) for i in range(99))
    busy = module.race({"a": lambda: next(wild), "b": fixed(1.0)}, 1e9, lambda: 0.0)
    assert [len(t) for t in busy.values()] == [module.MOST] * 2
    late = module.race({"a": fixed(1.0, 1.01), "b": fixed(1.005)}, 0.0, lambda: 1.0)
    assert [len(t) for t in late.values()] == [module.FEWEST] * 2


def test_a_sweep_begins_each_counted_round_and_turns_are_reversed() -> None:
    done = list[str]()

    def run(name: str):
        return lambda: done.append(name) or 1.0

    module.race({c: run(c) for c in "abc"}, 0.0, lambda: 1.0, lambda: done.append("sweep"))
    rounds = "".join(done).split("sweep")
    assert rounds == ["abc", *itertools.islice(itertools.cycle(["abc", "cba"]), module.FEWEST)]


@pytest.mark.numba
def test_a_long_sweep_is_read_once_a_round_a_short_one_by_each_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item, swept, whole = module.questions(program(), OPTIONS)[1], list[int](), module._swept
    monkeypatch.setattr(
        module, "_swept", lambda plan, sweep: swept.append(sweep.nbytes) or whole(plan, sweep)
    )
    for nbytes in (module.SETTLING, 2 * module.SETTLING):
        sweep = np.ones(nbytes // 4, np.float32)
        assert module._prepare(OPTIONS, sweep, item.op, item.question, "igemm").run() > 0
    assert swept == [module.SETTLING, 0]
    times = module._sweeper(OPTIONS, sweep)()
    assert isinstance(times, np.ndarray) and times.shape[:2] == (1, OPTIONS.threads)
    assert (np.diff(times[0]) > 0).all()


@pytest.mark.numba
def test_each_thread_reads_its_own_scratch_before_a_race() -> None:
    """Every buffer is shared out by itself: equal areas of a thread each go to their threads."""
    net = torch.nn.Conv2d(3, 32, 3, padding=1).eval()
    fn = leptonc.optimize(leptonc.capture(net, torch.randn(1, 3, 32, 32)), "O2")
    (item,), nothing = module.questions(fn, OPTIONS), np.ones(0, np.float32)
    forced = {item.question.key: Answer("winograd4", "timed")}
    options = replace(OPTIONS, answers=forced, as_laid_out=True)
    plan = schedule(item_alone(item), ConstPool(), options)
    scratch = [b for b in plan.offsets if b.note == SCRATCH]
    assert scratch and len(plan.offsets) > len(scratch)
    assert all(b.nbytes % (OPTIONS.threads * SCRATCH_ALIGN) == 0 for b in scratch)
    read = [s.slots[:2] for s in module._swept(plan, nothing).steps if s.kernel is read_all]
    arena = {(at.offset, groups) for at, groups in read if at.space == ARENA}
    assert arena == {(at, b.nbytes // module._GROUP) for b, at in plan.offsets.items()}


# --- over a network ------------------------------------------------------------------------------


def convolutions() -> torch.nn.Module:
    """Return a net that asks one question three times, another once, and one without choice."""
    torch.manual_seed(0)
    small = [torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)]
    return torch.nn.Sequential(
        *small, torch.nn.Conv2d(64, 128, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(128, 8, 1)
    ).eval()


def program() -> Function:
    return leptonc.optimize(leptonc.capture(convolutions(), torch.randn(1, 64, 12, 12)), "O2")


OPTIONS = Options(threads=2)


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take small networks for ones whose weights leave the caches between calls."""
    monkeypatch.setattr(scheduler, "reuse", lambda fn, precision, caches: FAR)


class Timer:
    """Prepares races of given seconds; every run moves the clock."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.now, self.prepared = seconds, 0.0, list[tuple[str, str]]()

    def clock(self) -> float:
        return self.now

    def prepare(self, op: Op, question: Question, candidate: str) -> module.Race:
        self.prepared.append((question.key, candidate))

        def run() -> float:
            self.now += self.seconds[candidate]
            return self.seconds[candidate]

        return module.Race(run, {("packed", candidate): np.zeros(1)})


def forced_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every candidate of every convolution be a contender."""
    monkeypatch.setattr(choices, "CLOSE", 1e9)
    monkeypatch.setattr(questions, "conv_close", lambda: None)


SECONDS = {"igemm": 1.0, "winograd2": 2.0, "winograd4": 3.0, "late4": 4.0}


def test_questions_are_those_that_lowering_asks() -> None:
    fn = program()
    found = module.questions(fn, OPTIONS)
    plan = schedule(fn, ConstPool(), OPTIONS)
    asked = [d.question for u in plan.units for d in u.decisions]
    assert {o.question.key for o in found} == {q.key for q in asked}
    assert sum(o.count for o in found) == len(asked) == 5
    assert next(o.question for o in found if o.count == 3) in asked


@pytest.mark.parametrize("wide", [1, 1000, 1020, 1021, 2000, 40_000, 200_000])
def test_reuse_distance_is_what_a_network_reads(wide: int) -> None:
    net = torch.nn.Linear(256, wide).eval()
    fn = leptonc.optimize(leptonc.capture(net, torch.randn(1, 256)), "O2")
    found, read = reuse(fn, "fp32", Caches(1, 1 << 21)), 4 * 257 * wide
    assert NEAREST <= found.distance <= FARTHEST
    assert found.distance >= min(read, FARTHEST) and found.distance < max(2 * read, 2 * NEAREST)
    assert found.near is (read <= 1 << 21)


def test_convolutions_count_with_their_packed_weights() -> None:
    layers = [torch.nn.Conv2d(256, 256, 3, padding=1, bias=False) for _ in range(3)]
    net = torch.nn.Sequential(*layers).eval()
    fn = leptonc.optimize(leptonc.capture(net, torch.randn(1, 256, 28, 28)), "O2")
    plain, caches = 3 * 4 * 9 * 256 * 256, Caches(1, 1)
    assert reuse(fn, "strict", caches).distance == 1 << (plain - 1).bit_length()
    assert reuse(fn, "fp32", caches).distance == 1 << (plain * 36 // 9 - 1).bit_length()


@pytest.mark.parametrize(
    ("columns", "batch", "precision", "roomy"),
    [
        (30_000, 1, "fp32", True),
        (20_000, 1, "fp32", False),  # saves less than the convolution may take
        (30_000, 5, "fp32", False),  # many rows keep floats
        (20_000, 1, "strict", True),  # its weights stay as they are
    ],
)
def test_bytes_do_not_count_where_linear_layers_save_more(
    columns, batch, precision, roomy, monkeypatch
) -> None:
    monkeypatch.setattr(scheduler, "reuse", reuse)
    conv, pool = torch.nn.Conv2d(256, 256, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1)
    layers = conv, pool, torch.nn.Flatten(), torch.nn.Linear(256, columns)
    net = torch.nn.Sequential(*layers).eval()
    fn = leptonc.optimize(leptonc.capture(net, torch.randn(batch, 256, 28, 28)), "O2")
    found = reuse(fn, precision, Caches(1, 1))
    assert found.roomy is roomy
    (asked,) = (q for q in module.questions(fn, replace(OPTIONS, precision=precision))
                if q.question.key.startswith("conv"))  # fmt: skip
    assert bool(asked.question.held) is not roomy


def test_times_hold_for_as_far_as_the_caches_were_swept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forced_open(monkeypatch)
    swept = list[int]()
    whole = module._memory
    monkeypatch.setattr(module, "_memory", lambda n: swept.append(n) or whole(n))
    shelf, timer = Book(tmp_path, "m"), Timer(SECONDS)
    monkeypatch.setattr(module, "_prepare", lambda _o, _s, *rest: timer.prepare(*rest))
    for distance in (NEAREST, FARTHEST, NEAREST):
        found = Reuse(distance, near=False)
        monkeypatch.setattr(scheduler, "reuse", lambda fn, precision, caches, r=found: r)
        module.tune(program(), ConstPool(), OPTIONS, shelf, 1e9, timer.clock)
    far = min(FARTHEST, 2 * read_caches().l3)  # leaves nothing in any cache
    assert swept == [NEAREST, far]  # what is known for a distance is not timed again


def test_an_answer_holds_for_what_is_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fn = program()
    forced = {o.question.key: Answer("igemm", "timed") for o in module.questions(fn, OPTIONS)}
    near = Reuse(NEAREST, near=True)  # a unit alone reads less before it comes back
    monkeypatch.setattr(scheduler, "reuse", lambda fn, precision, caches: near)
    for op in (op for op in fn.ops if isinstance(op.kind, Unit)):
        plan = schedule(isolate(op), ConstPool(), Options(answers=forced))
        assert all(d.answer.chosen == "igemm" for u in plan.units for d in u.decisions)


def test_winners_are_lowered_and_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forced_open(monkeypatch)
    fn, timer, pool = program(), Timer(SECONDS), ConstPool()
    answers = module.tune(fn, pool, OPTIONS, Book(tmp_path, "m"), 1e9, timer.clock, timer.prepare)
    measured = [a for a in answers.values() if a.why == choices.MEASURED]
    assert [a.chosen for a in measured] == ["igemm"] * 2
    assert set(pool.spare) == {("packed", "igemm")}
    plan = schedule(fn, ConstPool(), Options(answers=answers))
    names = {s.kernel.name for s in plan.steps if hasattr(s, "kernel")}  # pyright: ignore
    assert not any("winograd" in n for n in names)
    again = Timer(SECONDS)
    second = module.tune(fn, pool, OPTIONS, Book(tmp_path, "m"), 0.0, again.clock, again.prepare)
    assert again.prepared == [] and second == answers


def test_the_budget_goes_to_the_most_worthwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forced_open(monkeypatch)
    fn, timer = program(), Timer(SECONDS)
    shelf = Book(tmp_path, "m")
    answers = module.tune(fn, ConstPool(), OPTIONS, shelf, 1.0, timer.clock, timer.prepare)
    ((asked, _),) = {(key, "") for key, _ in timer.prepared}
    assert asked == max(module.questions(fn, OPTIONS), key=lambda o: o.worth).question.key
    (late,) = [k for k, a in answers.items() if a.why == choices.NO_TIME]
    # within the process it stays with the model; another process may measure it
    pages = [module.page(key, FAR) for key in (late, asked)]
    assert shelf.get(pages[0]) == Measured(answers[late].chosen, {})
    assert [Book(tmp_path, "m").get(page) is None for page in pages] == [True, False]


def test_a_busy_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forced_open(monkeypatch)
    fn, timer = program(), Timer(SECONDS)

    def prepare(op: Op, question: Question, candidate: str) -> module.Race:
        wild = (SECONDS[candidate] * 2.0**i for i in itertools.count())
        return module.Race(lambda: next(wild))

    answers = module.tune(fn, ConstPool(), OPTIONS, Book(tmp_path, "m"), 1e9, timer.clock, prepare)
    for item in module.questions(fn, OPTIONS):
        assert answers[item.question.key].chosen == item.question.ranked[0]
    assert not (tmp_path / "choices").exists()


@given(
    st.sampled_from([NEAREST << i for i in range(8)]),
    st.lists(st.floats(1e-6, 1.0), min_size=64, max_size=64),
)
def test_a_turn_lets_near_caches_settle_and_counts_the_fastest_run(
    distance: int, times: list[float]
) -> None:
    clock = iter(times)
    turn = module._turn(lambda: next(clock), distance)
    first, second = turn(), turn()
    used = len(times) - len(list(clock))
    runs = used // 2
    assert used == 2 * runs and (first, second) == (min(times[:runs]), min(times[runs:used]))
    assert runs * distance == module.SETTLING or (runs == 1 and distance > module.SETTLING)


@pytest.mark.parametrize("open_", [True, False])
def test_helpers_settle_before_a_race_and_only_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_: bool
) -> None:
    done: list[str] = []
    monkeypatch.setattr(module.HELPERS, "settle", lambda: done.append("settled"))

    def run() -> float:
        done.append("run")
        return 1e-5

    def prepare(op: Op, question: Question, candidate: str) -> module.Race:
        return module.Race(run)

    if open_:
        forced_open(monkeypatch)
    else:
        monkeypatch.setattr(module.choices, "contenders", lambda question: ("igemm",))
    module.tune(program(), ConstPool(), OPTIONS, Book(tmp_path, "m"), 1.0, prepare=prepare)
    assert done[:1] == (["settled"] if open_ else []) and done.count("settled") == open_


def item_alone(item: module.Open) -> Function:
    """Return the program of one unit."""
    op = item.op
    return Function("conv", tuple(dict.fromkeys(op.operands)), (op,), op.results)


@pytest.mark.numba
@pytest.mark.parametrize("candidate", ["igemm", "winograd2", "winograd4"])
def test_a_candidate_runs_alone_with_the_layout_it_has_in_the_network(candidate: str) -> None:
    fn = program()
    item = module.questions(fn, OPTIONS)[1]
    assert candidate in item.question.costs
    made = module._prepare(OPTIONS, np.ones(4096, np.float32), item.op, item.question, candidate)
    assert 0.0 < made.run() < 10.0 and 0.0 < made.run() < 10.0
    forced = {item.question.key: Answer(candidate, "timed")}
    plan = schedule(item_alone(item), ConstPool(), Options(answers=forced, as_laid_out=True))
    assert len(plan.steps) == 1, "no copies between layouts"
    # the weights packed for the race serve the network: nothing is packed again
    pool = ConstPool(spare={k: np.full_like(a, 7) for k, a in made.arrays.items()})
    schedule(fn, pool, Options(answers=forced))
    weights = [k for k in made.arrays if isinstance(k, tuple) and k[0] in ("conv", "winograd")]
    assert weights and not set(weights) & set(pool.spare)
    assert any((pool.arrays[pool.known[k]] == 7).all() for k in weights)


@pytest.mark.numba
@pytest.mark.parametrize("candidate", ["igemm", "winograd2", "winograd4"])
def test_weights_of_a_race_lie_on_such_pages_as_in_the_network(candidate: str) -> None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("has no huge pages to ask for")
    item = module.questions(program(), OPTIONS)[1]
    for distance in (HUGE, 2 * HUGE):  # networks of at most HUGE bytes of weights, and of more
        sweep = np.ones(distance // 4, np.float32)
        made = module._prepare(OPTIONS, sweep, item.op, item.question, candidate)
        weights = [a for a in made.arrays.values() if a.nbytes >= FEWEST]
        assert weights and sum(a.nbytes for a in weights) < HUGE
        on_slabs = [isinstance(a.base, np.ndarray) and a.base.nbytes >= SLAB for a in weights]
        assert on_slabs == [distance > HUGE] * len(weights)


@pytest.mark.numba
def test_a_compiled_net_keeps_its_choices_and_explains_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LEPTONC_TUNE_MS", "1000000000")  # of the true clock, on a busy machine
    forced_open(monkeypatch)
    timer = Timer(SECONDS)
    monkeypatch.setattr(module, "_prepare", lambda _, sweep, *rest: timer.prepare(*rest))
    model, x = convolutions(), torch.randn(1, 64, 12, 12)
    net = leptonc.compile(model, x, threads=1, tune=True)
    text = explain(net.schedule, cycles_per_us=1000.0)
    assert "* igemm" in text and "measured 1000000.0 us" in text and "; measured" in text
    assert "igemm, the only way: 5" in text
    assert "winograd" not in {s.kernel.name for s in net.schedule.steps}  # pyright: ignore
    prepared = len(timer.prepared)
    twin = leptonc.compile(model, x, threads=1, tune=True)
    assert twin.stats["cached"] and len(timer.prepared) == prepared
    assert explain(twin.schedule, 1000.0) == text
    with torch.no_grad():
        assert torch.equal(twin(x), net(x))
    plain = leptonc.compile(model, x, threads=1, tune=False)
    assert not plain.stats["cached"] and choices.NOT_TIMED in plain.explain()


@given(st.integers(20, 25), st.sampled_from([2**20, 2**23]))
def test_a_sweep_is_no_longer_than_what_caches_hold(log: int, l3: int) -> None:
    nbytes = module._swept_bytes(2**log, Options(caches=Caches(l2=2**18, l3=l3)))
    assert nbytes == min(2**log, 2 * l3)
    sweep = module._memory(nbytes)
    assert sweep.nbytes == nbytes
    assert sweep.all()  # each page was written to: none is the common zero page
