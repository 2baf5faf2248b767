"""Structures of arguments and results as JSON: nothing is imported, stand-ins where needed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from leptonc.capture.record import Record
from leptonc.capture.shim import boxed
from leptonc.capture.structure import Reader, class_name, written
from leptonc.errors import ArtifactError


class Pair(NamedTuple):
    """A named tuple that can be found again."""

    left: Any
    right: Any


@dataclasses.dataclass
class Plain:
    """A dataclass that torch does not know."""

    a: Any
    b: Any = None


@dataclasses.dataclass
class Known:
    """A dataclass that torch knows."""

    a: Any
    b: Any = None


pytree.register_dataclass(Known, serialized_type_name="tests.Known")

trees = st.recursive(
    st.integers(0, 9),
    lambda t: st.one_of(
        st.lists(t, max_size=3),
        st.lists(t, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.integers(), t, max_size=3),
        st.dictionaries(st.text(max_size=3), t, max_size=3).map(OrderedDict),
        st.dictionaries(st.text(max_size=3), t, max_size=3).map(lambda d: defaultdict(list, d)),
        st.lists(t, max_size=3).map(lambda d: deque(d, maxlen=5)),
        st.builds(Pair, t, t),
        st.builds(Known, t, st.none() | t),
        st.builds(Record, st.just("Out"), st.dictionaries(st.text(max_size=3), t, max_size=2)),
        st.lists(st.integers(0, 3), max_size=3).map(torch.Size),
    ),
    max_leaves=8,
)


def through_text(spec: pytree.TreeSpec, reader: Reader) -> pytree.TreeSpec:
    return reader.spec(json.loads(json.dumps(written(spec))))


@given(trees)
def test_a_structure_is_read_as_it_was(tree: Any) -> None:
    spec, reader = pytree.tree_structure(tree), Reader()
    found = through_text(spec, reader)
    assert found == spec and not reader.missing
    leaves = pytree.tree_leaves(tree)
    made = pytree.tree_unflatten(leaves, found)
    assert type(made) is type(pytree.tree_unflatten(leaves, spec)) and made == tree


def lost(monkeypatch: pytest.MonkeyPatch, tree: Any) -> tuple[Any, list[str]]:
    """Return a tree written here and read where this module is not loaded."""
    data = json.loads(json.dumps(written(pytree.tree_structure(boxed(tree)))))
    monkeypatch.setitem(sys.modules, __name__, None)
    reader = Reader()
    return pytree.tree_unflatten(pytree.tree_leaves(boxed(tree)), reader.spec(data)), reader.missing


@pytest.mark.parametrize("cls", [Plain, Known])
def test_a_missing_class_becomes_a_record(monkeypatch: pytest.MonkeyPatch, cls: Any) -> None:
    found, missing = lost(monkeypatch, cls([1, 2], 3))
    assert missing == [class_name(cls)]
    assert isinstance(found, Record) and found.a == found["a"] == found[0] == [1, 2]
    assert found.b == 3 and repr(found) == f"{cls.__name__}(a=[1, 2], b=3)"
    with pytest.raises(AttributeError, match="no field 'c'; it has a, b"):
        _ = found.c


def test_absent_fields_of_a_record_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = lost(monkeypatch, Known(1))
    assert found.b is None and list(found) == ["a"]


def test_a_missing_named_tuple_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    found, missing = lost(monkeypatch, Pair(1, [2]))
    assert missing == [class_name(Pair)]
    assert found == (1, [2]) and (found.left, type(found).__name__) == (1, "Pair")


def test_a_class_of_other_fields_is_not_taken() -> None:
    other = json.loads(json.dumps(written(pytree.tree_structure(Pair(1, 2)))).replace("left", "up"))
    reader = Reader()
    assert reader.spec(other).context._fields == ("up", "right") and reader.missing


def test_dataclasses_that_torch_does_not_know_must_be_handed_over() -> None:
    tree = boxed(Plain(1, 2))
    data, leaves = written(pytree.tree_structure(tree)), pytree.tree_leaves(tree)
    found = pytree.tree_unflatten(leaves, Reader({class_name(Plain): Plain}).spec(data))
    assert found == Plain(1, 2)
    assert isinstance(pytree.tree_unflatten(leaves, Reader().spec(data)), Record)


NEVER = "antigravity"  # of the standard library; importing it opens a browser


@pytest.mark.parametrize(
    "data",
    [
        ["class", [f"{NEVER}:geohash", None, 0], []],
        ["namedtuple", [f"{NEVER}:T", []], []],
        ["dataclass", [f"{NEVER}:T", ["a"]], [None]],
        ["defaultdict", [f"{NEVER}.geohash", {"list": []}], []],
    ],
)
def test_nothing_is_imported(data: Any) -> None:
    try:
        Reader().spec(data)
    except ArtifactError:
        assert data[0] == "defaultdict"
    assert NEVER not in sys.modules


def test_modules_are_not_asked_to_load_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = ModuleType("lazy_module")
    asked: list[str] = []
    lazy.__getattr__ = lambda name: asked.append(name) or Pair  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    Reader().spec(["namedtuple", ["lazy_module:Pair", ["left", "right"]], [None, None]])
    assert not asked


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "builtins:list", "os:environ"])
def test_what_is_no_registered_container_is_not_called(name: str) -> None:
    if name == "builtins:list":
        assert Reader().spec(["class", [name, None, 0], []]).type is list
        return
    reader = Reader()
    made = pytree.tree_unflatten([1], reader.spec(["class", [name, None, 1], [None]]))
    assert isinstance(made, Record) and reader.missing == [name]


@pytest.mark.parametrize(
    "data",
    [0, "x", [], [1, 2, 3], ["tuple"], ["tuple", None, 3], ["nothing", None, []], {"a": 1},
     ["dict", {"list": ["a", "a"]}, [None, None]], ["dict", {"list": ["a"]}, []],
     ["dict", None, [None]], ["namedtuple", ["a:b", ["not a name"]], [None]],
     ["namedtuple", ["a:b", ["class"]], [None]], ["class", [3, None, 0], []],
     ["record", ["R", ["a"], []], []], ["defaultdict", ["eval", {"list": []}], []]],
    ids=str,
)  # fmt: skip
def test_junk_is_refused(data: Any) -> None:
    with pytest.raises(ArtifactError, match="not a saved"):
        Reader().spec(data)


def test_what_cannot_be_written_is_named() -> None:
    tree = defaultdict(lambda: 3, a=1)
    with pytest.raises(ArtifactError, match="defaultdict of"):
        written(pytree.tree_structure(tree))


def test_local_classes_are_found_if_handed_over() -> None:
    local = namedtuple("local", "a b")
    spec = pytree.tree_structure(local(1, 2))
    assert Reader({class_name(local): local}).spec(written(spec)) == spec
