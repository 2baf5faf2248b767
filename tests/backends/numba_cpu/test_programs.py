"""Programs in the language of kernels compute what Python computes; what it lacks is told."""

from __future__ import annotations

import itertools
import linecache
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonc.backends.numba_cpu.kernels.base import Kernel, KernelError, inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.syntax import tree_of
from leptonc.backends.numba_cpu.kernels.vec import (
    argf,
    ldd,
    ldi32,
    ldi64,
    ldu8,
    std,
    stf,
    sti64,
    vload,
    vstore,
)

pytestmark = pytest.mark.numba
VARIABLES = ("a", "b", "c", "d")
NUMBERS = itertools.count()
TABLE = (3, 1, 4, 1, 5)
HEAD = """
import math
import numpy as np
"""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTONC_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


def defined(source: str, **names: object) -> FunctionType:
    """Return the function ``program`` of a source, in a file that only Python knows."""
    where, text = f"<program {next(NUMBERS)}>", HEAD + textwrap.dedent(source)
    linecache.cache[where] = (len(text), None, text.splitlines(True), where)
    space: dict[str, Any] = {"__name__": __name__, **names}
    exec(compile(text, where, "exec"), space)
    return space["program"]


def native(source: str, **names: object) -> Callable[..., list[int]]:
    """Return what runs ``program(a, b, c, d)`` of a source as a kernel and gives its four ints."""
    helper = inline_njit(defined(source, **names))

    def fn(args, tid, nt):
        a, b, c, d = helper(ldi64(args, 0), ldi64(args, 1), ldi64(args, 2), ldi64(args, 3))
        sti64(args, 0, a)
        sti64(args, 1, b)
        sti64(args, 2, c)
        sti64(args, 3, d)

    made = Kernel(fn, f"program{next(NUMBERS)}")

    def run(*values: int) -> list[int]:
        record = np.array(values, np.int64)
        made(record)
        return record.tolist()

    return run


# ----- drawn programs -----------------------------------------------------------------------------
# Numbers stay small: every assignment is cut to 16 bits, and products have two factors.
def _binary(op: str, right: st.SearchStrategy[str] | None = None) -> Any:
    def build(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        other = inner if right is None else right
        return st.builds(lambda x, y: f"({x} {op} {y})", inner, other)

    return build


ATOMS = st.sampled_from(
    [
        *VARIABLES,
        *VARIABLES,
        "TABLE[1]",
        "TABLE[-1]",
        "TABLE[a % 5]",
        "TABLE[-1 - b % 5]",
        "len(TABLE)",
    ]
) | (st.integers(-9, 99).map(lambda n: f"({n})"))
DIVISORS = st.sampled_from(["7", "(-3)", "(a * a + 1)", "(-1 - b * b)", "1"])
CONDITIONS = st.builds(
    lambda x, op, y: f"{x} {op} {y}",
    ATOMS, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), ATOMS,
) | st.builds(lambda x, y, z: f"{x} <= {y} < {z}", ATOMS, ATOMS, ATOMS) | st.builds(
    lambda x: f"{x} in TABLE", ATOMS
)  # fmt: skip
TESTS = st.recursive(
    CONDITIONS,
    lambda inner: (
        st.builds(lambda x, y: f"({x} and {y})", inner, inner)
        | st.builds(lambda x, y: f"({x} or {y})", inner, inner)
        | inner.map(lambda x: f"(not {x})")
    ),
    max_leaves=4,
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        *(_binary(op)(inner) for op in ("+", "-", "&", "|", "^")),
        _binary("*")(ATOMS),
        *(_binary(op, DIVISORS)(inner) for op in ("//", "%")),
        st.builds(lambda x, n: f"(({x} & 255) << {n})", inner, st.integers(0, 7)),
        st.builds(lambda x, n: f"({x} >> {n})", inner, st.integers(0, 9)),
        st.builds(lambda x, y, z: f"({x} if {y} else {z})", inner, TESTS, inner),
        st.builds(lambda f, x, y: f"{f}({x}, {y})", st.sampled_from(["min", "max", "mixed"]),
                  inner, inner),
        inner.map(lambda x: f"(-{x})"), inner.map(lambda x: f"(~{x})"),
        inner.map(lambda x: f"abs({x})"), TESTS.map(lambda x: f"(1 + ({x}))"),
    ),
    max_leaves=6,
)  # fmt: skip
TARGETS = st.sampled_from(VARIABLES)


def flat(parts: list[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(parts))


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _cut(x: str) -> str:
    return f"(({x}) % 65536 - 32768)"


SIMPLE = st.one_of(
    st.builds(lambda t, x: [f"{t} = {_cut(x)}"], TARGETS, EXPRESSIONS),
    st.builds(lambda t, x: [f"{t} += {x}", f"{t} %= 65536"], TARGETS, ATOMS),
    st.builds(lambda t, u, x, y: [f"{t}, {u} = {_cut(x)}, {_cut(y)}"],
              TARGETS, TARGETS, EXPRESSIONS, EXPRESSIONS),
    st.builds(lambda t, u: [f"{t}, {u} = {u}, {t}"], TARGETS, TARGETS),
    st.builds(lambda t, x: [f"{t}, _ = both({x}, {t} * {t} + 1)"], TARGETS, EXPRESSIONS),
)  # fmt: skip
LEAVE = st.builds(lambda x, how: [f"if {x}:", f"    {how}"],
                  TESTS, st.sampled_from(["break", "continue", "return a, b, c, d"]))  # fmt: skip


def _blocks(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Return conditions and loops around statements; every loop ends."""
    body = st.lists(inner, min_size=1, max_size=3).map(flat)
    looped = st.lists(inner | LEAVE, min_size=1, max_size=3).map(flat)
    limits = ["5", "-3, 6, 2", "4, -5, -3", "a % 7", "b % 5, c % 9", "0, 9, a % 3 + 1"]
    steps = st.sampled_from([*limits, "9, 0, -1 - a % 3"])
    return st.one_of(
        st.builds(lambda x, one: [f"if {x}:", *_indented(one)], TESTS, body),
        st.builds(lambda x, one, two: [f"if {x}:", *_indented(one), "else:", *_indented(two)],
                  TESTS, body, body),
        st.builds(lambda t, r, one: [f"for {t} in range({r}):", *_indented(one)],
                  TARGETS, steps, looped),
        st.builds(lambda t, one: [f"for {t} in TABLE:", *_indented(one)], TARGETS, looped),
        st.builds(lambda t, u, one: [f"for {t}, {u} in enumerate(TABLE[::-1]):", *_indented(one)],
                  TARGETS, TARGETS, looped),
        st.builds(lambda x, one: [f"while fuel > 0 and {x}:", "    fuel -= 1", *_indented(one)],
                  TESTS, looped),
    )  # fmt: skip


PROGRAMS = st.lists(st.recursive(SIMPLE, _blocks, max_leaves=8), min_size=1, max_size=4).map(
    lambda parts: "\n".join(
        [
            "def program(a, b, c, d):",
            "    fuel = 20",
            *_indented(flat(parts)),
            "    return a, b, c, d",
        ]
    )
)
SMALL = st.integers(-(2**15), 2**15)


def both(x, y):
    return x // y, x % y


def mixed(x, y):
    if x == y:
        return 7
    return y if x < y else x - 1


@settings(max_examples=40, deadline=None)
@given(PROGRAMS, st.lists(st.tuples(SMALL, SMALL, SMALL, SMALL), min_size=1, max_size=4))
def test_programs_compute_what_python_computes(source: str, values: list[tuple[int, ...]]) -> None:
    plain = defined(source, TABLE=TABLE, both=both, mixed=mixed)
    run = native(source, TABLE=TABLE, both=inline_njit(both), mixed=inline_njit(mixed))
    for given_values in values:
        assert run(*given_values) == list(plain(*given_values)), source


# ----- types --------------------------------------------------------------------------------------
TYPED = {
    "a number becomes a float in a loop": ("""
        def program(a, x):
            total = 0
            for i in range(a):
                total = total + x * i
            return total
        """, float),
    "a loop leaves a whole number in a float": ("""
        def program(a, x):
            y, i = 0.5, 2.5
            for i in range(abs(a)):
                z = y * 3 + x
                y = i if z > 2 else 7
            while y > 2:
                y = 1
            return y / 4 + i
        """, float),
    "the size of a float": ("def program(a, x):\n    return abs(x - 2) + abs(a)", float),
    "a helper tells a truth": ("""
        def pair(a, x):
            return a > 1

        def program(a, x):
            both = pair(a, x) and x > 0
            return both + (pair(a, x) or x > 0) * 2 + (not pair(a, x)) * 4
        """, int),
    "a float32 beside a float, both known": ("""
        TENTH = np.float32(0.1)

        def program(a, x):
            return (1 if 0.1 == TENTH else 2) + a
        """, None),
    "and keeps what it was where ways meet": ("""
        def program(a, x):
            y = a
            if a > 3:
                y = x
            return y / 2
        """, float),
    "whole numbers divide to floats": ("def program(a, x):\n    return a / 4 - 1 / 3", float),
    "a float32 and a whole number": ("def program(a, x):\n    return np.float32(x) * a", float),
    "floats of 32 bits": ("""
        def program(a, x):
            return np.float32(x) * np.float32(0.1) + np.float32(a)
        """, float),
    "functions of math": ("""
        def program(a, x):
            return math.sqrt(x * x) + math.floor(x) + math.exp(-1.0)
        """, float),
    "comparisons with what is no number": ("""
        def program(a, x):
            y = x - x if a < 0 else (x * 1e308 * 1e308 - x * 1e308 * 1e308)
            return (1 if y == y else 2) + (4 if y != y else 8) + (16 if not y < 1 else 32)
        """, int),
    "a truth counts as a number": ("def program(a, x):\n    return (a > 2) + (x > 0) * 5", int),
    "a variable has a type for each of its uses": ("""
        def program(a, x):
            y = 0
            for i in range(3):
                y = a + i
                a = y
            for i in range(3):
                y = x * i
                x = y
            return x + a
        """, float),
    "a name first bound in a loop": ("""
        def program(a, x):
            for i in range(abs(a) + 1):
                last = i * 2
            return last + i
        """, int),
    "tuples are joined, spread and chosen": ("""
        def pair(a, x):
            return (a, x) if a > 1 else (a - 1, x + 1)

        def program(a, x):
            both = pair(a, x) + (1, 2.5)
            return both[0] + both[1] * both[3]
        """, float),
    "what is known decides at once": ("""
        WIDE = True
        KIND = None

        def program(a, x):
            if WIDE and KIND is None:
                y = a
            else:
                y = missing
            return y if not WIDE or a < 0 else y + 1
        """, int),
}  # fmt: skip


@pytest.mark.parametrize(("source", "kind"), TYPED.values(), ids=list(TYPED))
@pytest.mark.parametrize(("a", "x"), [(5, 1.7), (-2, -0.3), (2, 1e9)])
def test_types_are_those_of_numba(source: str, kind: type | None, a: int, x: float) -> None:
    plain = defined(source)
    helper = defined(source)
    if "pair" in helper.__globals__:
        helper.__globals__["pair"] = inline_njit(helper.__globals__["pair"])
    program = inline_njit(helper)

    def fn(args, tid, nt):
        std(args, 2, 1.0 * program(ldi64(args, 0), argf(args, 1)))

    record = np.array([a, 0, 0], np.int64)
    record[1:2] = np.array([x]).view(np.int64)
    Kernel(fn, f"typed{next(NUMBERS)}")(record)
    with np.errstate(all="ignore"):
        want = plain(a, x)
    if isinstance(want, np.float32):  # numba computes with float64 where a number is no float32
        want = float(np.float32(x)) * a if "0.1" not in source else want
    if kind is None:  # Python's numpy rounds the float to float32, numba does the opposite
        want, kind = 2 + a, int
    assert record[2:].view(np.float64)[0] == kind(want)


def test_division_by_zero_gives_zero() -> None:
    run = native("def program(a, b, c, d):\n    return a // b, a % b, c // b, c % b")
    assert run(7, 0, -7, 1) == [0, 0, 0, 0]
    assert run(7, -2, -7, 1) == [-4, -1, 3, -1]


@pytest.mark.parametrize("step", [1, 2, 5, -1, -3, 0])
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (7, 0), (-4, 3), (2, 2)])
def test_a_computed_step_goes_up_or_down(start: int, stop: int, step: int) -> None:
    run = native(
        """
        def program(a, b, c, d):
            total = 0
            for i in range(a, b, c):
                total = 10 * total + i
                d = i
                if total > 10 ** 9:
                    break
            return total, b, c, d
        """.replace("10 ** 9", "1000000000")
    )
    total, last = 0, 77
    for i in range(start, stop, step) if step else ():
        total, last = 10 * total + i, i
    assert run(start, stop, step, 77) == [total, stop, step, last]


@inline_njit
def _first(numbers, x):
    return x + numbers[0]


@kernel
def known_numbers(args, tid, nt):
    """Add known tuples that are equal, of other types."""
    sti64(args, 1, _first((1,), ldi64(args, 0)))
    std(args, 2, _first((1.0,), ldi64(args, 0)))
    sti64(args, 3, _first((True,), ldi64(args, 0)))


def test_helpers_tell_known_numbers_apart_by_their_type() -> None:
    args = np.array([2**53, 0, 0, 0], np.int64)
    known_numbers(args)
    assert args[[1, 3]].tolist() == [2**53 + 1] * 2
    assert args[2:3].view(np.float64)[0] == 2.0**53  # a float64 has no bit for the 1


def test_what_is_not_reached_is_not_evaluated() -> None:
    """The address 0 would end the process."""
    run = native(
        """
        def program(a, b, c, d):
            e = ldi64(a, 0) if a != 0 else 5
            if a == 0 or ldi64(a, 0) > 3:
                e += 1
            if a != 0 and ldi64(a, 0) > 3:
                e += 10
            return e, b, c, d
        """,
        ldi64=ldi64,
    )
    assert run(0, 1, 2, 3) == [6, 1, 2, 3]


@kernel
def small_numbers(args, tid, nt):
    """Write sums of elements of few bits, and a register twice."""
    sti64(args, 2, ldu8(ldi64(args, 0), 0) + ldu8(ldi64(args, 0), 1))
    sti64(args, 3, ldi32(ldi64(args, 0), 0) * ldi32(ldi64(args, 0), 0))
    x = vload(ldi64(args, 1), 0)
    vstore(ldi64(args, 1), 0, -(x + x) * x)
    stf(args, 8, 0.1)
    std(args, 5, ldd(args, 5) + np.float32(0.1))


def test_small_numbers_and_registers() -> None:
    data, floats = np.array([200, 100, 255, 127] * 8, np.uint8), np.arange(16, dtype=np.float32)
    args = np.array([data.ctypes.data, floats.ctypes.data, 0, 0, 0, 0], np.int64)
    small_numbers(args)
    assert args[2] == 300
    assert args[3] == int(data.view(np.int32)[0]) ** 2
    np.testing.assert_array_equal(floats[:4], [0, -2, -8, -18])
    assert args[4:5].view(np.float32)[0] == np.float32(0.1)
    assert args[5:].view(np.float64)[0] == float(np.float32(0.1))


# ----- what kernels are not written in ------------------------------------------------------------
WRONG = {
    "a list": ("def program(a, b, c, d):\n    return [a], b, c, d", "kernels have no List: [a]"),
    "a try": ("def program(a, b, c, d):\n    try:\n        a = 1\n    finally:\n        b = 2",
              "kernels have no Try"),
    "no such name": ("def program(a, b, c, d):\n    return missing, b, c, d",
                     "nothing is named missing"),
    "nothing bound": ("def program(a, b, c, d):\n    if a > 1:\n        del_ = e\n    e = 1",
                      "e has no value here"),
    "two kinds": ("def program(a, b, c, d):\n    e = (1, 2)\n    if a > 1:\n        e = 3\n"
                  "    return e, b, c, d", "one thing or another"),
    "an unknown place": ("def program(a, b, c, d):\n    return (a, b)[c], b, c, d",
                         "a tuple of known numbers"),
    "too few values": ("def program(a, b, c, d):\n    a, b = (1, 2, 3)\n    return a, b, c, d",
                       "3 values for (a, b)"),
    "an operator": ("def program(a, b, c, d):\n    return a ** b, b, c, d", "no Pow"),
    "no tuple": ("def program(a, b, c, d):\n    for i in a:\n        b += i\n    return a, b, c, d",
                 "int64 is no tuple"),
    "numbers in a condition's place": ("def program(a, b, c, d):\n    return (a or b), b, c, d",
                                       "use bool()"),
    "a float's rest": ("def program(a, b, c, d):\n    return a % 0.5, b, c, d", "whole numbers"),
    "numbers too large": ("def program(a, b, c, d):\n    return a + 2 ** 63, b, c, d", "Pow"),
    "too many bits": ("def program(a, b, c, d):\n    return a + 9223372036854775808, b, c, d",
                      "more than 64 bits"),
    "wrong arguments": ("def program(a, b, c, d):\n    return both(a), b, c, d",
                        "both(x, y) is called with 1 arguments"),
    "a function of numba's": ("def program(a, b, c, d):\n    return print(a), b, c, d", "print"),
    "a step of nothing": ("def program(a, b, c, d):\n    for i in range(a, b, 0):\n        c += i\n"
                          "    return a, b, c, d", "a range has a step"),
    "a range of floats": ("def program(a, b, c, d):\n    for i in range(a / 2):\n        c += i\n"
                          "    return a, b, c, d", "float64 is no whole number"),
    "a place behind the end": ("def program(a, b, c, d):\n    return (a, b)[2], b, c, d",
                               "out of range"),
    "arguments of a table": ("def program(a, b, c, d):\n    return both(a, **TABLE)[0], b, c, d",
                             "called with 1 arguments and ['None']"),
    "an argument given twice": ("def program(a, b, c, d):\n    return both(a, b, x=c)[0], b, c, d",
                                "called with 2 arguments and ['x']"),
    "a helper of its own with too much": ("def program(a, b, c, d):\n"
                                          "    return len((a,), b), b, c, d", "argument"),
    "a register for a number": ("def program(a, b, c, d):\n"
                                "    return ldi64(vload(a, 0), 0), b, c, d", "is no int64"),
    "results of two kinds": ("def program(a, b, c, d):\n    if a > 1:\n        return a, b, c, d\n"
                             "    return 1", "tuples of one length"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "told"), WRONG.values(), ids=list(WRONG))
def test_what_kernels_lack_is_told_with_its_line(source: str, told: str) -> None:
    with pytest.raises(KernelError) as error:
        native(source, both=inline_njit(both), ldi64=ldi64, vload=vload, TABLE={})(1, 2, 3, 4)
    assert told in str(error.value)
    assert "program: " in str(error.value)
    assert "at <program " in str(error.value)


def test_a_helper_that_calls_itself_is_refused() -> None:
    source = "def program(a, b, c, d):\n    return again(a, b, c, d)"
    names: dict[str, Any] = {}
    plain = defined(source, **names)
    plain.__globals__["again"] = inline_njit(plain)
    made = plain.__globals__["again"]

    def fn(args, tid, nt):
        made(args, args, args, args)

    with pytest.raises(KernelError, match="calls itself"):
        Kernel(fn, "again")(np.zeros(4, np.int64))


def test_a_changed_file_is_found_out() -> None:
    plain = defined("def program(a, b, c, d):\n    return a + b, b, c, d")
    assert tree_of(plain).name == "program"
    where = plain.__code__.co_filename
    old = linecache.cache[where]
    changed = [line.replace("a + b", "a - b") for line in old[2]]
    linecache.cache[where] = (old[0], None, changed, where)
    with pytest.raises(KernelError, match="has not changed since it was imported"):
        tree_of(plain)
    linecache.cache[where] = old
    assert tree_of(plain).name == "program"


def test_functions_without_a_source_are_refused() -> None:
    with pytest.raises(KernelError, match="does not hold its source"):
        tree_of(eval("lambda args, tid, nt: None"))
